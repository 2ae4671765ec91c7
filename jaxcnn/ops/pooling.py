"""Pooling of any rank: XLA's windows on GPU and TPU, strided slices on a CPU (the gradient is up to 40 times faster there)."""

import functools
import math
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.core.types import InputError
from jaxcnn.ops.geometry import Geometry, alone, check_floating, col2im, one_axis, resolve_padding, taps, to_tuple
from jaxcnn.ops.native import by_platform, once

Array = jax.Array
Window = tuple[tuple[int, ...], Geometry]
Choices = list[Array]


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
    return _max_pool(x, checked_window(x, window, strides, padding, ceil))


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
    if _side_by_side((size, g)):
        whole = (slice(n - n % k) for n, k in zip(x.shape[1:-1], size, strict=True))
        total = cast(Array, _tiled_sum(wide[:, *whole], (size, g)))
    else:
        total = _sum(wide, (size, g))
    return (total / math.prod(size)).astype(x.dtype)


def _sum(x: Array, w: Window) -> Array:
    return functools.reduce(jnp.add, taps(x, *w))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _tiled_sum(x: Array, w: Window) -> Array:
    """Sum over windows that tile the image; the gradient repeats its elements, where JAX would spread them once a tap and add."""
    return _sum(x, w)


def _repeated(w: Window, _: None, dy: Array) -> tuple[Array]:
    for axis, times in enumerate(w[0], 1):
        dy = jnp.repeat(dy, times, axis)
    return (dy,)


_tiled_sum.defvjp(lambda x, w: (_tiled_sum(x, w), None), _repeated)


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x: Array, w: Window) -> Array:
    return by_platform(lambda x: slice_max(x, w)[0], lambda x: window_max(x, w), x)


def _forward(x: Array, w: Window) -> tuple[Array, tuple[Array, Choices]]:
    def native(x: Array) -> tuple[Array, Choices]:
        choices = jax.eval_shape(lambda x: slice_max(x, w)[1], x)
        return window_max(x, w), [jnp.zeros(c.shape, c.dtype) for c in choices]  # not read, so not stored

    y, choices = by_platform(lambda x: once(lambda x: slice_max(x, w), x), native, x)
    return y, (x, choices)


def _backward(w: Window, res: tuple[Array, Choices], dy: Array) -> tuple[Array]:
    slices = lambda x, choices, dy: slice_max_grad(choices, dy, w, x.shape)  # noqa: E731
    native = lambda x, choices, dy: jax.vjp(lambda x: window_max(x, w), x)[1](dy)[0]  # noqa: E731
    return (by_platform(slices, native, *res, dy),)


_max_pool.defvjp(_forward, _backward)


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


def slice_max_grad(choices: Choices, dy: Array, w: Window, shape: tuple[int, ...]) -> Array:
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
