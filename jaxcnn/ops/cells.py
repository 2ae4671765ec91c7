"""Strided convolution with a large window: places of one stride become channels of one cell, and the window covers few cells.

What a 4x4 window with stride 2 sees is then 2x2 cells of four times the channels, at stride 1: fewer and longer rows to copy.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.geometry import Geometry, in_cache, out_sizes, planes, scatter, summed_in_chunks, taps
from jaxcnn.ops.native import layout

Array = jax.Array


def large(shape: tuple[int, ...], g: Geometry) -> bool:
    """Whether `input_grad` measured fastest for a kernel `[*window, C_in, C_out]`: with a large window, and strides."""
    return math.prod(shape[:-2]) > 9 and max(g.strides) > 1 and max(g.dilation) == 1


def suits(shape: tuple[int, ...], g: Geometry) -> bool:
    """Whether `forward` and `kernel_grad` measured faster than patches: where the window is whole cells, and channels are not many."""
    c, k = shape[-2:]
    whole = all(n % s == 0 for n, s in zip(shape[:-2], g.strides, strict=True))
    return large(shape, g) and whole and 16 <= c < 128 and k <= min(128, math.prod(g.strides) * c)


def forward(x: Array, w: Array, g: Geometry) -> Array:
    """`[B, *spatial, C]` and `[*window, C, K]` to `[B, *out, K]`: each cell times all its places in a window, then added up."""
    kernel, k = _kernel_cells(w, g), w.shape[-1]
    columns = _cells(x, w.shape[:-2], g) @ jnp.moveaxis(kernel, -2, 0).reshape(kernel.shape[-2], -1)  # [B, *cells, taps x K]
    parts = enumerate(taps(columns, kernel.shape[:-2], _dense(len(g.strides))))
    return functools.reduce(jnp.add, (part[..., n * k : (n + 1) * k] for n, part in parts))


def input_grad(dy: Array, w: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    """Gradient to an image of this shape: one convolution to the channels of all cells, whose places are then put side by side."""
    c, rank = w.shape[-2], dy.ndim - 2
    kernel = jnp.flip(_kernel_cells(w, g), tuple(range(rank))).swapaxes(-1, -2)  # [*size, K, places x C]
    cells = [-(-(n + low) // s) for n, (low, _), s in zip(shape[1:-1], g.padding, g.strides, strict=True)]
    pads = tuple((m - 1, n - o) for m, n, o in zip(kernel.shape[:rank], cells, dy.shape[1:-1], strict=True))
    phases = lax.conv_general_dilated(dy, kernel, (1,) * rank, pads, dimension_numbers=layout(dy.ndim))
    return scatter(lambda n: phases[..., n * c : (n + 1) * c], g.strides, g, shape[1:-1])


def kernel_grad(x: Array, dy: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    """Gradient to a kernel of this shape: patches of `dy`, all places of a tap side by side, times the cells."""
    kernel, pull = jax.vjp(lambda w: _kernel_cells(w, g), jnp.zeros(shape, x.dtype))
    size, k, rank = kernel.shape[:-2], shape[-1], dy.ndim - 2
    around = tuple((m - 1, m - 1) for m in size)

    def product(x: Array, dy: Array) -> Array:
        cells = _cells(x, shape[:-2], g).reshape(-1, kernel.shape[-2])
        seen = planes(dy, size, _dense(rank)._replace(padding=around))
        patches = jnp.concatenate(seen[::-1])  # the first tap of a window is the last to reach a cell
        return patches.reshape(-1, len(cells)) @ cells  # [taps x K, places x C]

    total = summed_in_chunks(product, x, dy, in_cache(math.prod(dy.shape[1:-1]), math.prod(size) * k))
    return pull(total.reshape(*size, k, -1).swapaxes(-1, -2))[0]


def _dense(rank: int) -> Geometry:
    return Geometry((1,) * rank, ((0, 0),) * rank, (1,) * rank)


def _cells(x: Array, window: tuple[int, ...], g: Geometry) -> Array:
    """`[B, *spatial, C]` to `[B, *cells, places x C]`, the cells that some window sees."""
    out = out_sizes(x.shape[1:-1], window, g)
    cells = [o + k // s - 1 for o, k, s in zip(out, window, g.strides, strict=True)]
    ends = zip(cells, g.strides, x.shape[1:-1], g.padding, strict=True)
    widths = [(low, m * s - n - low, 0) for m, s, n, (low, _) in ends]
    return _places_last(lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *widths, (0, 0, 0))), g)


def _kernel_cells(w: Array, g: Geometry) -> Array:
    """`[*window, C, K]` to `[*size, places x C, K]`, zeros where the window ends inside a cell."""
    widths = [(0, -n % s) for n, s in zip(w.shape[:-2], g.strides, strict=True)]
    w = jnp.moveaxis(jnp.pad(w, (*widths, (0, 0), (0, 0))), -1, 0)
    return jnp.moveaxis(_places_last(w, g), 0, -1)


def _places_last(x: Array, g: Geometry) -> Array:
    """`[B, *(cells x strides), C]` to `[B, *cells, strides x C]`."""
    rank, (batch, *sizes, c) = len(g.strides), x.shape
    cells = [n // s for n, s in zip(sizes, g.strides, strict=True)]
    x = x.reshape(batch, *(n for pair in zip(cells, g.strides, strict=True) for n in pair), c)
    return x.transpose(0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1).reshape(batch, *cells, -1)
