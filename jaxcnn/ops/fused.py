"""CPU form of a small convolution with max pooling after it: one pass over the image, with nothing kept in between.

XLA runs its own convolution on one core for so few channels. This is one loop on all cores, in which the values of a
pooling window stay in registers.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.geometry import Geometry, is_known, out_sizes
from jaxcnn.ops.windows import Choices, Window, side_by_side

Array = jax.Array
MOST = 3456  # products for all channels of an output: taps times channels times places of a window
LEAST = 8  # output channels, which fill a vector register


def suits(x: Array, w: Array, g: Geometry, pool: Window) -> bool:
    """Whether this measured faster: few products, and channels for which XLA's own convolution runs on one core."""
    products = math.prod(w.shape) * math.prod(pool[0])
    plain = x.dtype == jnp.float32 and g.groups == 1 and side_by_side(pool) and is_known(*x.shape)
    return plain and products <= MOST and w.shape[-1] >= LEAST


def maxima(x: Array, w: Array, g: Geometry, pool: Window) -> Array:
    """Return the maxima of the convolution in each window, `[B, *out, K]`."""
    return _best(x, w, g, pool)[0]


def maxima_places(x: Array, w: Array, g: Geometry, pool: Window) -> tuple[Array, Choices]:
    """Return the maxima and, as `windows.slice_max` does, the place of each in its window."""
    y, place = _best(x, w, g, pool)
    return y, [place]


def _best(x: Array, w: Array, g: Geometry, pool: Window) -> tuple[Array, Array]:
    """Return the maxima, and the first place of each."""
    size, p = pool
    between = out_sizes(x.shape[1:-1], w.shape[:-2], g)
    out = out_sizes(between, size, p)
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*pad, 0) for pad in g.padding), (0, 0, 0)))
    best, *rest = (_convolved(x, w, g, place, p.strides, out) for place in itertools.product(*map(range, size)))
    chosen = jnp.zeros(best.shape, jnp.uint8)
    for n, piece in enumerate(rest, 1):
        chosen = jnp.where(piece > best, jnp.uint8(n), chosen)
        best = jnp.maximum(best, piece)
    return best, chosen


def _convolved(
    x: Array, w: Array, g: Geometry, place: tuple[int, ...], step: tuple[int, ...], out: tuple[int, ...]
) -> Array:
    """Convolve at one place of every window, `[B, *out, K]`, as a sum of shifted images."""

    def seen(tap: tuple[int, ...], channel: int) -> Array:
        first = [a * s + t * d for a, s, t, d in zip(place, g.strides, tap, g.dilation, strict=True)]
        steps = [s * n for s, n in zip(g.strides, step, strict=True)]
        last = [f + (n - 1) * s + 1 for f, n, s in zip(first, out, steps, strict=True)]
        return lax.slice(x, (0, *first, channel), (x.shape[0], *last, channel + 1), (1, *steps, 1))

    places = itertools.product(itertools.product(*map(range, w.shape[:-2])), range(w.shape[-2]))
    rows = ((seen(tap, c), lax.broadcast_to_rank(w[(*tap, c)], x.ndim)) for tap, c in places)
    return functools.reduce(jnp.add, (image * row for image, row in rows))
