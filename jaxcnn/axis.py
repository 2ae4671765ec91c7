"""What a step must know of devices: sums over them, and random draws that do not depend on how rows are spread.

No axis is bound under jit and sharded jit, where arrays are global, so these are then the identity; under pmap they are
the collective or the slice that gives the same numbers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

AXIS = "data"
Array = jax.Array


def bound() -> bool:
    """Whether code is being traced for one device among several."""
    try:
        lax.axis_size(AXIS)
    except NameError:
        return False
    return True


def all_sum(tree: Any) -> Any:
    """Sum every leaf over the devices."""
    return lax.psum(tree, AXIS) if bound() else tree


def all_mean(tree: Any) -> Any:
    """Average every leaf over the devices, its dtype kept."""
    return jax.tree.map(lambda x: lax.pmean(x, AXIS).astype(x.dtype), tree) if bound() else tree


def leader() -> Array | int:
    """1 on the first device and 0 on the others: for what all of them know and only one may count."""
    return (lax.axis_index(AXIS) == 0).astype(jnp.int32) if bound() else 1


def draw(sampler: Callable[[Array, tuple[int, ...]], Array], key: Array, shape: tuple[int, ...]) -> Array:
    """`sampler(key, shape)`, its rows those of the global batch: the same numbers on any number of devices."""
    if not bound():
        return sampler(key, shape)
    whole = sampler(key, (lax.axis_size(AXIS) * shape[0], *shape[1:]))
    return lax.dynamic_slice_in_dim(whole, lax.axis_index(AXIS) * shape[0], shape[0])


def row_keys(key: Array, n: int) -> Array:
    """One key for each of this device's `n` rows, a function of the row's place in the global batch."""
    first = lax.axis_index(AXIS) * n if bound() else 0
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(n))


def previous(tree: Any) -> Any:
    """Each row's predecessor in the global batch, the last row for the first: the same partners on any number of devices."""

    def one(x: Array) -> Array:
        if not bound():
            return jnp.roll(x, 1, 0)
        n = lax.axis_size(AXIS)
        last = lax.ppermute(x[-1:], AXIS, [(i, (i + 1) % n) for i in range(n)])
        return jnp.concatenate([last, x[:-1]])

    return jax.tree.map(one, tree)
