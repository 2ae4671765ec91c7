"""What a step must know of devices: sums over them, and random draws that do not depend on how rows are spread.

No axis is bound under jit and sharded jit, where arrays are global, so these are then the identity; under pmap they are
the collective or the slice that gives the same numbers. The axis that rows are spread over is called "data"; `over` names another.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.core.types import InputError

try:  # JAX has no public list of the names that `pmap`, `shard_map` and `vmap` bind
    from jax._src.core import unsafe_get_axis_names as _bound_names
except ImportError:  # then a name that nobody mentioned goes unnoticed

    def _bound_names() -> list[Any]:
        return []


AXIS = "data"
Array = jax.Array
_named: contextvars.ContextVar[tuple[Any, ...] | None] = contextvars.ContextVar("named", default=None)


@contextlib.contextmanager
def over(*names: Any) -> Iterator[None]:
    """Say which mesh or mapped axes the rows are spread over, for what is traced in this context.

    Statistics, sums and random draws are then those of the rows of all of them, as they are for `"data"` without it. With no name,
    every part stands for itself: each member of an ensemble under `vmap(..., axis_name=...)`, say. What `jax.jit` has traced before
    stays as it was.

    Args:
        names: of the axes, in the order in which rows are divided.

    """
    token = _named.set(names)
    try:
        yield
    finally:
        _named.reset(token)


def axes() -> tuple[Any, ...]:
    """Names of the bound axes that rows are spread over; none where arrays are global.

    Raises:
        InputError: an axis is bound that is neither `"data"` nor named with `over`, so that sums would miss the rows along it.

    """
    named = _named.get()
    found = tuple(name for name in ((AXIS,) if named is None else named) if _is_bound(name))
    unknown = [] if named is not None else [name for name in _bound_names() if name != AXIS]
    if unknown:
        raise InputError(
            f"axis {unknown[0]!r}: rows are expected along {AXIS!r} alone; rename it, or trace inside "
            f"jaxcnn.core.collectives.over({unknown[0]!r}) to include its rows, over() to leave each part by itself"
        )
    return found


def bound() -> bool:
    """Whether code is being traced for one device among several."""
    return bool(axes())


def _is_bound(name: Any) -> bool:
    try:
        lax.axis_size(name)
    except NameError:
        return False
    return True


def all_sum(tree: Any) -> Any:
    """Sum every leaf over the devices."""
    return lax.psum(tree, axes()) if bound() else tree


def all_mean(tree: Any) -> Any:
    """Average every leaf over the devices, its dtype kept."""
    return jax.tree.map(lambda x: lax.pmean(x, axes()).astype(x.dtype), tree) if bound() else tree


def leader() -> Array | int:
    """1 on the first device and 0 on the others: for what all of them know and only one may count."""
    return (lax.axis_index(axes()) == 0).astype(jnp.int32) if bound() else 1


def draw(sampler: Callable[[Array, tuple[int, ...]], Array], key: Array, shape: tuple[int, ...]) -> Array:
    """`sampler(key, shape)`, its rows those of the global batch: the same numbers on any number of devices."""
    if not bound():
        return sampler(key, shape)
    whole = sampler(key, (lax.axis_size(axes()) * shape[0], *shape[1:]))
    return lax.dynamic_slice_in_dim(whole, lax.axis_index(axes()) * shape[0], shape[0])


def row_keys(key: Array, n: int) -> Array:
    """One key for each of this device's `n` rows, a function of the row's place in the global batch."""
    first = lax.axis_index(axes()) * n if bound() else 0
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(n))


def previous(tree: Any) -> Any:
    """Each row's predecessor in the global batch, the last row for the first: the same partners on any number of devices."""

    def one(x: Array) -> Array:
        if not bound():
            return jnp.roll(x, 1, 0)
        n = lax.axis_size(axes())
        last = lax.ppermute(x[-1:], axes(), [(i, (i + 1) % n) for i in range(n)])
        return jnp.concatenate([last, x[:-1]])

    return jax.tree.map(one, tree)
