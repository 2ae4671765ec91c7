"""CPU formulations of convolution and its two gradients, chosen by shape.

XLA's CPU backend brings convolutions into its fast layout only outside loops, runs 1x1 kernels and up to 64 output
channels on one core, and multiplies far more than Winograd does; a matrix product uses every core.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.ops import winograd
from jaxcnn.ops.geometry import Geometry
from jaxcnn.ops.native import layout, native_forward, native_kernel_grad

Array = jax.Array
PATCH_BYTES = 48 << 20  # size up to which a matrix of patches and one product beat the direct convolution


def conv_forward(x: Array, w: Array, g: Geometry) -> Array:
    """`[B, *spatial, C_in]` and `[*window, C_in / groups, C_out]` to `[B, *out, C_out]`."""
    if _is_matmul(w, g):
        return _dot(x, w.reshape(w.shape[-2:]))
    if winograd.suits(x.shape, w.shape, x.dtype, g):
        return winograd.forward(x, w, g.padding)
    out = [
        (n + sum(p) - (k - 1) * d - 1) // s + 1
        for n, p, k, d, s in zip(x.shape[1:-1], g.padding, w.shape, g.dilation, g.strides, strict=False)
    ]
    if w.shape[-2] > 1 and _patches_pay((x.shape[0], *out), w.shape, g):
        return _dot(_patches(x, w.shape, g), w.reshape(-1, w.shape[-1]))
    return native_forward(x, w, g)


def conv_input_grad(dy: Array, w: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    """Gradient to the input, `[B, *spatial, C_in]`, as a convolution of `dy` with the flipped kernel."""
    if _is_matmul(w, g):
        return _dot(dy, w.reshape(w.shape[-2:]).T)
    rank = dy.ndim - 2
    reach = [(k - 1) * d for k, d in zip(w.shape[:rank], g.dilation, strict=True)]
    pads = tuple(
        (r - low, n - (o - 1) * s - 1 + low)
        for r, (low, _), n, o, s in zip(reach, g.padding, shape[1:-1], dy.shape[1:-1], g.strides, strict=True)
    )
    window, (c_in, c_out) = w.shape[:rank], w.shape[rank:]
    flipped = jnp.flip(w, tuple(range(rank))).reshape(*window, c_in, g.groups, c_out // g.groups)
    flipped = jnp.moveaxis(flipped, -1, rank).swapaxes(-1, -2).reshape(*window, c_out // g.groups, g.groups * c_in)
    if min(min(p) for p in pads) >= 0 and winograd.suits(dy.shape, flipped.shape, dy.dtype, g):
        return winograd.forward(dy, flipped, pads)
    if max(g.strides) == 1 and min(min(p) for p in pads) >= 0 and _patches_pay(shape[:-1], flipped.shape, g):
        return _dot(_patches(dy, flipped.shape, g._replace(padding=pads)), flipped.reshape(-1, flipped.shape[-1]))
    return lax.conv_general_dilated(
        dy, flipped, (1,) * rank, pads, lhs_dilation=g.strides, rhs_dilation=g.dilation, feature_group_count=g.groups,
        dimension_numbers=layout(dy.ndim),
    )  # fmt: skip


def conv_kernel_grad(x: Array, dy: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    """Gradient to the kernel, `[*window, C_in / groups, C_out]`."""
    rank = x.ndim - 2
    if g.groups > 1:
        return native_kernel_grad(x, dy, g, shape)
    if winograd.suits(x.shape, shape, x.dtype, g):
        return winograd.kernel_grad(x, dy, g.padding)
    if math.prod(shape[:rank]) == 1 or max(g.strides) > 1 or _patches_pay(dy.shape[:-1], shape, g):
        columns = _patches(x, shape, g)
        return _dot(columns.reshape(-1, columns.shape[-1]).T, dy.reshape(-1, dy.shape[-1])).reshape(shape)
    pads = tuple(
        (low, (k - 1) * d + (o - 1) * s + 1 - n - low)
        for (low, _), k, d, o, s, n in zip(g.padding, shape, g.dilation, dy.shape[1:-1], g.strides, x.shape[1:-1], strict=False)
    )
    out = lax.conv_general_dilated(
        x.swapaxes(0, -1), jnp.moveaxis(dy, 0, -2), g.dilation, pads, rhs_dilation=g.strides, dimension_numbers=layout(x.ndim)
    )  # [C_in, *window, C_out]
    return jnp.moveaxis(out, 0, -2)


def _is_matmul(w: Array, g: Geometry) -> bool:
    return math.prod(w.shape[:-2]) == 1 and g.groups == 1 and max(g.strides) == 1 and not any(map(any, g.padding))


def _patches_pay(places: tuple[int, ...], w_shape: tuple[int, ...], g: Geometry) -> bool:
    return g.groups == 1 and 4 * math.prod(places) * math.prod(w_shape[:-1]) <= PATCH_BYTES


def _dot(a: Array, b: Array) -> Array:
    return lax.dot_general(a, b, (((a.ndim - 1,), (0,)), ((), ())))


def _patches(x: Array, shape: tuple[int, ...], g: Geometry) -> Array:
    """The input of every tap beside each other: `[B, *out, taps x C_in]`, in the order of the flattened kernel."""
    rank = x.ndim - 2
    x = jnp.pad(x, ((0, 0), *((max(low, 0), max(high, 0)) for low, high in g.padding), (0, 0)))
    outs = [(n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(x.shape[1:-1], shape, g.dilation, g.strides, strict=False)]
    columns = []
    for tap in np.ndindex(*shape[:rank]):
        starts = [i * d for i, d in zip(tap, g.dilation, strict=True)]
        stops = [a + (o - 1) * s + 1 for a, o, s in zip(starts, outs, g.strides, strict=True)]
        columns.append(lax.slice(x, (0, *starts, 0), (x.shape[0], *stops, x.shape[-1]), (1, *g.strides, 1)))
    return columns[0] if len(columns) == 1 else jnp.concatenate(columns, -1)
