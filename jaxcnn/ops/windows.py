"""Pooling windows as primitives: where maxima are, choosing and scattering by these places, and sums of tiles.

Given the places of the maxima, to take what stands there is linear, and so is its transpose, to scatter to them. A CPU
keeps the places; the forms of other platforms look for them in the array again, which is why it is an operand as well.
"""

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

from jaxcnn.ops.geometry import Geometry, alone, col2im, one_axis, taps
from jaxcnn.ops.native import once
from jaxcnn.ops.primitives import bind, fold_rows, linear, primitive, zero_tangent

Array = jax.Array
Window = tuple[tuple[int, ...], Geometry]
Choices = Sequence[Array]


def window_sum(x: Array, w: Window) -> Array:
    """Sum over windows, one tap after another."""
    return functools.reduce(jnp.add, taps(x, *w))


def window_max(x: Array, w: Window) -> Array:
    """Maximum, as XLA has it."""
    size, g = w
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *size, 1), (1, *g.strides, 1), ((0, 0), *g.padding, (0, 0)))


def side_by_side(w: Window) -> bool:
    """Whether windows lie beside each other, without gaps or padding."""
    size, g = w
    return size == g.strides and not any(map(any, g.padding))


def _stages(w: Window) -> list[Window]:
    """Return windows to reduce over one after another.

    All axes together where windows do not overlap, else the last axis first.
    """
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
        if side_by_side((size, g)):
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
    return [y, *choices], zeros if isinstance(t, ad.Zero) else [
        bind(CHOOSE, t, *primals, *choices, **static),
        *zeros[1:],
    ]


def _fold(operation: Primitive, arrays: Sequence[Any], axes: Sequence[int | None], **static: Any) -> Any:
    return fold_rows(operation, arrays, axes, rows=range(len(arrays)), **static)


def _repeat(dy: Array, window: tuple[int, ...]) -> Array:
    for axis, times in enumerate(window, 1):
        dy = jnp.repeat(dy, times, axis)
    return dy


def _tile_sums(x: Array, window: tuple[int, ...]) -> Array:
    return window_sum(x, (window, Geometry(window, ((0, 0),) * len(window), (1,) * len(window))))


MAX = primitive(
    "max_pool", lambda x, window: window_max(x, window), lambda x, window: slice_max(x, window)[0], fold=_fold
)
PLACES = primitive(
    "max_pool_places",
    lambda x, window: [window_max(x, window), *no_choices(x, window)],
    _places,
    several=True,
    fold=_fold,
)
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
TILE_SUMS, TILE_REPEAT = (
    primitive("tile_sums", _tile_sums, _tile_sums, fold=_fold),
    primitive("tile_repeat", _repeat, _repeat, fold=_fold),
)
ad.primitive_jvps[MAX], ad.primitive_jvps[PLACES] = _max_jvp, _places_jvp
linear(CHOOSE, {0: lambda ct, t, x, *choices, **static: bind(SCATTER, ct, x, *choices, **static)})
linear(SCATTER, {0: lambda ct, dy, x, *choices, **static: bind(CHOOSE, ct, x, *choices, **static)})
linear(TILE_SUMS, {0: lambda ct, x, **static: bind(TILE_REPEAT, ct, **static)})
linear(TILE_REPEAT, {0: lambda ct, dy, **static: bind(TILE_SUMS, ct, **static)})
