"""Rounding to the steps of an 8-bit integer and back: what a quantised program computes, as floating point."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.ops.native import is_whole
from jaxcnn.ops.primitives import bind, primitive

Array = jax.Array
HIGHEST = 255  # of an unsigned integer, for what layers read and make
LARGEST = 127  # size of a signed integer, for kernels


def fake_quantise(x: Array, grid: Array) -> Array:
    """Round to the values that an unsigned 8-bit integer stands for: `(q - zero) * step` with q from 0 to 255.

    Halves go to the even integer, as in ONNX. The derivative is 1 within the range of these values and 0 outside, the
    straight-through estimator (Bengio et al., 2013, arXiv:1308.3432); the grid has no derivative.

    Args:
        x: floating point, of any shape.
        grid: `[2]` float32: the step, above 0, and the integer that stands for 0.

    Returns:
        The shape and dtype of `x`.

    """
    step, zero = grid[0], jnp.round(grid[1])
    wide = x.astype(jnp.float32)
    y = bind(ROUNDED, wide, step, zero) if is_whole() else _straight(wide, step, zero, 0, HIGHEST)
    return y.astype(x.dtype)


def fake_quantise_kernel(kernel: Array) -> Array:
    """Round a kernel to the values that a signed 8-bit integer stands for, with a step per output channel.

    The largest weight of a channel becomes 127 or -127, and 0 stays 0. The derivative is 1.

    Args:
        kernel: `[..., C_out]`, floating point.

    Returns:
        The shape and dtype of `kernel`.

    """
    wide = kernel.astype(jnp.float32)
    most = jnp.abs(wide).max(tuple(range(kernel.ndim - 1)), keepdims=True)
    step = jax.lax.stop_gradient(jnp.where(most > 0, most, 1) / LARGEST)
    # no weight is out of range, whatever the rounding of its quotient
    return _straight(wide, step, jnp.zeros_like(step), -LARGEST - 1, LARGEST + 1).astype(kernel.dtype)


def _rounded(x: Array, step: Array, zero: Array, low: int = 0, high: int = HIGHEST) -> Array:
    return (jnp.clip(jnp.round(x / step) + zero, low, high) - zero) * step


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _straight(x: Array, step: Array, zero: Array, low: int, high: int) -> Array:
    return _rounded(x, step, zero, low, high)


@_straight.defjvp
def _straight_jvp(low: int, high: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    x, step, zero = primals
    inside = (x >= (low - zero) * step) & (x <= (high - zero) * step)
    return _straight(x, step, zero, low, high), jnp.where(inside, tangents[0], 0)


ROUNDED = primitive("fake_quantise", _rounded, _rounded)  # traced in `whole_operations` alone
