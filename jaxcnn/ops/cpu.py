"""CPU formulations of convolution and its two gradients, chosen by shape.

XLA's CPU backend brings convolutions into its fast layout only outside loops, runs 1x1 kernels and up to 64 output
channels on one core, and multiplies far more than Winograd does; a matrix product uses every core. The bounds below
come from `python -m experiments.benchmarks.ops`.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops import cells, depthwise, winograd
from jaxcnn.ops.geometry import (
    Geometry,
    alone,
    as_forward,
    in_cache,
    in_chunks,
    one_axis,
    out_sizes,
    planes,
    scatter,
    summed_in_chunks,
    taps,
)
from jaxcnn.ops.native import layout, native_forward, once

Array = jax.Array
MOST_TAPS = 25  # with which patches and a product beat XLA's own convolution
CORES_FROM = 128  # output channels from which XLA's own convolution runs on more than one core
BLOCK = 32  # channels to which small groups are joined


def conv_forward(x: Array, w: Array, g: Geometry) -> Array:
    """`[B, *spatial, C_in]` and `[*window, C_in / groups, C_out]` to `[B, *out, C_out]`."""
    if _is_matmul(w.shape, g):
        return _dot(x, w.reshape(w.shape[-2:]))
    if depthwise.suits(x.shape, w.shape, g):
        return once(lambda x, w: depthwise.forward(x, w, g), x, w)
    if g.groups > 1:
        kernels = _blocks(w, g.groups)
        parts = zip(jnp.split(x, len(kernels), -1), kernels, strict=True)
        return jnp.concatenate([conv_forward(x, w, g._replace(groups=1)) for x, w in parts], -1)
    if winograd.suits(x.shape, w.shape, x.dtype, g):
        return winograd.forward(x, w, g)
    if x.ndim == 5:
        return in_chunks(lambda x: _volumes(x, w, g), x, _folded(x.shape, w.shape, g))
    if cells.suits(w.shape, g):
        return cells.forward(x, w, g)
    strided, taps_in = max(g.strides) > 1, math.prod(w.shape[:-1])
    if math.prod(w.shape[:-2]) <= MOST_TAPS and x.shape[-1] > 1 and 48 <= w.shape[-1] and (strided or w.shape[-1] < CORES_FROM):
        least = in_cache(math.prod(out_sizes(x.shape[1:-1], w.shape[:-2], g)), taps_in)
        return in_chunks(lambda x: _dot(_patches(x, w.shape, g), w.reshape(taps_in, -1)), x, least)
    return native_forward(x, w, g)


def conv_input_grad(dy: Array, w: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    """Gradient to the input, `[B, *spatial, C_in]`."""
    if _is_matmul(w.shape, g):
        return _dot(dy, w.reshape(w.shape[-2:]).T)
    if depthwise.suits(shape, w.shape, g):
        return once(lambda dy, w: depthwise.input_grad(dy, w, g, shape), dy, w)
    if g.groups > 1:
        kernels = _blocks(w, g.groups)
        part = (*shape[:-1], shape[-1] // len(kernels))
        parts = zip(jnp.split(dy, len(kernels), -1), kernels, strict=True)
        return jnp.concatenate([conv_input_grad(dy, w, g._replace(groups=1), part) for dy, w in parts], -1)
    pads, flipped = as_forward(dy.shape, w.shape, g, shape), jnp.flip(w, tuple(range(w.ndim - 2))).swapaxes(-1, -2)
    if min(map(min, pads[-2:])) >= 0 and winograd.suits(dy.shape, w.shape, dy.dtype, g._replace(padding=pads)):
        return winograd.input_grad(dy, w, g, shape)
    if dy.ndim == 5:
        return in_chunks(lambda dy: _volumes_grad(dy, w, g, (len(dy), *shape[1:])), dy, _folded(shape, w.shape, g))
    if cells.large(w.shape, g):
        return cells.input_grad(dy, w, g, shape)
    window = math.prod(w.shape[:-2])
    mostly_padding = max(g.strides) > 1 or 2 * math.prod(dy.shape[1:-1]) <= math.prod(shape[1:-1])
    if window <= MOST_TAPS and (mostly_padding or shape[-1] < CORES_FROM):
        least = in_cache(math.prod(dy.shape[1:-1]), math.prod(w.shape[:-1]))
        return in_chunks(lambda dy: _columns_grad(dy, w, g, (len(dy), *shape[1:])), dy, least)
    return lax.conv_general_dilated(
        dy, flipped, (1,) * (dy.ndim - 2), pads, lhs_dilation=g.strides, rhs_dilation=g.dilation, dimension_numbers=layout(dy.ndim)
    )


def conv_kernel_grad(x: Array, dy: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    """Gradient to the kernel, `[*window, C_in / groups, C_out]`."""
    if depthwise.suits(x.shape, shape, g):
        return once(lambda x, dy: depthwise.kernel_grad(x, dy, g, shape), x, dy)
    if g.groups > 1:
        per, one = _per(shape, g.groups), g._replace(groups=1)
        part = (*shape[:-2], per * shape[-2], per * shape[-1] // g.groups)
        parts = zip(*(jnp.split(z, g.groups // per, -1) for z in (x, dy)), strict=True)
        return _from_blocks([conv_kernel_grad(x, dy, one, part) for x, dy in parts], shape, g.groups)
    if winograd.suits(x.shape, shape, x.dtype, g):
        return winograd.kernel_grad(x, dy, g, shape)
    if x.ndim == 5:
        return summed_in_chunks(lambda x, dy: _volumes_kernel_grad(x, dy, g, shape), x, dy, _folded(x.shape, shape, g))
    if cells.suits(shape, g):
        return cells.kernel_grad(x, dy, g, shape)
    few = math.prod(shape[:-1]) <= 32 or 32 < shape[-1] < CORES_FROM
    if _is_matmul(shape, g) or max(g.strides) > 1 or few:
        return _patches_kernel_grad(x, dy, g, shape)
    pads = tuple(
        (low, (k - 1) * d + (o - 1) * s + 1 - n - low)
        for (low, _), k, d, o, s, n in zip(g.padding, shape, g.dilation, dy.shape[1:-1], g.strides, x.shape[1:-1], strict=False)
    )
    out = lax.conv_general_dilated(
        x.swapaxes(0, -1), jnp.moveaxis(dy, 0, -2), g.dilation, pads, rhs_dilation=g.strides, dimension_numbers=layout(x.ndim)
    )  # [C_in, *window, C_out]
    return jnp.moveaxis(out, 0, -2)


def _is_matmul(shape: tuple[int, ...], g: Geometry) -> bool:
    return math.prod(shape[:-2]) == 1 and g.groups == 1 and max(g.strides) == 1 and not any(map(any, g.padding))


def _dot(a: Array, b: Array) -> Array:
    return lax.dot_general(a, b, (((a.ndim - 1,), (0,)), ((), ())))


def _patches(x: Array, shape: tuple[int, ...], g: Geometry) -> Array:
    """The input of every tap beside each other: `[B, *out, taps x C_in]`, in the order of the flattened kernel.

    With few channels axis by axis, which copies longer rows at a time.
    """
    if x.shape[-1] >= 16:
        columns = list(taps(x, shape[:-2], g))
        return columns[0] if len(columns) == 1 else jnp.concatenate(columns, -1)
    for axis in reversed(range(x.ndim - 2)):
        columns = list(taps(x, alone(shape[:-2], axis, 1), one_axis(g, axis)))
        x = columns[0] if len(columns) == 1 else jnp.concatenate(columns, -1)
    return x


def _patches_kernel_grad(x: Array, dy: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    """Kernel gradient as patches times `dy`, a few images at a time where the patches would not stay in the cache.

    All places that one tap sees lie side by side: such patches are copied in longer rows, and their product takes two thirds
    of the time of one that sums over the rows of both.
    """
    taps_in, window = math.prod(shape[:-1]), shape[:-2]

    def product(x: Array, dy: Array) -> Array:
        return _dot(jnp.concatenate(planes(x, window, g)).reshape(taps_in, -1), dy.reshape(-1, shape[-1]))

    least = len(x) if math.prod(window) == 1 else in_cache(math.prod(dy.shape[1:-1]), taps_in)
    return summed_in_chunks(product, x, dy, least).reshape(shape)


def _columns_grad(dy: Array, w: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    """Input gradient as one product for all taps, whose columns are then added where they belong."""
    c = w.shape[-2]
    columns = _dot(dy, jnp.moveaxis(w, -1, 0).reshape(w.shape[-1], -1))  # [B, *out, taps x C_in]
    return scatter(lambda n: columns[..., n * c : (n + 1) * c], w.shape[:-2], g, shape[1:-1])


# Three spatial axes become two: what the taps of the first axis see is put side by side in the channels.
def _volumes(x: Array, w: Array, g: Geometry) -> Array:
    y = conv_forward(_fold(x, w.shape[0], g), _flat(w), _plane(g))
    return y.reshape(x.shape[0], -1, *y.shape[1:])


def _volumes_grad(dy: Array, w: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    folded = (shape[0] * dy.shape[1], *shape[2:4], w.shape[0] * w.shape[3])
    dx = conv_input_grad(dy.reshape(-1, *dy.shape[2:]), _flat(w), _plane(g), folded)
    return _unfold(dx.reshape(*dy.shape[:2], *folded[1:]), w.shape[0], g, shape)


def _volumes_kernel_grad(x: Array, dy: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    depth, h, w, c, k = shape
    flat = conv_kernel_grad(_fold(x, depth, g), dy.reshape(-1, *dy.shape[2:]), _plane(g), (h, w, depth * c, k))
    return jnp.moveaxis(flat.reshape(h, w, depth, c, k), 2, 0)


def _folded(x_shape: tuple[int, ...], w_shape: tuple[int, ...], g: Geometry) -> int:
    """How many volumes stay in the cache when they are folded."""
    depth = out_sizes(x_shape[1:-1], w_shape[:-2], g)[0]
    return in_cache(depth * math.prod(x_shape[2:-1]), w_shape[0] * x_shape[-1])


def _flat(w: Array) -> Array:
    """`[depth, h, w, C, K]` to `[h, w, depth x C, K]`."""
    return jnp.moveaxis(w, 0, 2).reshape(*w.shape[1:3], -1, w.shape[-1])


def _plane(g: Geometry) -> Geometry:
    return Geometry(g.strides[1:], g.padding[1:], g.dilation[1:])


def _fold(x: Array, depth: int, g: Geometry) -> Array:
    """`[B, D, H, W, C]` to `[B x out, H, W, depth x C]`."""
    folded = _patches(x, (depth, 1, 1, x.shape[-1], 1), one_axis(g, 0))
    return folded.reshape(-1, *folded.shape[2:])


def _unfold(dx: Array, depth: int, g: Geometry, shape: tuple[int, ...]) -> Array:
    c = shape[-1]
    return scatter(lambda n: dx[..., n * c : (n + 1) * c], (depth, 1, 1), one_axis(g, 0), shape[1:-1])


# Small groups become few dense convolutions: `per` groups are one block, whose kernel is zero between them.
def _per(shape: tuple[int, ...], groups: int) -> int:
    widest = max(shape[-2], shape[-1] // groups)
    return next(n for n in range(groups, 0, -1) if groups % n == 0 and (n == 1 or n * widest <= BLOCK))


def _eye(per: int, dtype: jnp.dtype) -> Array:
    return jnp.eye(per, dtype=dtype)[:, None, :, None]  # [per, 1, per, 1]


def _blocks(w: Array, groups: int) -> list[Array]:
    """Kernel `[*window, c, K]` as one dense kernel `[*window, per x c, per x k]` for each block."""
    window, c, per = w.shape[:-2], w.shape[-2], _per(w.shape, groups)
    blocks = jnp.split(w.reshape(*window, 1, c, groups, -1), groups // per, -2)  # [*window, 1, c, per, k] each
    return [(lax.broadcast_to_rank(_eye(per, w.dtype), b.ndim) * b).reshape(*window, per * c, -1) for b in blocks]


def _from_blocks(blocks: list[Array], shape: tuple[int, ...], groups: int) -> Array:
    """Transpose of `_blocks`: what lies between the groups is left out."""
    per = _per(shape, groups)
    split = [b.reshape(*shape[:-2], per, shape[-2], per, -1) for b in blocks]
    parts = [(lax.broadcast_to_rank(_eye(per, b.dtype), b.ndim) * b).sum(-4) for b in split]  # [*window, c, per, k]
    return jnp.concatenate(parts, -2).reshape(shape)
