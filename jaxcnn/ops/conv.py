"""Convolution of any rank: one differentiable function, lowered per platform (native on GPU and TPU, by shape on a CPU)."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive

from jaxcnn.core.types import InputError
from jaxcnn.ops.geometry import Geometry, check_floating, extents, is_known, out_sizes, resolve_padding, to_tuple
from jaxcnn.ops.lowering import table
from jaxcnn.ops.native import is_native, native_forward, native_input_grad, native_kernel_grad
from jaxcnn.ops.primitives import bind, fold_rows, linear, primitive

Array = jax.Array


def conv(
    x: Array,
    kernel: Array,
    *,
    strides: int | Sequence[int] = 1,
    padding: str | int | Sequence[tuple[int, int]] = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Array:
    """Convolve channels-last arrays of one, two or three spatial axes (cross-correlation, as in every deep-learning library).

    Derivatives of any order and both modes are defined; each is again a convolution lowered here, because XLA's own
    gradient layouts are up to 100 times slower on a CPU inside a compiled loop.

    Args:
        x: `[B, *spatial, C_in]`, floating point.
        kernel: `[*window, C_in / groups, C_out]`, the dtype of `x`.
        strides: one number, or one an axis.
        padding: `"SAME"`, `"VALID"`, a number on both sides of every axis, or `(low, high)` pairs, none of them negative.
        dilation: distance between the taps of the kernel.
        groups: groups of channels that do not see each other.

    Returns:
        `[B, *out, C_out]`.

    Raises:
        InputError: ranks, channels, groups or dtypes do not fit each other, the dtype is not floating point, or the image is smaller
            than the kernel.

    """
    return forward(x, kernel, geometry(x, kernel, strides, padding, dilation, groups))


def depthwise_conv(x: Array, kernel: Array, **options) -> Array:
    """Convolve every channel with kernels of its own: `conv` with as many groups as there are channels.

    Args:
        x: `[B, *spatial, C]`.
        kernel: `[*window, 1, C x multiplier]`; outputs of one channel lie beside each other.
        options: `strides`, `padding`, `dilation` of `conv`.

    """
    return conv(x, kernel, groups=x.shape[-1], **options)


def conv_transpose(
    x: Array,
    kernel: Array,
    *,
    strides: int | Sequence[int] = 1,
    padding: str | int | Sequence[tuple[int, int]] = "SAME",
    dilation: int | Sequence[int] = 1,
    output_padding: int | Sequence[int] = 0,
) -> Array:
    """Transposed convolution, the exact transpose of `conv` (Zeiler et al., 2010), as in PyTorch and Keras.

    `jax.lax.conv_transpose` flips the kernel by default; this does not.

    Args:
        x: `[B, *spatial, C_in]`, floating point.
        kernel: `[*window, C_in, C_out]`, the dtype of `x`.
        strides: how many times larger the result is.
        padding: what `conv` would have added to the result; `"SAME"` makes it exactly `strides` times larger.
        dilation: distance between the taps of the kernel.
        output_padding: rows to append at the end of each axis, less than the stride, where several sizes have the same convolution.

    Returns:
        `[B, *out, C_out]`, `out = (n - 1) * stride + window - low - high + output_padding` with numeric padding.

    Raises:
        InputError: ranks, channels or dtypes do not fit each other, the dtype is not floating point, or nothing would be left.

    """
    _check("conv_transpose", x, kernel, x.shape[-1], kernel.shape[-2])
    rank = x.ndim - 2
    strides, dilation = to_tuple(strides, rank, "strides"), to_tuple(dilation, rank, "dilation")
    extra, extent = to_tuple(output_padding, rank, "output_padding", 0), extents(kernel.shape[:rank], dilation)
    if any(e >= s for e, s in zip(extra, strides, strict=True)):
        raise InputError(f"output_padding={output_padding}: must be less than strides={strides}")
    if padding == "SAME":
        grown = sizes = tuple(n * s for n, s in zip(x.shape[1:-1], strides, strict=True))
        pads = resolve_padding(padding, tuple(max(n, e) if is_known(n) else n for n, e in zip(sizes, extent, strict=True)), extent, strides)
    else:
        grown = tuple((n - 1) * s + e for n, s, e in zip(x.shape[1:-1], strides, extent, strict=True))
        pads = resolve_padding(padding, grown, extent, strides)
        sizes = tuple(n - low - high for n, (low, high) in zip(grown, pads, strict=True))
    if any(n < 1 for n in sizes if is_known(n)):
        raise InputError(f"conv_transpose: padding={padding} leaves nothing of {grown}")
    sizes = tuple(n + e for n, e in zip(sizes, extra, strict=True))
    return input_grad(x, kernel.swapaxes(-1, -2), Geometry(strides, pads, dilation), sizes)


def geometry(x: Array, kernel: Array, strides: Any = 1, padding: Any = "SAME", dilation: Any = 1, groups: int = 1) -> Geometry:
    """Check what `conv` is given, and resolve it for this image and kernel."""
    _check("conv", x, kernel, x.shape[-1], kernel.shape[-2] * groups)
    if kernel.shape[-1] % groups:
        raise InputError(f"conv: groups={groups} does not divide the {kernel.shape[-1]} output channels")
    rank = x.ndim - 2
    strides, dilation = to_tuple(strides, rank, "strides"), to_tuple(dilation, rank, "dilation")
    pads = resolve_padding(padding, x.shape[1:-1], extents(kernel.shape[:rank], dilation), strides)
    return Geometry(strides, pads, dilation, groups)


def _check(name: str, x: Array, kernel: Array, channels: int, expected: int) -> None:
    if not 1 <= x.ndim - 2 <= 3 or kernel.ndim != x.ndim:
        raise InputError(f"{name}: image {x.shape} and kernel {kernel.shape} must both have one, two or three spatial axes and two more")
    check_floating(name, image=x, kernel=kernel)
    if channels != expected:
        raise InputError(f"{name}: {channels} channels in {x.shape}, but kernel {kernel.shape} with these groups needs {expected}")


# Convolution is bilinear: each of the three maps below has the other two as its derivatives, so the triple is closed
# under differentiation and a gradient of a gradient never falls back to a slow layout.
def forward(x: Array, w: Array, g: Geometry) -> Array:
    """`[B, *spatial, C_in]` and a kernel to `[B, *out, C_out]`."""
    return native_forward(x, w, g) if is_native() else bind(FORWARD, x, w, geometry=g)


def input_grad(dy: Array, w: Array, g: Geometry, sizes: tuple[int, ...]) -> Array:
    """Transpose of `forward` in its image, which has these spatial sizes."""
    return _native_input_grad(dy, w, g, sizes) if is_native() else bind(INPUT_GRAD, dy, w, geometry=g, sizes=sizes)


def kernel_grad(x: Array, dy: Array, g: Geometry, window: tuple[int, ...]) -> Array:
    """Transpose of `forward` in its kernel, which has this window."""
    return _native_kernel_grad(x, dy, g, window) if is_native() else bind(KERNEL_GRAD, x, dy, geometry=g, window=window)


def _native_input_grad(dy: Array, w: Array, geometry: Geometry, sizes: tuple[int, ...]) -> Array:
    return native_input_grad(dy, w, geometry, (dy.shape[0], *sizes, w.shape[-2] * geometry.groups))


def _native_kernel_grad(x: Array, dy: Array, geometry: Geometry, window: tuple[int, ...]) -> Array:
    return native_kernel_grad(x, dy, geometry, (*window, x.shape[-1] // geometry.groups, dy.shape[-1]))


def cpu_forward(x: Array, w: Array, geometry: Geometry) -> Array:
    """CPU form of `forward`."""
    return _wide(table.forward, native_forward, x, w, geometry)


def cpu_input_grad(dy: Array, w: Array, geometry: Geometry, sizes: tuple[int, ...]) -> Array:
    """CPU form of `input_grad`."""
    return _wide(table.input_grad, native_input_grad, dy, w, geometry, (dy.shape[0], *sizes, w.shape[-2] * geometry.groups))


def cpu_kernel_grad(x: Array, dy: Array, geometry: Geometry, window: tuple[int, ...]) -> Array:
    """CPU form of `kernel_grad`."""
    shape = (*window, x.shape[-1] // geometry.groups, dy.shape[-1])
    return _wide(table.kernel_grad, native_kernel_grad, x, dy, geometry, shape)


def _wide(cpu_form: Callable[..., Array], native_form: Callable[..., Array], a: Array, b: Array, *static: Any) -> Array:
    """Compute in 32 bits or more, as CPUs do anyway; sums of taps in 16 would lose digits."""
    if 0 in a.shape:
        return native_form(a, b, *static)
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    return cpu_form(a.astype(dtype), b.astype(dtype), *static).astype(a.dtype)


def forward_shapes(x: Any, w: Any, geometry: Geometry) -> Any:
    """Shape and dtype of what `forward` returns."""
    return jax.ShapeDtypeStruct((x.shape[0], *out_sizes(x.shape[1:-1], w.shape[:-2], geometry), w.shape[-1]), x.dtype)


def input_grad_shapes(dy: Any, w: Any, geometry: Geometry, sizes: tuple[int, ...]) -> Any:
    """Shape and dtype of what `input_grad` returns."""
    return jax.ShapeDtypeStruct((dy.shape[0], *sizes, w.shape[-2] * geometry.groups), dy.dtype)


def kernel_grad_shapes(x: Any, dy: Any, geometry: Geometry, window: tuple[int, ...]) -> Any:
    """Shape and dtype of what `kernel_grad` returns."""
    return jax.ShapeDtypeStruct((*window, x.shape[-1] // geometry.groups, dy.shape[-1]), x.dtype)


# What `jax.vmap` makes of them: an image that is mapped becomes more rows; another operand that is, more channels of the result.
def _fold_forward(operation: Primitive, arrays: Sequence[Any], axes: Sequence[int | None], geometry: Geometry) -> Array | None:
    if axes[1] is None:
        return fold_rows(operation, arrays, axes, rows=(0,), geometry=geometry)
    if axes[0] is not None or geometry.groups > 1:
        return None
    y = bind(operation, arrays[0], _joined(arrays[1], axes[1], -1), geometry=geometry)
    return _parted(y, arrays[1].shape[axes[1]], -1)


def _fold_input_grad(
    operation: Primitive, arrays: Sequence[Any], axes: Sequence[int | None], geometry: Geometry, sizes: tuple[int, ...]
) -> Array | None:
    if axes[1] is None:
        return fold_rows(operation, arrays, axes, rows=(0,), geometry=geometry, sizes=sizes)
    if axes[0] is not None or geometry.groups > 1:
        return None
    dx = bind(operation, arrays[0], _joined(arrays[1], axes[1], -2), geometry=geometry, sizes=sizes)
    return _parted(dx, arrays[1].shape[axes[1]], -1)


def _fold_kernel_grad(
    operation: Primitive, arrays: Sequence[Any], axes: Sequence[int | None], geometry: Geometry, window: tuple[int, ...]
) -> Array | None:
    if None not in axes or geometry.groups > 1:
        return None
    place = 1 - axes.index(None)  # of the operand that is mapped
    count = arrays[place].shape[axes[place]]
    joined = [_joined(x, axes[i], -1) if i == place else x for i, x in enumerate(arrays)]
    return _parted(bind(operation, *joined, geometry=geometry, window=window), count, place - 2)


def _joined(x: Array, axis: int, channels: int) -> Array:
    """Move an axis in front of the channels, and make one of both."""
    x = jnp.moveaxis(x, axis, channels - 1)
    at = x.ndim + channels
    return x.reshape(*x.shape[: at - 1], x.shape[at - 1] * x.shape[at], *x.shape[at + 1 :])


def _parted(x: Array, count: int, channels: int) -> Array:
    """Undo `_joined`, the axis in front of all."""
    at = x.ndim + channels
    return jnp.moveaxis(x.reshape(*x.shape[:at], count, x.shape[at] // count, *x.shape[at + 1 :]), at, 0)


FORWARD = primitive("conv", lambda x, w, geometry: native_forward(x, w, geometry), cpu_forward, shapes=forward_shapes, fold=_fold_forward)
INPUT_GRAD = primitive("conv_input_grad", _native_input_grad, cpu_input_grad, shapes=input_grad_shapes, fold=_fold_input_grad)
KERNEL_GRAD = primitive("conv_kernel_grad", _native_kernel_grad, cpu_kernel_grad, shapes=kernel_grad_shapes, fold=_fold_kernel_grad)


def spatial(x: Any, mapped: bool = False) -> tuple[int, ...]:
    """Spatial sizes of `[B, *spatial, C]`, of which several may be mapped."""
    return tuple(x.shape[1 + mapped : -1])


def window_of(w: Any, mapped: bool = False) -> tuple[int, ...]:
    """Window of a kernel `[*window, C_in, C_out]`, of which several may be mapped."""
    return tuple(w.shape[mapped:-2])


linear(
    FORWARD,
    {
        0: lambda ct, x, w, geometry, mapped: bind(INPUT_GRAD, ct, w, geometry=geometry, sizes=spatial(x, mapped), mapped=mapped),
        1: lambda ct, x, w, geometry, mapped: bind(KERNEL_GRAD, x, ct, geometry=geometry, window=window_of(w, mapped), mapped=mapped),
    },
)
linear(
    INPUT_GRAD,
    {
        0: lambda ct, dy, w, geometry, sizes, mapped: bind(FORWARD, ct, w, geometry=geometry, mapped=mapped),
        1: lambda ct, dy, w, geometry, sizes, mapped: bind(
            KERNEL_GRAD, ct, dy, geometry=geometry, window=window_of(w, mapped), mapped=mapped
        ),
    },
)
linear(
    KERNEL_GRAD,
    {
        0: lambda ct, x, dy, geometry, window, mapped: bind(INPUT_GRAD, dy, ct, geometry=geometry, sizes=spatial(x, mapped), mapped=mapped),
        1: lambda ct, x, dy, geometry, window, mapped: bind(FORWARD, x, ct, geometry=geometry, mapped=mapped),
    },
)
