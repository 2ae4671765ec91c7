"""Pooling of any rank: XLA's windows on GPU and TPU, strided slices on a CPU (the gradient is up to 40 times faster there)."""

import functools
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.ops.geometry import Pads, resolve_padding, to_tuple
from jaxcnn.types import InputError

Array = jax.Array
Window = tuple[tuple[int, ...], tuple[int, ...], Pads]


def max_pool(
    x: Array,
    window: int | Sequence[int] = 2,
    *,
    strides: int | Sequence[int] | None = None,
    padding: str | int | Sequence[tuple[int, int]] = "VALID",
) -> Array:
    """Maximum over windows. Where values tie, the first one in row-major order receives the whole gradient.

    Args:
        x: `[B, *spatial, C]`, floating point.
        window: size of the window, one number or one an axis.
        strides: distance between windows; by default the window's size.
        padding: `"VALID"`, `"SAME"`, a number, or `(low, high)` pairs; padding never wins.

    Returns:
        `[B, *out, C]`.

    Raises:
        InputError: a window, stride or padding that is out of range or does not fit the image.

    """
    return _max_pool(x, _window(x, window, strides, padding))


def avg_pool(
    x: Array,
    window: int | Sequence[int] = 2,
    *,
    strides: int | Sequence[int] | None = None,
    padding: str | int | Sequence[tuple[int, int]] = "VALID",
) -> Array:
    """Mean over windows; padded zeros count, as in Flax and in PyTorch's default. Arguments as for `max_pool`."""
    size, strides, pads = _window(x, window, strides, padding)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    return functools.reduce(jnp.add, (piece for _, piece in _slices(x, size, strides))) / math.prod(size)


def global_avg_pool(x: Array) -> Array:
    """Mean over all spatial axes: `[B, *spatial, C]` to `[B, C]` (Lin et al., 2013, arXiv:1312.4400)."""
    return x.mean(tuple(range(1, x.ndim - 1)))


def global_max_pool(x: Array) -> Array:
    """Maximum over all spatial axes: `[B, *spatial, C]` to `[B, C]`."""
    return x.max(tuple(range(1, x.ndim - 1)))


def _window(x: Array, window, strides, padding) -> Window:
    rank = x.ndim - 2
    if rank < 1:
        raise InputError(f"pool: image {x.shape} must have spatial axes, [batch, *spatial, channels]")
    size = to_tuple(window, rank, "window")
    steps = size if strides is None else to_tuple(strides, rank, "strides")
    return size, steps, resolve_padding(padding, x.shape[1:-1], size, steps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x: Array, w: Window) -> Array:
    return lax.platform_dependent(x, cpu=lambda x: _slice_max(x, w), default=lambda x: _window_max(x, w))


def _window_max(x: Array, w: Window) -> Array:
    size, strides, pads = w
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *size, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0)))


def _slice_max(x: Array, w: Window) -> Array:
    return functools.reduce(jnp.maximum, (piece for _, piece in _slices(_pad_low(x, w), *w[:2])))


def _backward(w: Window, res: tuple[Array, Array], dy: Array) -> tuple[Array]:
    x, y = res
    native = lambda x, y, dy: jax.vjp(lambda x: _window_max(x, w), x)[1](dy)[0]  # noqa: E731
    return (lax.platform_dependent(x, y, dy, cpu=lambda x, y, dy: _slice_max_grad(x, y, dy, w), default=native),)


_max_pool.defvjp(lambda x, w: ((y := _max_pool(x, w)), (x, y)), _backward)


def _slice_max_grad(x: Array, y: Array, dy: Array, w: Window) -> Array:
    """Give `dy` to the first element of each window that equals `y`, one phase of the stride at a time."""
    size, strides, pads = w
    out = y.shape[1:-1]
    free, parts = jnp.ones(y.shape, bool), {}
    for offset, piece in _slices(_pad_low(x, w), size, strides):
        first = free & (piece == y)
        free = free & ~first
        parts[offset] = jnp.where(first, dy, 0)
    reach = [o + (k - 1) // s for o, k, s in zip(out, size, strides, strict=True)]  # cells of one phase
    phases = []
    for phase in np.ndindex(*strides):
        total = jnp.zeros((x.shape[0], *reach, x.shape[-1]), dy.dtype)
        for offset, part in parts.items():
            if all(i % s == p for i, s, p in zip(offset, strides, phase, strict=True)):
                lows = [i // s for i, s in zip(offset, strides, strict=True)]
                total = total + jnp.pad(part, ((0, 0), *((a, r - a - o) for a, r, o in zip(lows, reach, out, strict=True)), (0, 0)))
        phases.append(total)
    full = _interleave(phases, strides)
    widths = tuple((-low, n + low - f) for n, (low, _), f in zip(x.shape[1:-1], pads, full.shape[1:-1], strict=True))
    return lax.pad(full, jnp.zeros((), dy.dtype), ((0, 0, 0), *((a, b, 0) for a, b in widths), (0, 0, 0)))


def _interleave(phases: list[Array], strides: tuple[int, ...]) -> Array:
    """Phases `[B, *cells, C]` in row-major order to `[B, *(cells x strides), C]`."""
    batch, *cells, channels = phases[0].shape
    stacked = jnp.stack(phases).reshape(*strides, batch, *cells, channels)
    rank = len(strides)
    order = [rank] + [axis for i in range(rank) for axis in (rank + 1 + i, i)] + [2 * rank + 1]
    return stacked.transpose(order).reshape(batch, *(c * s for c, s in zip(cells, strides, strict=True)), channels)


def _pad_low(x: Array, w: Window) -> Array:
    return jnp.pad(x, ((0, 0), *w[2], (0, 0)), constant_values=-jnp.inf) if any(map(any, w[2])) else x


def _slices(x: Array, size: tuple[int, ...], strides: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Every position of a window, in row-major order, with its elements in all windows: `[B, *out, C]`."""
    outs = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:-1], size, strides, strict=True)]
    for offset in np.ndindex(*size):
        stops = [i + (o - 1) * s + 1 for i, o, s in zip(offset, outs, strides, strict=True)]
        yield offset, lax.slice(x, (0, *offset, 0), (x.shape[0], *stops, x.shape[-1]), (1, *strides, 1))
