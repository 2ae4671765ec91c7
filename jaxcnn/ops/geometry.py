"""Strides, windows and padding as plain tuples, and the two steps that all CPU forms share: `taps` and `col2im`."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.core.types import InputError, is_integer

Array = jax.Array
Tree = Any
CHUNK_BYTES = 4 << 20  # of intermediate values that stay in the cache between being written and read
PATCH_BYTES = 3 << 20  # of patches, likewise
TYPICAL = 32  # stands for rows and pixels whose number is symbolic
Pads = tuple[tuple[int, int], ...]
FLOATS = tuple(jnp.dtype(name) for name in ("float16", "bfloat16", "float32", "float64"))


class Geometry(NamedTuple):
    """The static part of a convolution or pooling; hashable, so it can key a compiled program."""

    strides: tuple[int, ...]
    padding: Pads
    dilation: tuple[int, ...]
    groups: int = 1


def is_known(*sizes: Any) -> bool:
    """Whether these are numbers, not dimensions of `jax.export.symbolic_shape`."""
    return all(isinstance(n, int | np.integer) for n in sizes)


def typical(sizes: Sequence[Any]) -> tuple[int, ...]:
    """Sizes to choose by: a number in the place of each dimension that is symbolic."""
    return tuple(n if is_known(n) else TYPICAL for n in sizes)


def check_floating(name: str, **arrays: Any) -> None:
    """Refuse arrays that are not real floating point with 16 to 64 bits; integers would be rounded.

    Raises:
        InputError: another dtype, or arrays of two dtypes.

    """
    kinds = {
        kind: jax.dtypes.canonicalize_dtype(x.dtype) for kind, x in arrays.items()
    }  # float64 from NumPy is float32 here
    for kind, dtype in kinds.items():
        if dtype not in FLOATS:
            fix = "" if jnp.issubdtype(dtype, jnp.complexfloating) else "; use x.astype('float32')"
            raise InputError(
                f"{name}: {kind} {tuple(arrays[kind].shape)} is {dtype}: must be floating point, 16 to 64 bits{fix}"
            )
    if len(set(kinds.values())) > 1:
        raise InputError(
            f"{name}: {' and '.join(f'{kind} is {dtype}' for kind, dtype in kinds.items())}: "
            "cast one, they must be the same"
        )


def alone(values: tuple, axis: int, other: Any) -> tuple:
    """Return the values with all but one of them replaced."""
    return tuple(v if i == axis else other for i, v in enumerate(values))


def one_axis(g: Geometry, axis: int) -> Geometry:
    """Return what the geometry does along one axis, and nothing along the others."""
    return Geometry(alone(g.strides, axis, 1), alone(g.padding, axis, (0, 0)), alone(g.dilation, axis, 1))


def extents(window: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """Elements from the first to the last tap of a window."""
    return tuple((k - 1) * d + 1 for k, d in zip(window, dilation, strict=True))


def out_sizes(sizes: Sequence[int], window: Sequence[int], g: Geometry) -> tuple[int, ...]:
    """Return the number of places where the window fits.

    A symbolic size is written as that of a slice with these strides, so that such sizes can be added.
    """
    reach = extents(window, g.dilation)
    return tuple((n + sum(p) - e + s) // s for n, p, e, s in zip(sizes, g.padding, reach, g.strides, strict=True))


def as_forward(dy_shape: tuple[int, ...], w_shape: tuple[int, ...], g: Geometry, shape: tuple[int, ...]) -> Pads:
    """Return the padding with which a convolution of the dilated `dy` and the flipped kernel is the input gradient."""
    reach = [e - 1 for e in extents(w_shape[: len(g.strides)], g.dilation)]
    places = zip(reach, g.padding, shape[1:-1], dy_shape[1:-1], g.strides, strict=True)
    return tuple((r - low, n - (o - 1) * s - 1 + low) for r, (low, _), n, o, s in places)


def resolve_padding(
    padding: str | int | Sequence[tuple[int, int]], sizes: Sequence[int], extent: Sequence[int], strides: Sequence[int]
) -> Pads:
    """Return `(low, high)` per axis; `"SAME"` puts the odd element at the end, as XLA and TensorFlow do."""
    if padding == "SAME":
        pads = tuple(map(_same, sizes, extent, strides))
    elif padding == "VALID":
        pads = ((0, 0),) * len(sizes)
    elif is_integer(padding):
        pads = ((int(padding), int(padding)),) * len(sizes)
    else:
        pads = _pairs(padding, len(sizes))
    if any(n < 0 for pair in pads for n in pair if is_known(n)):
        raise InputError(f"padding={padding}: must not be negative; crop the image instead")
    if any(n + sum(p) < k for n, p, k in zip(sizes, pads, extent, strict=True) if is_known(n, *p)):
        raise InputError(f"spatial size {tuple(sizes)} with padding={padding}: smaller than the window {tuple(extent)}")
    return pads


def _same(n: Any, extent: int, stride: int) -> tuple[Any, Any]:
    total = (-(-n // stride) - 1) * stride + extent - n
    if is_known(total):
        return max(total, 0) // 2, max(total, 0) - max(total, 0) // 2
    return lax.padtype_to_pads((n,), (extent,), (stride,), "SAME")[0]


def settle_padding(x: Array, g: Geometry, fill: float = 0.0) -> tuple[Array, Geometry]:
    """Pad `[B, *sizes, C]` here where the padding is symbolic, as it is for strides and sizes that are."""
    if is_known(*(n for pair in g.padding for n in pair)):
        return x, g
    widths = ((0, 0, 0), *((low, high, 0) for low, high in g.padding), (0, 0, 0))
    return lax.pad(x, jnp.asarray(fill, x.dtype), widths), g._replace(padding=((0, 0),) * len(g.padding))


def _pairs(padding: str | Sequence[tuple[int, int]], rank: int) -> Pads:
    try:
        pads = tuple((low, high) for low, high in padding)
    except (TypeError, ValueError):
        pads = ()
    if len(pads) != rank or not all(is_integer(n) for pair in pads for n in pair):
        raise InputError(f'padding={padding!r}: must be "SAME", "VALID", a number, or {rank} (low, high) pairs')
    return tuple((int(low), int(high)) for low, high in pads)


def taps(x: Array, window: Sequence[int], g: Geometry, fill: float = 0.0) -> Iterator[Array]:
    """What each tap of the window sees, in row-major order: `[B, *out, C]` each, from `[B, *sizes, C]`."""
    out = out_sizes(x.shape[1:-1], window, g)
    if any(map(any, g.padding)):
        x = lax.pad(x, jnp.asarray(fill, x.dtype), ((0, 0, 0), *((low, high, 0) for low, high in g.padding), (0, 0, 0)))
    for tap in np.ndindex(*window):
        first = [i * d for i, d in zip(tap, g.dilation, strict=True)]
        last = [i + (o - 1) * s + 1 for i, o, s in zip(first, out, g.strides, strict=True)]
        yield lax.slice(x, (0, *first, 0), (x.shape[0], *last, x.shape[-1]), (1, *g.strides, 1))


def im2col(x: Array, window: Sequence[int], g: Geometry) -> list[Array]:
    """What `taps` gives, all places of a tap side by side: `[C, B, *out]` each, from `[B, *sizes, C]`."""
    return jax.vmap(lambda plane: [seen[..., 0] for seen in taps(plane[..., None], window, g)])(jnp.moveaxis(x, -1, 0))


def col2im(part: Callable[[int], Array], window: Sequence[int], g: Geometry, sizes: Sequence[int]) -> Array:
    """Transpose of `taps`: bring back what each tap gives and add it up, one phase of the stride at a time.

    Args:
        part: number of a tap, in row-major order, to `[B, *out, C]`.
        window: taps an axis.
        g: strides, padding, dilation.
        sizes: of the result, `[B, *sizes, C]`.

    """
    cells = [-(-(n + low) // s) for n, (low, _), s in zip(sizes, g.padding, g.strides, strict=True)]  # of one phase
    offsets = [[i * d for i, d in zip(tap, g.dilation, strict=True)] for tap in np.ndindex(*window)]
    shape = jax.eval_shape(lambda: part(0))

    def moved(n: int) -> Array:
        lows = [i // s for i, s in zip(offsets[n], g.strides, strict=True)]
        widths = [(low, c - low - o, 0) for low, c, o in zip(lows, cells, shape.shape[1:-1], strict=True)]
        return lax.pad(part(n), jnp.zeros((), shape.dtype), ((0, 0, 0), *widths, (0, 0, 0)))

    phases = []
    for phase in np.ndindex(*g.strides):
        mine = [
            n for n, o in enumerate(offsets) if all(i % s == p for i, s, p in zip(o, g.strides, phase, strict=True))
        ]
        phases.append(
            functools.reduce(jnp.add, map(moved, mine))
            if mine
            else jnp.zeros((shape.shape[0], *cells, shape.shape[-1]), shape.dtype)
        )
    full = _interleave(phases, g.strides)
    widths = [(-low, n + low - f, 0) for n, (low, _), f in zip(sizes, g.padding, full.shape[1:-1], strict=True)]
    return lax.pad(full, jnp.zeros((), shape.dtype), ((0, 0, 0), *widths, (0, 0, 0)))


def _interleave(phases: list[Array], strides: tuple[int, ...], axis: int = 1) -> Array:
    """Interleave phases `[B, *cells, C]`, in row-major order, to `[B, *(cells x strides), C]`.

    Done axis by axis, this takes a quarter of the time of a transpose.
    """
    if not strides:
        return phases[0]
    each = len(phases) // strides[0]
    parts = [_interleave(phases[i : i + each], strides[1:], axis + 1) for i in range(0, len(phases), each)]
    if len(parts) == 1:
        return parts[0]
    y = jnp.stack(parts, axis + 1)
    return y.reshape(*y.shape[:axis], -1, *y.shape[axis + 2 :])


def in_cache(places: Sequence[Any], taps_in: int) -> int:
    """How many images have patches, `taps_in` float32 at each of their places, that stay in the cache."""
    return -(-PATCH_BYTES // (4 * math.prod(typical(places)) * taps_in))


def _chunk(rows: Any, least: int) -> Any:
    """Smallest divisor of `rows` that is at least `least`; of a symbolic number there are two, 1 and itself."""
    if not is_known(rows):
        return 1 if least == 1 else rows
    return next(n for n in range(1, rows + 1) if rows % n == 0 and n >= min(least, rows))


def in_chunks(function: Callable[[Tree], Tree], rows: Tree, least: int) -> Tree:
    """`function(rows)`, which treats each row alone, on chunks of at least `least` rows one after another."""
    count = jax.tree.leaves(rows)[0].shape[0]
    size = _chunk(count, least)
    if size == count:
        return function(rows)
    return jax.tree.map(lambda y: y.reshape(count, *y.shape[2:]), lax.map(function, _cut(rows, size)))


def summed_in_chunks(product: Callable[[Tree, Tree], Array], a: Tree, b: Tree, least: int) -> Array:
    """`product(a, b)`, linear in each, as the sum over chunks of at least `least` rows of both."""
    count = jax.tree.leaves(a)[0].shape[0]
    size = _chunk(count, least)
    if size == count:
        return product(a, b)
    zero = jax.eval_shape(product, *jax.tree.map(lambda z: z[:size], (a, b)))
    return lax.scan(
        lambda total, part: (total + product(*part), None), jnp.zeros(zero.shape, zero.dtype), _cut((a, b), size)
    )[0]


def _cut(rows: Tree, size: int) -> Tree:
    return jax.tree.map(lambda z: z.reshape(z.shape[0] // size, size, *z.shape[1:]), rows)
