"""Norms: over the rows of all devices, and over the channels of a place."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.axis import all_sum
from jaxcnn.ops.sums import channel_sums
from jaxcnn.precision import policy, widened
from jaxcnn.types import align

Array = jax.Array


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, 2015, arXiv:1502.03167) over all real rows of all devices.

    Statistics come in two passes, so no digits are lost where the mean is large, and are float32 or wider whatever the
    input. The running variance is the unbiased one, as in PyTorch. With `train=False`, or where `batch_stats` may not be
    changed (Flax's `mutable`), the running statistics are used.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = None
    scale_init: Callable[..., Array] = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Array, *, train: bool, real: Array | None = None) -> Array:
        """Normalise `[B, *spatial, C]`; `real` `[B]` leaves padding out of the statistics."""
        c, dtype = (x.shape[-1],), policy(self.dtype, x)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, c, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, c, jnp.float32)
        scale = self.param("scale", self.scale_init, c, dtype.params)
        bias = self.param("bias", nn.initializers.zeros, c, dtype.params)
        if not (train and self.is_mutable_collection("batch_stats")):
            factor = lax.rsqrt(running_var.value + self.epsilon) * scale
            return _shift_and_scale(x, running_mean.value, factor, bias).astype(dtype.compute)
        weight = None if real is None else align(real, x).astype(jnp.float32)
        y, mean, var, n = _normalise(x, scale, bias, weight, self.epsilon)
        if not self.is_initializing():
            for running, now in ((running_mean, mean), (running_var, var * n / jnp.maximum(n - 1, 1))):
                running.value = (self.momentum * running.value + (1 - self.momentum) * now).astype(running.value.dtype)
        return y.astype(dtype.compute)


def _shift_and_scale(x: Array, mean: Array, factor: Array, bias: Array) -> Array:
    """`(x - mean) * factor + bias` by channel; subtracted first, which keeps the digits that a large mean would cost."""
    mean, factor, bias = (lax.broadcast_to_rank(c, x.ndim) for c in (mean, factor, bias))
    return (widened(x) - mean) * factor + bias


# With its own gradient: what automatic differentiation makes of the two passes reads and writes the arrays twice as often.
@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _normalise(x: Array, scale: Array, bias: Array, weight: Array | None, epsilon: float) -> tuple[Array, Array, Array, Array]:
    """Normalised `x`, and mean, variance and number of the places that `weight` `[B, 1, ..., 1]` counts, over all devices."""
    return _normalise_forward(x, scale, bias, weight, epsilon)[0]


def _normalise_forward(x: Array, scale: Array, bias: Array, weight: Array | None, epsilon: float) -> tuple[Any, Any]:
    wide, places = widened(x), x.size // (x.shape[0] * x.shape[-1])
    counted = lambda values: all_sum(channel_sums(values if weight is None else values * weight)) / jnp.maximum(n, 1)  # noqa: E731
    n = all_sum(jnp.asarray(x.shape[0] * places, wide.dtype) if weight is None else weight.sum().astype(wide.dtype) * places)
    mean = counted(wide)
    var = counted(jnp.square(wide - lax.broadcast_to_rank(mean, x.ndim)))
    inverse = lax.rsqrt(var + epsilon)
    return (_shift_and_scale(x, mean, inverse * scale, bias), mean, var, n), (x, scale, weight, mean, inverse, n)


def _normalise_backward(epsilon: float, saved: Any, cotangents: Any) -> tuple[Array, Array, Array, None]:
    del epsilon
    x, scale, weight, mean, inverse, n = saved
    dy, dmean, dvar, _ = cotangents
    centred = widened(x) - lax.broadcast_to_rank(mean, x.ndim)
    dbias, moment = channel_sums(dy), channel_sums(dy * centred)
    # the sums see every device; the gradients of scale and bias stay this device's share, as those of all parameters do
    dmean, dvar, all_bias, all_moment = all_sum((dmean, dvar, dbias, moment))
    n = jnp.maximum(n, 1)
    constant, slope = (dmean - inverse * scale * all_bias) / n, (2 * dvar - scale * inverse**3 * all_moment) / n
    from_statistics = centred * lax.broadcast_to_rank(slope, x.ndim) + lax.broadcast_to_rank(constant, x.ndim)
    from_statistics = from_statistics if weight is None else from_statistics * weight
    dx = dy * lax.broadcast_to_rank(inverse * scale, x.ndim) + from_statistics
    return dx.astype(x.dtype), (moment * inverse).astype(scale.dtype), dbias.astype(scale.dtype), None


_normalise.defvjp(_normalise_forward, _normalise_backward)


class LayerNorm(nn.Module):
    """Layer normalisation over the channels (Ba et al., 2016, arXiv:1607.06450); called like `BatchNorm`, and the same in training."""

    epsilon: float = 1e-6
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False, real: Array | None = None) -> Array:
        """Normalise `[..., C]`; statistics are float32 or wider."""
        del train, real
        dtype, c = policy(self.dtype, x), (x.shape[-1],)
        scale, bias = self.param("scale", nn.initializers.ones, c, dtype.params), self.param("bias", nn.initializers.zeros, c, dtype.params)
        wide = widened(x)
        centred = wide - wide.mean(-1, keepdims=True)
        y = centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon)
        return (y * lax.broadcast_to_rank(scale, x.ndim) + lax.broadcast_to_rank(bias, x.ndim)).astype(dtype.compute)


class LayerScale(nn.Module):
    """One factor a channel for a residual branch, small at first (Touvron et al., 2021, arXiv:2103.17239)."""

    initial: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Scale `[..., C]`."""
        gamma = self.param("gamma", nn.initializers.constant(self.initial), (x.shape[-1],), jnp.float32)
        return x * lax.broadcast_to_rank(gamma.astype(x.dtype), x.ndim)
