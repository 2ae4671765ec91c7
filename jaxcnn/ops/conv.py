"""Convolution of any rank, lowered per platform: native on GPU and TPU, by shape on a CPU."""

from collections.abc import Sequence
from typing import Any

import jax

from jaxcnn.core.types import InputError, check_whole, whole_numbers
from jaxcnn.ops.bilinear import forward, input_grad
from jaxcnn.ops.geometry import Geometry, check_floating, extents, is_known, resolve_padding, settle_padding

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
    """Convolve channels-last arrays with one, two or three spatial axes.

    As in every deep-learning library, this is cross-correlation: the kernel is not flipped.

    Derivatives of any order and both modes are defined; each is again a convolution lowered here, because XLA's own
    gradient layouts are up to 100 times slower on a CPU inside a compiled loop.

    Args:
        x: `[B, *spatial, C_in]`, floating point.
        kernel: `[*window, C_in / groups, C_out]`, the dtype of `x`.
        strides: one number, or one an axis.
        padding: `"SAME"`, `"VALID"`, a number on both sides of every axis, or `(low, high)` pairs, none of them
            negative.
        dilation: distance between the taps of the kernel.
        groups: groups of channels that do not see each other.

    Returns:
        `[B, *out, C_out]`.

    Raises:
        InputError: ranks, channels, groups or dtypes do not fit each other, the dtype is not floating point, or the
            image is smaller than the kernel.

    """
    x, g = settle_padding(x, geometry(x, kernel, strides, padding, dilation, groups))
    return forward(x, kernel, g)


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
        output_padding: rows to append at the end of each axis, less than the stride, where several sizes have the same
            convolution.

    Returns:
        `[B, *out, C_out]`, `out = (n - 1) * stride + window - low - high + output_padding` with numeric padding.

    Raises:
        InputError: ranks, channels or dtypes do not fit each other, the dtype is not floating point, or nothing would
            be left.

    """
    _check("conv_transpose", x, kernel, x.shape[-1], kernel.shape[-2])
    rank = x.ndim - 2
    strides, dilation = whole_numbers("strides", strides, rank), whole_numbers("dilation", dilation, rank)
    extra, extent = whole_numbers("output_padding", output_padding, rank, 0), extents(kernel.shape[:rank], dilation)
    if any(e >= s for e, s in zip(extra, strides, strict=True)):
        raise InputError(f"output_padding={output_padding}: must be less than strides={strides}")
    if padding == "SAME":
        grown = sizes = tuple(n * s for n, s in zip(x.shape[1:-1], strides, strict=True))
        pads = resolve_padding(
            padding, tuple(max(n, e) if is_known(n) else n for n, e in zip(sizes, extent, strict=True)), extent, strides
        )
    else:
        grown = tuple((n - 1) * s + e for n, s, e in zip(x.shape[1:-1], strides, extent, strict=True))
        pads = resolve_padding(padding, grown, extent, strides)
        sizes = tuple(n - low - high for n, (low, high) in zip(grown, pads, strict=True))
    if any(n < 1 for n in sizes if is_known(n)):
        raise InputError(f"conv_transpose: padding={padding} leaves nothing of {grown}")
    sizes = tuple(n + e for n, e in zip(sizes, extra, strict=True))
    return input_grad(x, kernel.swapaxes(-1, -2), Geometry(strides, pads, dilation), sizes)


def geometry(
    x: Array, kernel: Array, strides: Any = 1, padding: Any = "SAME", dilation: Any = 1, groups: int = 1
) -> Geometry:
    """Check what `conv` is given, and resolve it for this image and kernel."""
    check_whole("groups", groups, 1)
    _check("conv", x, kernel, x.shape[-1], kernel.shape[-2] * groups)
    if kernel.shape[-1] % groups:
        raise InputError(f"conv: groups={groups} does not divide the {kernel.shape[-1]} output channels")
    rank = x.ndim - 2
    strides, dilation = whole_numbers("strides", strides, rank), whole_numbers("dilation", dilation, rank)
    pads = resolve_padding(padding, x.shape[1:-1], extents(kernel.shape[:rank], dilation), strides)
    return Geometry(strides, pads, dilation, groups)


def _check(name: str, x: Array, kernel: Array, channels: int, expected: int) -> None:
    if not 1 <= x.ndim - 2 <= 3 or kernel.ndim != x.ndim:
        raise InputError(
            f"{name}: image {x.shape} and kernel {kernel.shape} must both have one, two or three spatial axes "
            "and two more"
        )
    check_floating(name, image=x, kernel=kernel)
    if channels != expected:
        raise InputError(
            f"{name}: {channels} channels in {x.shape}, but kernel {kernel.shape} with these groups needs {expected}"
        )
