"""CPU form of convolution over three spatial axes: the taps of the first axis become channels of images."""

import jax
import jax.numpy as jnp

from jaxcnn.ops.geometry import Geometry, col2im, in_cache, in_chunks, one_axis, out_sizes, summed_in_chunks
from jaxcnn.ops.lowering.im2col import patches
from jaxcnn.ops.lowering.record import Case, Convolution, Lowering, Shape

Array = jax.Array


def suits(case: Case) -> bool:
    """Whether there are three spatial axes, of known sizes."""
    return len(case.image) == 5 and case.sized


def lowering(conv: Convolution) -> Lowering:
    """Return the form, its images convolved by `conv`."""

    def forward(x: Array, w: Array, g: Geometry) -> Array:
        def some(x: Array) -> Array:
            y = conv.forward(_fold(x, w.shape[0], g), _flat(w), _flat_geometry(g))
            return y.reshape(x.shape[0], -1, *y.shape[1:])

        return in_chunks(some, x, _least(x.shape, w.shape, g))

    def input_grad(dy: Array, w: Array, g: Geometry, shape: Shape) -> Array:
        def some(dy: Array) -> Array:
            folded = (dy.shape[0] * dy.shape[1], *shape[2:4], w.shape[0] * w.shape[3])
            dx = conv.input_grad(dy.reshape(-1, *dy.shape[2:]), _flat(w), _flat_geometry(g), folded)
            return _unfold(dx.reshape(*dy.shape[:2], *folded[1:]), w.shape[0], g, shape)

        return in_chunks(some, dy, _least(shape, w.shape, g))

    def kernel_grad(x: Array, dy: Array, g: Geometry, shape: Shape) -> Array:
        depth, h, w, c, k = shape

        def some(x: Array, dy: Array) -> Array:
            dense = conv.kernel_grad(
                _fold(x, depth, g), dy.reshape(-1, *dy.shape[2:]), _flat_geometry(g), (h, w, depth * c, k)
            )
            return jnp.moveaxis(dense.reshape(h, w, depth, c, k), 2, 0)

        return summed_in_chunks(some, x, dy, _least(x.shape, shape, g))

    return Lowering(suits, forward, input_grad, kernel_grad)


def _least(image: Shape, kernel: Shape, g: Geometry) -> int:
    """How many volumes stay in the cache when they are folded."""
    depth = out_sizes(image[1:-1], kernel[:-2], g)[0]
    return in_cache((depth, *image[2:-1]), kernel[0] * image[-1])


def _flat(w: Array) -> Array:
    """`[depth, h, w, C, K]` to `[h, w, depth x C, K]`."""
    return jnp.moveaxis(w, 0, 2).reshape(*w.shape[1:3], -1, w.shape[-1])


def _flat_geometry(g: Geometry) -> Geometry:
    return Geometry(g.strides[1:], g.padding[1:], g.dilation[1:])


def _fold(x: Array, depth: int, g: Geometry) -> Array:
    """`[B, D, H, W, C]` to `[B x out, H, W, depth x C]`."""
    folded = patches(x, (depth, 1, 1), one_axis(g, 0))
    return folded.reshape(-1, *folded.shape[2:])


def _unfold(dx: Array, depth: int, g: Geometry, shape: Shape) -> Array:
    c = shape[-1]
    return col2im(lambda n: dx[..., n * c : (n + 1) * c], (depth, 1, 1), one_axis(g, 0), shape[1:-1])
