"""Pooling of any rank: XLA's windows on GPU and TPU, strided slices on a CPU, whose gradients are up to 40x faster."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.core.types import InputError, whole_numbers
from jaxcnn.ops.geometry import Geometry, check_floating, is_known, resolve_padding, settle_padding
from jaxcnn.ops.native import is_native, is_whole
from jaxcnn.ops.primitives import bind, primitive
from jaxcnn.ops.windows import MAX, TILE_SUMS, Window, side_by_side, window_max, window_sum

Array = jax.Array


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
        InputError: a window, stride or padding that is out of range or does not fit the image, or a dtype that is not
            floating point.

    """
    size, g = checked_window(x, window, strides, padding, ceil)
    x, g = settle_padding(x, g, -jnp.inf)
    return window_max(x, (size, g)) if is_native() else bind(MAX, x, window=(size, g))


def avg_pool(
    x: Array,
    window: int | Sequence[int] = 2,
    *,
    strides: int | Sequence[int] | None = None,
    padding: str | int | Sequence[tuple[int, int]] = "VALID",
) -> Array:
    """Mean over windows; padded zeros count, as in Flax and in PyTorch's default. Arguments as for `max_pool`."""
    size, g = checked_window(x, window, strides, padding)
    wide, g = settle_padding(x.astype(jnp.promote_types(x.dtype, jnp.float32)), g)
    if is_whole():
        return bind(MEAN, wide, window=(size, g)).astype(x.dtype)
    if side_by_side((size, g)) and not is_native():
        whole = (n - n % k for n, k in zip(x.shape[1:-1], size, strict=True))
        total = bind(TILE_SUMS, lax.slice(wide, (0,) * x.ndim, (x.shape[0], *whole, x.shape[-1])), window=size)
    else:
        total = window_sum(wide, (size, g))
    return (total / math.prod(size)).astype(x.dtype)


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
    if not is_known(*x.shape[1:-1]):
        raise InputError(f"adaptive_avg_pool: image {x.shape} has a symbolic size; export with numbers there")
    for axis, size in enumerate(whole_numbers("sizes", sizes, x.ndim - 2), 1):
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
        mask: which places count, 1 or 0, for the leading axes of `x`: `[B]`, `[B, T]`, `[B, H, W]`, ...; None for all.
            A row without any place becomes zeros.

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
    """Return the maximum over all spatial axes: `[B, *spatial, C]` to `[B, C]`.

    Where values tie, the first one receives the gradient.

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
        mask: `[B]`, `[B, T]`, `[B, H, W]`, ...: the first axes of `x`, or all but its channels, perhaps with axes of
            one element behind them.
        x: `[B, *spatial, C]`.

    Raises:
        InputError: another shape.

    """
    shape, lead = tuple(mask.shape), tuple(mask.shape)
    while len(lead) > 1 and lead[-1] == 1 and (len(lead) == x.ndim or lead != tuple(x.shape[: len(lead)])):
        lead = lead[:-1]
    if len(shape) > x.ndim or not 1 <= len(lead) < x.ndim or lead != tuple(x.shape[: len(lead)]):
        raise InputError(
            f"mask shape {shape}: must be the leading axes of {tuple(x.shape)}, "
            f"from {tuple(x.shape[:1])} to {tuple(x.shape[:-1])}"
        )
    return mask.reshape(*lead, *(1,) * (x.ndim - len(lead)))


def first_max(x: Array, axis: int) -> Array:
    """Return the maximum along an axis; the gradient goes to the index of the maximum.

    The gradient of `jnp.max` goes to all elements that equal the maximum. It is NaN where XLA computes an element twice
    and rounds it differently.

    Args:
        x: an array of any shape.
        axis: the axis, which the result does not have.

    """
    axis %= x.ndim
    if is_whole():
        return x.max(axis)
    chosen = lax.argmax(lax.stop_gradient(x), axis, jnp.int32)
    mask = lax.broadcasted_iota(jnp.int32, x.shape, axis) == jnp.expand_dims(chosen, axis)
    return jnp.where(mask, x, 0).sum(axis)


def checked_window(x: Any, window: Any, strides: Any = None, padding: Any = "VALID", ceil: bool = False) -> Window:
    """Check what `max_pool` is given, and resolve it for an image of this shape."""
    rank = x.ndim - 2
    if rank < 1:
        raise InputError(f"pool: image {x.shape} must have spatial axes, [batch, *spatial, channels]")
    check_floating("pool", image=x)
    size = whole_numbers("window", window, rank)
    steps = size if strides is None else whole_numbers("strides", strides, rank)
    # a window that hangs over by less than a stride has a place to begin
    fits = tuple(n + s - 1 if ceil else n for n, s in zip(x.shape[1:-1], steps, strict=True))
    pads = resolve_padding(padding, fits, size, steps)
    if ceil and not is_known(*x.shape[1:-1]):
        raise InputError(
            f"pool: image {x.shape} has a symbolic size, for which windows cannot hang over; export with numbers there"
        )
    if ceil:
        pads = tuple(_hanging(n, k, s, p) for n, k, s, p in zip(x.shape[1:-1], size, steps, pads, strict=True))
    return size, Geometry(steps, pads, (1,) * rank)


def _mean(x: Array, window: Window) -> Array:
    return window_sum(x, window) / math.prod(window[0])


MEAN = primitive("avg_pool", _mean, _mean)  # traced in `whole_operations` alone


def _hanging(n: int, window: int, stride: int, pads: tuple[int, int]) -> tuple[int, int]:
    """Padding with which the last window may hang over the end, if it begins before it."""
    low, high = pads
    rest = n + low + high - window
    starts = range(0, rest + stride, stride)  # of all windows, the last one hanging over where the stride does not fit
    last = starts[-1] if starts[-1] < n + low else starts[-2]
    return low, max(last - rest + high, 0)
