"""Convolution and its two gradients as three primitives, each the others' transposes.

Convolution is bilinear: each of the three maps has the other two as its derivatives, so the triple is closed under
differentiation and a derivative of any order never falls back to a slow layout.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive

from jaxcnn.ops.geometry import Geometry, out_sizes
from jaxcnn.ops.lowering import table
from jaxcnn.ops.native import is_native, native_forward, native_input_grad, native_kernel_grad
from jaxcnn.ops.primitives import bind, fold_rows, linear, primitive

Array = jax.Array
Sizes = tuple[int, ...]
Axes = Sequence[int | None]


def forward(x: Array, w: Array, g: Geometry) -> Array:
    """`[B, *spatial, C_in]` and a kernel to `[B, *out, C_out]`."""
    return native_forward(x, w, g) if is_native() else bind(FORWARD, x, w, geometry=g)


def input_grad(dy: Array, w: Array, g: Geometry, sizes: Sizes) -> Array:
    """Transpose of `forward` in its image, which has these spatial sizes."""
    return (
        native_input_grad(dy, w, g, image_shape(dy, w, g, sizes))
        if is_native()
        else bind(INPUT_GRAD, dy, w, geometry=g, sizes=sizes)
    )


def image_shape(dy: Any, w: Any, geometry: Geometry, sizes: Sizes) -> Sizes:
    """Shape of an image with these spatial sizes."""
    return (dy.shape[0], *sizes, w.shape[-2] * geometry.groups)


def kernel_shape(x: Any, dy: Any, geometry: Geometry, window: Sizes) -> Sizes:
    """Shape of a kernel with this window."""
    return (*window, x.shape[-1] // geometry.groups, dy.shape[-1])


def sizes_of(x: Any, mapped: bool) -> Sizes:
    """Spatial sizes of `[B, *spatial, C]`, of which there may be many along an axis in front."""
    return tuple(x.shape[1 + mapped : -1])


def window_of(w: Any, mapped: bool) -> Sizes:
    """Window of a kernel `[*window, C_in, C_out]`, of which there may be many along an axis in front."""
    return tuple(w.shape[mapped:-2])


# The forms for CPUs compute in 32 bits or more, as CPUs do anyway: sums of taps in 16 would lose digits.
def cpu_forward(x: Array, w: Array, geometry: Geometry) -> Array:
    """Form of `forward` for CPUs."""
    return _wide(table.forward, native_forward, x, w, geometry)


def cpu_input_grad(dy: Array, w: Array, geometry: Geometry, sizes: Sizes) -> Array:
    """Form of `input_grad` for CPUs."""
    return _wide(table.input_grad, native_input_grad, dy, w, geometry, image_shape(dy, w, geometry, sizes))


def cpu_kernel_grad(x: Array, dy: Array, geometry: Geometry, window: Sizes) -> Array:
    """Form of the gradient of a kernel with this window for CPUs."""
    return _wide(table.kernel_grad, native_kernel_grad, x, dy, geometry, kernel_shape(x, dy, geometry, window))


def _wide(cpu: Callable[..., Array], native: Callable[..., Array], a: Array, b: Array, *static: Any) -> Array:
    if 0 in a.shape:
        return native(a, b, *static)
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    return cpu(a.astype(dtype), b.astype(dtype), *static).astype(a.dtype)


# Under `jax.vmap`, an image that is mapped becomes more rows, and another operand that is, more channels of the result.
def _fold_forward(operation: Primitive, arrays: Sequence[Any], axes: Axes, geometry: Geometry) -> Array | None:
    if axes[1] is None:
        return fold_rows(operation, arrays, axes, rows=(0,), geometry=geometry)
    if axes[0] is not None or geometry.groups > 1:
        return None
    return _parted(
        bind(operation, arrays[0], _joined(arrays[1], axes[1], -1), geometry=geometry), arrays[1].shape[axes[1]], -1
    )


def _fold_input_grad(
    operation: Primitive, arrays: Sequence[Any], axes: Axes, geometry: Geometry, sizes: Sizes
) -> Array | None:
    if axes[1] is None:
        return fold_rows(operation, arrays, axes, rows=(0,), geometry=geometry, sizes=sizes)
    if axes[0] is not None or geometry.groups > 1:
        return None
    dx = bind(operation, arrays[0], _joined(arrays[1], axes[1], -2), geometry=geometry, sizes=sizes)
    return _parted(dx, arrays[1].shape[axes[1]], -1)


def _fold_kernel_grad(
    operation: Primitive, arrays: Sequence[Any], axes: Axes, geometry: Geometry, window: Sizes
) -> Array | None:
    mapped = [i for i, axis in enumerate(axes) if axis is not None]
    if len(mapped) > 1 or geometry.groups > 1:
        return None
    joined = [x if axis is None else _joined(x, axis, -1) for x, axis in zip(arrays, axes, strict=True)]
    dw = bind(operation, *joined, geometry=geometry, window=window)
    return _parted(dw, arrays[mapped[0]].shape[axes[mapped[0]]], mapped[0] - 2)


def _joined(x: Array, axis: int, channels: int) -> Array:
    """Move an axis in front of the channels, and make one of both."""
    x = jnp.moveaxis(x, axis, channels - 1)
    at = x.ndim + channels
    return x.reshape(*x.shape[: at - 1], x.shape[at - 1] * x.shape[at], *x.shape[at + 1 :])


def _parted(x: Array, count: int, channels: int) -> Array:
    """Undo `_joined`, the axis in front of all."""
    at = x.ndim + channels
    return jnp.moveaxis(x.reshape(*x.shape[:at], count, x.shape[at] // count, *x.shape[at + 1 :]), at, 0)


FORWARD = primitive(
    "conv",
    lambda x, w, geometry: native_forward(x, w, geometry),
    cpu_forward,
    shapes=lambda x, w, geometry: jax.ShapeDtypeStruct(
        (x.shape[0], *out_sizes(x.shape[1:-1], w.shape[:-2], geometry), w.shape[-1]), x.dtype
    ),
    fold=_fold_forward,
)
INPUT_GRAD = primitive(
    "conv_input_grad",
    lambda dy, w, geometry, sizes: native_input_grad(dy, w, geometry, image_shape(dy, w, geometry, sizes)),
    cpu_input_grad,
    shapes=lambda dy, w, geometry, sizes: jax.ShapeDtypeStruct(image_shape(dy, w, geometry, sizes), dy.dtype),
    fold=_fold_input_grad,
)
KERNEL_GRAD = primitive(
    "conv_kernel_grad",
    lambda x, dy, geometry, window: native_kernel_grad(x, dy, geometry, kernel_shape(x, dy, geometry, window)),
    cpu_kernel_grad,
    shapes=lambda x, dy, geometry, window: jax.ShapeDtypeStruct(kernel_shape(x, dy, geometry, window), x.dtype),
    fold=_fold_kernel_grad,
)


def _to_image(dy: Any, w: Any, x: Any, geometry: Geometry, mapped: bool) -> Array:
    return bind(INPUT_GRAD, dy, w, geometry=geometry, sizes=sizes_of(x, mapped), mapped=mapped)


def _to_kernel(x: Any, dy: Any, w: Any, geometry: Geometry, mapped: bool) -> Array:
    return bind(KERNEL_GRAD, x, dy, geometry=geometry, window=window_of(w, mapped), mapped=mapped)


linear(
    FORWARD,
    {
        0: lambda ct, x, w, geometry, mapped: _to_image(ct, w, x, geometry, mapped),
        1: lambda ct, x, w, geometry, mapped: _to_kernel(x, ct, w, geometry, mapped),
    },
)
linear(
    INPUT_GRAD,
    {
        0: lambda ct, dy, w, geometry, sizes, mapped: bind(FORWARD, ct, w, geometry=geometry, mapped=mapped),
        1: lambda ct, dy, w, geometry, sizes, mapped: _to_kernel(ct, dy, w, geometry, mapped),
    },
)
linear(
    KERNEL_GRAD,
    {
        0: lambda ct, x, dy, geometry, window, mapped: _to_image(dy, ct, x, geometry, mapped),
        1: lambda ct, x, dy, geometry, window, mapped: bind(FORWARD, x, ct, geometry=geometry, mapped=mapped),
    },
)
