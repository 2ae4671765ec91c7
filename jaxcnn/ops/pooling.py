"""Pooling of any rank: XLA's windows on GPU and TPU, strided slices on a CPU (the gradient is up to 40 times faster there)."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad

from jaxcnn.core.types import InputError
from jaxcnn.ops.geometry import Geometry, alone, check_floating, col2im, one_axis, resolve_padding, taps, to_tuple
from jaxcnn.ops.native import is_native, once
from jaxcnn.ops.primitives import bind, fold_rows, linear, primitive, zero_tangent

Array = jax.Array
Window = tuple[tuple[int, ...], Geometry]
Choices = Sequence[Array]


def max_pool(
    x: Array,
    window: int | Sequence[int] = 2,
    *,
    strides: int | Sequence[int] | None = None,
    padding: str | int | Sequence[tuple[int, int]] = "VALID",
    ceil: bool = False,
) -> Array:
    """Maximum over windows. Where values tie, the first one in row-major order receives the whole gradient.

    Args:
        x: `[B, *spatial, C]`, floating point.
        window: size of the window, one number or one an axis.
        strides: distance between windows; by default the window's size.
        padding: `"VALID"`, `"SAME"`, a number, or `(low, high)` pairs; padding never wins.
        ceil: let the last window hang over the end if it begins inside, as PyTorch's `ceil_mode`.

    Returns:
        `[B, *out, C]`.

    Raises:
        InputError: a window, stride or padding that is out of range or does not fit the image, or a dtype that is not floating point.

    """
    w = checked_window(x, window, strides, padding, ceil)
    return window_max(x, w) if is_native() else bind(MAX, x, window=w)


def avg_pool(
    x: Array,
    window: int | Sequence[int] = 2,
    *,
    strides: int | Sequence[int] | None = None,
    padding: str | int | Sequence[tuple[int, int]] = "VALID",
) -> Array:
    """Mean over windows; padded zeros count, as in Flax and in PyTorch's default. Arguments as for `max_pool`."""
    size, g = checked_window(x, window, strides, padding)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if _side_by_side((size, g)) and not is_native():
        whole = (slice(n - n % k) for n, k in zip(x.shape[1:-1], size, strict=True))
        total = bind(TILE_SUMS, wide[:, *whole], window=size)
    else:
        total = _sum(wide, (size, g))
    return (total / math.prod(size)).astype(x.dtype)


def _sum(x: Array, w: Window) -> Array:
    return functools.reduce(jnp.add, taps(x, *w))


def adaptive_avg_pool(x: Array, sizes: Sequence[int]) -> Array:
    """Mean over as many windows an axis as asked for, of equal size or nearly, as PyTorch's layer of this name.

    Args:
        x: `[B, *spatial, C]`, floating point.
        sizes: windows along each spatial axis; from place `i * n // size` to place `ceil((i + 1) * n / size)`.

    Returns:
        `[B, *sizes, C]`.

    Raises:
        InputError: sizes that are no positive numbers, or a dtype that is not floating point.

    """
    check_floating("adaptive_avg_pool", image=x)
    for axis, size in enumerate(to_tuple(sizes, x.ndim - 2, "sizes"), 1):
        n = x.shape[axis]
        if n == size:
            continue
        first, last = np.arange(size) * n // size, -(-(np.arange(size) + 1) * n // size)
        inside = (np.arange(n) >= first[:, None]) & (np.arange(n) < last[:, None])
        shares = jnp.asarray(inside / inside.sum(1, keepdims=True), x.dtype)  # [size, n]
        x = jnp.moveaxis(jnp.tensordot(x, shares, [[axis], [1]], precision=lax.Precision.HIGHEST), -1, axis)
    return x


def global_avg_pool(x: Array, mask: Array | None = None) -> Array:
    """Mean over all spatial axes: `[B, *spatial, C]` to `[B, C]` (Lin et al., 2013, arXiv:1312.4400).

    Args:
        x: `[B, *spatial, C]`, floating point.
        mask: which places count, 1 or 0, for the leading axes of `x`: `[B]`, `[B, T]`, `[B, H, W]`, ...; None for all. A row without
            any place becomes zeros.

    Raises:
        InputError: a mask of another shape, or a dtype that is not floating point.

    """
    check_floating("global_avg_pool", image=x)
    axes = tuple(range(1, x.ndim - 1))
    if mask is None:
        return x.mean(axes)
    places = jnp.broadcast_to(align_mask(mask, x) != 0, (*x.shape[:-1], 1))
    wide = jnp.where(places, x, 0).astype(jnp.promote_types(x.dtype, jnp.float32))
    return (wide.sum(axes) / jnp.maximum(places.sum(axes), 1)).astype(x.dtype)


def global_max_pool(x: Array, mask: Array | None = None) -> Array:
    """Maximum over all spatial axes: `[B, *spatial, C]` to `[B, C]`; where values tie, the first one receives the gradient.

    Args:
        x: `[B, *spatial, C]`, floating point.
        mask: which places count, as in `global_avg_pool`.

    Raises:
        InputError: as in `global_avg_pool`.

    """
    check_floating("global_max_pool", image=x)
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    if mask is None:
        return first_max(flat, 1)
    places = jnp.broadcast_to(align_mask(mask, x) != 0, (*x.shape[:-1], 1)).reshape(*flat.shape[:2], 1)
    return jnp.where(places.any(1), first_max(jnp.where(places, flat, -jnp.inf), 1), 0)


def align_mask(mask: Array, x: Array) -> Array:
    """Append axes of one element to a mask of the leading axes of `x` until it broadcasts against it.

    Args:
        mask: `[B]`, `[B, T]`, `[B, H, W]`, ...: the first axes of `x`, or all but its channels, perhaps with axes of one element
            behind them.
        x: `[B, *spatial, C]`.

    Raises:
        InputError: another shape.

    """
    shape, lead = tuple(mask.shape), tuple(mask.shape)
    while len(lead) > 1 and lead[-1] == 1 and (len(lead) == x.ndim or lead != tuple(x.shape[: len(lead)])):
        lead = lead[:-1]
    if len(shape) > x.ndim or not 1 <= len(lead) < x.ndim or lead != tuple(x.shape[: len(lead)]):
        raise InputError(
            f"mask shape {shape}: must be the leading axes of {tuple(x.shape)}, from {tuple(x.shape[:1])} to {tuple(x.shape[:-1])}"
        )
    return mask.reshape(*lead, *(1,) * (x.ndim - len(lead)))


def first_max(x: Array, axis: int) -> Array:
    """Maximum along an axis, whose gradient goes to its index.

    JAX's own goes to what equals the maximum, and is no number where XLA computes an element a second time and rounds it otherwise.
    """
    axis %= x.ndim
    chosen = lax.argmax(lax.stop_gradient(x), axis, jnp.int32)
    mask = lax.broadcasted_iota(jnp.int32, x.shape, axis) == jnp.expand_dims(chosen, axis)
    return jnp.where(mask, x, 0).sum(axis)


def checked_window(x: Any, window: Any, strides: Any = None, padding: Any = "VALID", ceil: bool = False) -> Window:
    """Check what `max_pool` is given, and resolve it for an image of this shape."""
    rank = x.ndim - 2
    if rank < 1:
        raise InputError(f"pool: image {x.shape} must have spatial axes, [batch, *spatial, channels]")
    check_floating("pool", image=x)
    size = to_tuple(window, rank, "window")
    steps = size if strides is None else to_tuple(strides, rank, "strides")
    # a window that hangs over by less than a stride has a place to begin
    fits = tuple(n + s - 1 if ceil else n for n, s in zip(x.shape[1:-1], steps, strict=True))
    pads = resolve_padding(padding, fits, size, steps)
    if ceil:
        pads = tuple(_hanging(n, k, s, p) for n, k, s, p in zip(x.shape[1:-1], size, steps, pads, strict=True))
    return size, Geometry(steps, pads, (1,) * rank)


def _hanging(n: int, window: int, stride: int, pads: tuple[int, int]) -> tuple[int, int]:
    """Padding with which the last window may hang over the end, if it begins before it."""
    low, high = pads
    rest = n + low + high - window
    starts = range(0, rest + stride, stride)  # of all windows, the last one hanging over where the stride does not fit
    last = starts[-1] if starts[-1] < n + low else starts[-2]
    return low, max(last - rest + high, 0)


def window_max(x: Array, w: Window) -> Array:
    """Maximum, as XLA has it."""
    size, g = w
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *size, 1), (1, *g.strides, 1), ((0, 0), *g.padding, (0, 0)))


def _side_by_side(w: Window) -> bool:
    size, g = w
    return size == g.strides and not any(map(any, g.padding))


def _stages(w: Window) -> list[Window]:
    """Windows to reduce over one after another: all axes together where windows do not overlap, else the last axis first."""
    size, g = w
    if all(k <= s for k, s in zip(size, g.strides, strict=True)):
        return [w]
    return [(alone(size, axis, 1), one_axis(g, axis)) for axis in reversed(range(len(size)))]


def slice_max(x: Array, w: Window) -> tuple[Array, Choices]:
    """Maximum and, for each stage, the tap that it came from; the first one where values tie."""
    choices = []
    for size, g in _stages(w):
        dtype = jnp.uint8 if math.prod(size) < 256 else jnp.uint16
        best, *rest = taps(x, size, g, -jnp.inf)
        choice = jnp.zeros(best.shape, dtype)
        for n, piece in enumerate(rest, 1):
            choice = jnp.where(piece > best, dtype(n), choice)
            best = jnp.maximum(best, piece)
        x = best
        choices.append(choice)
    return x, choices


def slice_choose(t: Array, choices: Choices, w: Window) -> Array:
    """Take from each window the element of `t` at the place of the maximum: `[B, *spatial, C]` to `[B, *out, C]`."""
    for (size, g), choice in zip(_stages(w), choices, strict=True):
        first, *rest = taps(t, size, g)
        t = functools.reduce(lambda kept, n: jnp.where(choice == n, rest[n - 1], kept), range(1, len(rest) + 1), first)
    return t


def slice_scatter(dy: Array, choices: Choices, w: Window, shape: tuple[int, ...]) -> Array:
    """Carry `dy` back to the chosen taps: `[B, *out, C]` to `shape`."""
    before = [shape, *(c.shape for c in choices[:-1])]
    for (size, g), choice, seen in reversed(list(zip(_stages(w), choices, before, strict=True))):
        if _side_by_side((size, g)):
            dy = _tiled_grad(choice, dy, size, seen)
            continue
        dy = col2im(lambda n, choice=choice, dy=dy: jnp.where(choice == n, dy, 0), size, g, seen[1:-1])
    return dy


def _tiled_grad(choice: Array, dy: Array, size: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """The same where windows lie side by side: one comparison an element, `[B, *out, C]` to `shape`."""
    inside = tuple(range(2, 2 * dy.ndim - 3, 2))  # an axis for the place in the window after each axis of windows
    tap = np.arange(math.prod(size), dtype=choice.dtype).reshape(*(n for k in size for n in (1, k)), 1)[None]
    tiles = jnp.where(jnp.expand_dims(choice, inside) == tap, jnp.expand_dims(dy, inside), 0)
    dx = tiles.reshape(dy.shape[0], *(n * k for n, k in zip(dy.shape[1:-1], size, strict=True)), dy.shape[-1])
    return jnp.pad(dx, [(0, n - m) for n, m in zip(shape, dx.shape, strict=True)])


def native_choose(t: Array, x: Array, w: Window) -> Array:
    """Take from each window of `t` what stands where `x` has its maximum, as XLA finds it."""
    return jax.jvp(lambda x: window_max(x, w), (x,), (t,))[1]


def native_scatter(dy: Array, x: Array, w: Window) -> Array:
    """Transpose of `native_choose`."""
    return jax.vjp(lambda x: window_max(x, w), x)[1](dy)[0]


def no_choices(x: Array, w: Window) -> Choices:
    """Choices that nobody reads, so they are not stored: XLA finds the maxima again where it needs them."""
    return [jnp.zeros(c.shape, c.dtype) for c in jax.eval_shape(lambda x: slice_max(x, w)[1], x)]


def _places(x: Array, window: Window) -> list[Array]:
    y, choices = once(lambda x: slice_max(x, window), x)
    return [y, *choices]


def _max_jvp(primals: Sequence[Any], tangents: Sequence[Any], **static: Any) -> Any:
    (x,), (t,) = primals, tangents
    y, *choices = bind(PLACES, x, **static)
    return y, zero_tangent(y) if isinstance(t, ad.Zero) else bind(CHOOSE, t, x, *choices, **static)


def _places_jvp(primals: Sequence[Any], tangents: Sequence[Any], **static: Any) -> Any:
    y, *choices = bind(PLACES, *primals, **static)
    zeros = [zero_tangent(v) for v in (y, *choices)]
    t = tangents[0]
    return [y, *choices], zeros if isinstance(t, ad.Zero) else [bind(CHOOSE, t, *primals, *choices, **static), *zeros[1:]]


# Of an array `[B, *spatial, C]`, the maxima of windows and the places that they came from; with these, to choose is linear, and so is
# its transpose, to scatter. The forms of other platforms look for the places in the array, which is why it is an operand as well.
def _fold(operation: Primitive, arrays: Sequence[Any], axes: Sequence[int | None], **static: Any) -> Any:
    return fold_rows(operation, arrays, axes, rows=range(len(arrays)), **static)


def _repeat(dy: Array, window: tuple[int, ...]) -> Array:
    for axis, times in enumerate(window, 1):
        dy = jnp.repeat(dy, times, axis)
    return dy


def _tile_sums(x: Array, window: tuple[int, ...]) -> Array:
    return _sum(x, (window, Geometry(window, ((0, 0),) * len(window), (1,) * len(window))))


MAX = primitive("max_pool", lambda x, window: window_max(x, window), lambda x, window: slice_max(x, window)[0], fold=_fold)
PLACES = primitive("max_pool_places", lambda x, window: [window_max(x, window), *no_choices(x, window)], _places, several=True, fold=_fold)
CHOOSE = primitive(
    "choose",
    lambda t, x, *choices, window: native_choose(t, x, window),
    lambda t, x, *choices, window: slice_choose(t, choices, window),
    fold=_fold,
)
SCATTER = primitive(
    "scatter",
    lambda dy, x, *choices, window: native_scatter(dy, x, window),
    lambda dy, x, *choices, window: slice_scatter(dy, choices, window, x.shape),
    fold=_fold,
)
TILE_SUMS, TILE_REPEAT = primitive("tile_sums", _tile_sums, _tile_sums, fold=_fold), primitive("tile_repeat", _repeat, _repeat, fold=_fold)
ad.primitive_jvps[MAX], ad.primitive_jvps[PLACES] = _max_jvp, _places_jvp
linear(CHOOSE, {0: lambda ct, t, x, *choices, **static: bind(SCATTER, ct, x, *choices, **static)})
linear(SCATTER, {0: lambda ct, dy, x, *choices, **static: bind(CHOOSE, ct, x, *choices, **static)})
linear(TILE_SUMS, {0: lambda ct, x, **static: bind(TILE_REPEAT, ct, **static)})
linear(TILE_REPEAT, {0: lambda ct, dy, **static: bind(TILE_SUMS, ct, **static)})
