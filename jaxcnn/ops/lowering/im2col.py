"""CPU form of convolution as a matrix of patches and a product, for as many images at a time as the cache holds."""

import math

import jax
import jax.numpy as jnp

from jaxcnn.ops.geometry import (
    Geometry,
    alone,
    col2im,
    im2col,
    in_cache,
    in_chunks,
    one_axis,
    out_sizes,
    summed_in_chunks,
    taps,
)
from jaxcnn.ops.lowering.record import Case, Lowering, Shape, cores, dot

Array = jax.Array
MOST_TAPS = 25  # with which patches and a product beat XLA's own convolution
CORES_FROM = 128  # output channels from which XLA's own convolution runs on more than one core


def suits_forward(case: Case) -> bool:
    """Whether `forward` measured faster: few taps, and strides or many cores, which XLA's own form leaves idle.

    Overlapping patches must be copied: on a single core, XLA's own form takes half as long.
    """
    window, (c, k) = math.prod(case.kernel[:-2]), case.kernel[-2:]
    strides, idle = case.geometry.strides, k < CORES_FROM
    if max(strides) == 1:
        faster = idle and cores() > 2
    else:
        faster = not idle or cores() > 1 or window <= math.prod(strides)
    return window <= MOST_TAPS and c > 1 and 48 <= k and faster


def suits_input_grad(case: Case) -> bool:
    """Whether `input_grad` measured faster: few taps, and zeros to multiply or idle cores."""
    mostly_padding = max(case.geometry.strides) > 1 or 2 * math.prod(case.out[1:-1]) <= math.prod(case.image[1:-1])
    window, idle = math.prod(case.kernel[:-2]), case.image[-1] < CORES_FROM
    return window <= MOST_TAPS and (mostly_padding or idle and (window < 16 or cores() > 2))


def suits_kernel_grad(case: Case) -> bool:
    """Whether `kernel_grad` measured faster: one tap, strides, or few channels."""
    g, few = case.geometry, math.prod(case.kernel[:-1]) <= 32 or 32 < case.kernel[-1] < CORES_FROM
    one = math.prod(case.kernel[:-2]) == 1 and not any(map(any, g.padding))
    return one or max(g.strides) > 1 or few


def forward(x: Array, w: Array, g: Geometry) -> Array:
    """`[B, *spatial, C]` and `[*window, C, K]` to `[B, *out, K]`."""
    taps_in = math.prod(w.shape[:-1])
    least = in_cache(out_sizes(x.shape[1:-1], w.shape[:-2], g), taps_in)
    return in_chunks(lambda x: dot(patches(x, w.shape[:-2], g), w.reshape(taps_in, -1)), x, least)


def input_grad(dy: Array, w: Array, g: Geometry, shape: Shape) -> Array:
    """Gradient to the input as one product for all taps, whose columns are then added where they belong."""
    c = w.shape[-2]

    def some(dy: Array) -> Array:
        columns = dot(dy, jnp.moveaxis(w, -1, 0).reshape(w.shape[-1], -1))  # [B, *out, taps x C]
        return col2im(lambda n: columns[..., n * c : (n + 1) * c], w.shape[:-2], g, shape[1:-1])

    return in_chunks(some, dy, in_cache(dy.shape[1:-1], math.prod(w.shape[:-1])))


def kernel_grad(x: Array, dy: Array, g: Geometry, shape: Shape) -> Array:
    """Return the kernel gradient as patches times `dy`, a few images at a time where the cache is too small.

    All places that one tap sees lie side by side: such patches are copied in longer rows, and their product takes two
    thirds of the time of one that sums over the rows of both.
    """
    taps_in, window = math.prod(shape[:-1]), shape[:-2]

    def product(x: Array, dy: Array) -> Array:
        return dot(jnp.concatenate(im2col(x, window, g)).reshape(taps_in, -1), dy.reshape(-1, shape[-1]))

    least = x.shape[0] if math.prod(window) == 1 else in_cache(dy.shape[1:-1], taps_in)
    return summed_in_chunks(product, x, dy, least).reshape(shape)


def patches(x: Array, window: Shape, g: Geometry) -> Array:
    """The input of every tap beside each other: `[B, *out, taps x C]`, in the order of the flattened kernel.

    With few channels axis by axis, which copies longer rows at a time.
    """
    if x.shape[-1] >= 16:
        columns = list(taps(x, window, g))
        return columns[0] if len(columns) == 1 else jnp.concatenate(columns, -1)
    for axis in reversed(range(x.ndim - 2)):
        columns = list(taps(x, alone(window, axis, 1), one_axis(g, axis)))
        x = columns[0] if len(columns) == 1 else jnp.concatenate(columns, -1)
    return x


FORWARD = Lowering(suits_forward, forward=forward)
INPUT_GRAD = Lowering(suits_input_grad, input_grad=input_grad)
KERNEL_GRAD = Lowering(suits_kernel_grad, kernel_grad=kernel_grad)
