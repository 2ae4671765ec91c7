"""Sums over devices, and random draws that do not depend on how the rows are divided among devices.

Under jit and sharded jit, arrays are global and no axis is bound, so each function is the identity. Under pmap, each is
the collective or the slice that gives the same numbers. Rows lie along the axis "data"; `over` names a different axis.
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
except ImportError:  # an axis with an unexpected name then goes unnoticed

    def _bound_names() -> list[Any]:
        return []


AXIS = "data"
Array = jax.Array
_named: contextvars.ContextVar[tuple[Any, ...] | None] = contextvars.ContextVar("named", default=None)
_part: contextvars.ContextVar[tuple[Any, int] | None] = contextvars.ContextVar("part", default=None)


@contextlib.contextmanager
def over(*names: Any) -> Iterator[None]:
    """Name the mesh axes or mapped axes that the rows are divided over, for everything traced in this context.

    Statistics, sums and random draws then cover the rows along all these axes; without this context they cover the
    axis `"data"`. With no names, each part is on its own, such as one member of an ensemble under
    `vmap(..., axis_name=...)`. Functions that `jax.jit` has already traced do not change.

    Args:
        *names: the axes, in the order in which rows are divided.

    """
    token = _named.set(names)
    try:
        yield
    finally:
        _named.reset(token)


@contextlib.contextmanager
def part(index: Any, count: int) -> Iterator[None]:
    """Trace for one part of a batch by itself, such as a row, with the random draws that it has in the whole batch.

    Args:
        index: number of the part, which may be traced.
        count: number of parts, all of the same size.

    """
    token = _part.set((index, count))
    try:
        with over():
            yield
    finally:
        _part.reset(token)


def axes() -> tuple[Any, ...]:
    """Return the names of the bound axes that rows are divided over; none where arrays are global.

    Raises:
        InputError: an axis is bound that is neither `"data"` nor named with `over`: sums would miss the rows along it.

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
    """Return whether the code is being traced for one device among several."""
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
    """Average every leaf over the devices; dtypes are kept."""
    return jax.tree.map(lambda x: lax.pmean(x, axes()).astype(x.dtype), tree) if bound() else tree


def leader() -> Array | int:
    """Return 1 on the first device and 0 on the others, for values that every device has and only one may count."""
    return (lax.axis_index(axes()) == 0).astype(jnp.int32) if bound() else 1


def draw(sampler: Callable[[Array, tuple[int, ...]], Array], key: Array, shape: tuple[int, ...]) -> Array:
    """Draw `sampler(key, shape)` for the rows of the global batch: the same numbers on any number of devices.

    Args:
        sampler: `(key, shape) -> array`, such as `jax.random.uniform`.
        key: the same on every device.
        shape: of this device's part; the first axis is the row.

    """
    place = _place()
    if place is None:
        return sampler(key, shape)
    index, count = place
    return lax.dynamic_slice_in_dim(sampler(key, (count * shape[0], *shape[1:])), index * shape[0], shape[0])


def row_keys(key: Array, n: int) -> Array:
    """Return a key for each of this device's `n` rows; it depends on the row's position in the global batch."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(row_numbers(n))


def row_numbers(n: int) -> Array:
    """Return the positions of this device's `n` rows in the global batch, `[n]`."""
    place = _place()
    return (0 if place is None else place[0] * n) + jnp.arange(n)


def row_count(n: int) -> int:
    """Return the number of rows of the global batch, of which this device has `n`."""
    place = _place()
    return n if place is None else place[1] * n


def _place() -> tuple[Any, int] | None:
    """Return the number of the part of the batch that is being traced, and of how many; None for the whole batch."""
    if bound():
        return lax.axis_index(axes()), lax.axis_size(axes())
    return _part.get()


def all_rows(tree: Any) -> Any:
    """Return the rows of the global batch, on every device: leaf by leaf `[B, ...]` to `[devices * B, ...]`.

    Gradients are exact: what the losses of other devices say about a row reaches the device that has the row.
    """
    return lax.all_gather(tree, axes(), tiled=True) if bound() else tree


def previous(tree: Any) -> Any:
    """Return each row's predecessor in the global batch, on any number of devices; the first row gets the last."""

    def one(x: Array) -> Array:
        if not bound():
            return jnp.roll(x, 1, 0)
        n = lax.axis_size(axes())
        last = lax.ppermute(x[-1:], axes(), [(i, (i + 1) % n) for i in range(n)])
        return jnp.concatenate([last, x[:-1]])

    return jax.tree.map(one, tree)
