"""Convolution of any rank: one differentiable function, lowered per platform (native on GPU and TPU, `cpu` by shape)."""

import functools
from collections.abc import Sequence

import jax
from jax import lax

from jaxcnn.ops import cpu
from jaxcnn.ops.geometry import Geometry, resolve_padding, to_tuple
from jaxcnn.ops.native import native_forward, native_input_grad, native_kernel_grad
from jaxcnn.types import InputError

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

    Reverse-mode derivatives of any order are defined; each is again a convolution lowered here, because XLA's own
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
        InputError: ranks, channels or groups do not fit each other, or the image is smaller than the kernel.

    """
    rank = x.ndim - 2
    if not 1 <= rank <= 3 or kernel.ndim != x.ndim:
        raise InputError(f"conv: image {x.shape} and kernel {kernel.shape} must both have one, two or three spatial axes and two more")
    if x.shape[-1] != kernel.shape[-2] * groups:
        raise InputError(
            f"conv: {x.shape[-1]} channels in {x.shape}, but kernel {kernel.shape} with groups={groups} needs {kernel.shape[-2] * groups}"
        )
    if kernel.shape[-1] % groups:
        raise InputError(f"conv: groups={groups} does not divide the {kernel.shape[-1]} output channels")
    strides, dilation = to_tuple(strides, rank, "strides"), to_tuple(dilation, rank, "dilation")
    extent = tuple((k - 1) * d + 1 for k, d in zip(kernel.shape[:rank], dilation, strict=True))
    pads = resolve_padding(padding, x.shape[1:-1], extent, strides)
    return _forward(x, kernel, Geometry(strides, pads, dilation, groups))


# Convolution is bilinear: each of the three maps below has the other two as its derivatives, so the triple is closed
# under differentiation and a gradient of a gradient never falls back to a slow layout.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _forward(x: Array, w: Array, g: Geometry) -> Array:
    return _by_platform(cpu.conv_forward, native_forward, x, w, g)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _input_grad(dy: Array, w: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    return _by_platform(cpu.conv_input_grad, native_input_grad, dy, w, g, shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _kernel_grad(x: Array, dy: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    return _by_platform(cpu.conv_kernel_grad, native_kernel_grad, x, dy, g, shape)


_forward.defvjp(
    lambda x, w, g: (_forward(x, w, g), (x, w)),
    lambda g, res, dy: (_input_grad(dy, res[1], g, res[0].shape), _kernel_grad(res[0], dy, g, res[1].shape)),
)
_input_grad.defvjp(
    lambda dy, w, g, shape: (_input_grad(dy, w, g, shape), (dy, w)),
    lambda g, shape, res, ct: (_forward(ct, res[1], g), _kernel_grad(ct, res[0], g, res[1].shape)),
)
_kernel_grad.defvjp(
    lambda x, dy, g, shape: (_kernel_grad(x, dy, g, shape), (x, dy)),
    lambda g, shape, res, ct: (_input_grad(res[1], ct, g, res[0].shape), _forward(res[0], ct, g)),
)


def _by_platform(cpu_form, native_form, a: Array, b: Array, *static) -> Array:
    return lax.platform_dependent(a, b, cpu=lambda a, b: cpu_form(a, b, *static), default=lambda a, b: native_form(a, b, *static))
