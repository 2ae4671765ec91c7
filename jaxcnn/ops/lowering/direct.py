"""CPU form of convolution: XLA's own, with gradients written so that loops keep the layout of the fast kernel."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.geometry import Geometry, as_forward
from jaxcnn.ops.lowering.record import Case, Lowering, Shape
from jaxcnn.ops.native import layout, native_forward

Array = jax.Array


def suits(case: Case) -> bool:
    """Whatever nothing else suits."""
    del case
    return True


def input_grad(dy: Array, w: Array, g: Geometry, shape: Shape) -> Array:
    """Gradient to the input, `[B, *spatial, C]`."""
    pads, flipped = as_forward(dy.shape, w.shape, g, shape), jnp.flip(w, tuple(range(w.ndim - 2))).swapaxes(-1, -2)
    return lax.conv_general_dilated(
        dy,
        flipped,
        (1,) * (dy.ndim - 2),
        pads,
        lhs_dilation=g.strides,
        rhs_dilation=g.dilation,
        dimension_numbers=layout(dy.ndim),
    )


def kernel_grad(x: Array, dy: Array, g: Geometry, shape: Shape) -> Array:
    """Gradient to the kernel, `[*window, C, K]`."""
    pads = tuple(
        (low, (k - 1) * d + (o - 1) * s + 1 - n - low)
        for (low, _), k, d, o, s, n in zip(
            g.padding, shape, g.dilation, dy.shape[1:-1], g.strides, x.shape[1:-1], strict=False
        )
    )
    out = lax.conv_general_dilated(
        x.swapaxes(0, -1),
        jnp.moveaxis(dy, 0, -2),
        g.dilation,
        pads,
        rhs_dilation=g.strides,
        dimension_numbers=layout(x.ndim),
    )  # [C, *window, K]
    return jnp.moveaxis(out, 0, -2)


LOWERING = Lowering(suits, native_forward, input_grad, kernel_grad)
