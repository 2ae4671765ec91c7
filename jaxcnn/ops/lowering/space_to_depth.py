"""CPU form of strided convolution with a large window: the places of one stride become the channels of one block.

What a 4x4 window with stride 2 sees is then 2x2 blocks of four times the channels, at stride 1: fewer and longer rows
to copy.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.geometry import Geometry, col2im, im2col, in_cache, out_sizes, summed_in_chunks, taps
from jaxcnn.ops.lowering.record import Case, Lowering
from jaxcnn.ops.native import layout

Array = jax.Array


def suits_input_grad(case: Case) -> bool:
    """Whether `input_grad` measured fastest: with a large window, and strides."""
    g = case.geometry
    return math.prod(case.kernel[:-2]) > 9 and max(g.strides) > 1 and max(g.dilation) == 1 and case.sized


def suits(case: Case) -> bool:
    """Return whether `forward` and `kernel_grad` measured faster than patches.

    They are where the window consists of whole blocks and there are not many channels.
    """
    g, (c, k) = case.geometry, case.kernel[-2:]
    whole = all(n % s == 0 for n, s in zip(case.kernel[:-2], g.strides, strict=True))
    return suits_input_grad(case) and whole and 16 <= c < 128 and k <= min(128, math.prod(g.strides) * c)


def forward(x: Array, w: Array, g: Geometry) -> Array:
    """Convolve `[B, *spatial, C]` with `[*window, C, K]` to `[B, *out, K]`.

    Each block is multiplied with all its places in a window, and the products are added.
    """
    kernel, k = _kernel_to_depth(w, g), w.shape[-1]
    columns = _image_to_depth(x, w.shape[:-2], g) @ jnp.moveaxis(kernel, -2, 0).reshape(
        kernel.shape[-2], -1
    )  # [B, *blocks, taps x K]
    parts = enumerate(taps(columns, kernel.shape[:-2], _dense(len(g.strides))))
    return functools.reduce(jnp.add, (part[..., n * k : (n + 1) * k] for n, part in parts))


def input_grad(dy: Array, w: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    """Return the gradient to an image of this shape.

    One convolution gives the channels of all blocks, whose places are then put side by side.
    """
    c, rank = w.shape[-2], dy.ndim - 2
    kernel = jnp.flip(_kernel_to_depth(w, g), tuple(range(rank))).swapaxes(-1, -2)  # [*size, K, places x C]
    blocks = [-(-(n + low) // s) for n, (low, _), s in zip(shape[1:-1], g.padding, g.strides, strict=True)]
    pads = tuple((m - 1, n - o) for m, n, o in zip(kernel.shape[:rank], blocks, dy.shape[1:-1], strict=True))
    phases = lax.conv_general_dilated(dy, kernel, (1,) * rank, pads, dimension_numbers=layout(dy.ndim))
    return col2im(lambda n: phases[..., n * c : (n + 1) * c], g.strides, g, shape[1:-1])


def kernel_grad(x: Array, dy: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    """Gradient to a kernel of this shape: patches of `dy`, all places of a tap side by side, times the blocks."""
    kernel, pull = jax.vjp(lambda w: _kernel_to_depth(w, g), jnp.zeros(shape, x.dtype))
    size, k, rank = kernel.shape[:-2], shape[-1], dy.ndim - 2
    around = tuple((m - 1, m - 1) for m in size)

    def product(x: Array, dy: Array) -> Array:
        blocks = _image_to_depth(x, shape[:-2], g).reshape(-1, kernel.shape[-2])
        seen = im2col(dy, size, _dense(rank)._replace(padding=around))
        patches = jnp.concatenate(seen[::-1])  # the first tap of a window is the last to reach a block
        return patches.reshape(-1, blocks.shape[0]) @ blocks  # [taps x K, places x C]

    total = summed_in_chunks(product, x, dy, in_cache(dy.shape[1:-1], math.prod(size) * k))
    return pull(total.reshape(*size, k, -1).swapaxes(-1, -2))[0]


def _dense(rank: int) -> Geometry:
    return Geometry((1,) * rank, ((0, 0),) * rank, (1,) * rank)


def _image_to_depth(x: Array, window: tuple[int, ...], g: Geometry) -> Array:
    """`[B, *spatial, C]` to `[B, *blocks, places x C]`, the blocks that some window sees."""
    out = out_sizes(x.shape[1:-1], window, g)
    blocks = [o + k // s - 1 for o, k, s in zip(out, window, g.strides, strict=True)]
    ends = zip(blocks, g.strides, x.shape[1:-1], g.padding, strict=True)
    widths = [(low, m * s - n - low, 0) for m, s, n, (low, _) in ends]
    return _space_to_depth(lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *widths, (0, 0, 0))), g)


def _kernel_to_depth(w: Array, g: Geometry) -> Array:
    """`[*window, C, K]` to `[*size, places x C, K]`, zeros where the window ends inside a block."""
    widths = [(0, -n % s) for n, s in zip(w.shape[:-2], g.strides, strict=True)]
    w = jnp.moveaxis(jnp.pad(w, (*widths, (0, 0), (0, 0))), -1, 0)
    return jnp.moveaxis(_space_to_depth(w, g), 0, -1)


def _space_to_depth(x: Array, g: Geometry) -> Array:
    """`[B, *(blocks x strides), C]` to `[B, *blocks, strides x C]`."""
    rank, (batch, *sizes, c) = len(g.strides), x.shape
    blocks = [n // s for n, s in zip(sizes, g.strides, strict=True)]
    x = x.reshape(batch, *(n for pair in zip(blocks, g.strides, strict=True) for n in pair), c)
    return x.transpose(0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1).reshape(batch, *blocks, -1)


LOWERING = Lowering(suits, forward=forward, kernel_grad=kernel_grad)
INPUT_GRAD = Lowering(suits_input_grad, input_grad=input_grad)
