"""XLA's own convolution and its transposes: right on GPU and TPU, and what every other lowering must equal."""

import jax
from jax import lax

from jaxcnn.ops.geometry import Geometry

Array = jax.Array


def layout(ndim: int) -> tuple[str, str, str]:
    """Dimension numbers of channels-last arrays with `ndim - 2` spatial axes."""
    axes = "DHW"[-(ndim - 2) :]
    return f"N{axes}C", f"{axes}IO", f"N{axes}C"


def native_forward(x: Array, w: Array, g: Geometry) -> Array:
    """`[B, *spatial, C_in]` and `[*window, C_in / groups, C_out]` to `[B, *out, C_out]`."""
    return lax.conv_general_dilated(
        x, w, g.strides, g.padding, rhs_dilation=g.dilation, feature_group_count=g.groups, dimension_numbers=layout(x.ndim)
    )


def native_input_grad(dy: Array, w: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    """Transpose of `native_forward` in its first argument."""
    (dx,) = jax.linear_transpose(lambda x: native_forward(x, w, g), jax.ShapeDtypeStruct(shape, dy.dtype))(dy)
    return dx


def native_kernel_grad(x: Array, dy: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    """Transpose of `native_forward` in its second argument."""
    (dw,) = jax.linear_transpose(lambda w: native_forward(x, w, g), jax.ShapeDtypeStruct(shape, x.dtype))(dy)
    return dw
