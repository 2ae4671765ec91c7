"""Norms: over the rows of all devices, and over the channels of a place."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.core.collectives import all_sum
from jaxcnn.core.precision import policy, promote_float32
from jaxcnn.core.types import Tree
from jaxcnn.ops.pooling import align_mask
from jaxcnn.ops.sums import channel_sums

Array = jax.Array
YOUNG = "young_stats"  # a collection that a training step lends: the most that a running statistic may keep of itself, for each norm


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, 2015, arXiv:1502.03167) over all real rows of all devices.

    Statistics come in two passes, so no digits are lost where the mean is large, and are float32 or wider whatever the
    input. The running variance is the unbiased one, as in PyTorch. With `train=False`, or where `batch_stats` may not be
    changed (Flax's `mutable`), the running statistics are used. Running statistics keep `momentum` of themselves, or less where
    a training step says that they are young: see `young`.

    Rows are those of the axis `"data"` where it is bound, and of all devices under jit; `jaxcnn.core.collectives.over` names another axis.

    Raises:
        InputError: `mask` has another shape than leading axes of the input, the input is not floating point, or another axis than
            `"data"` is bound and was not named.

    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = None
    scale_init: Callable[..., Array] = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Array, *, train: bool, mask: Array | None = None) -> Array:
        """Normalise `[B, *spatial, C]`.

        Args:
            x: the array.
            train: whether to use the statistics of this batch, and to put them into the running ones.
            mask: 1 for what counts and 0 for padding, which the statistics leave out, for the leading axes of `x`: `[B]`, `[B, T]`,
                `[B, H, W]`, ... Where nothing counts, the running statistics stay.

        """
        c, dtype = (x.shape[-1],), policy(self.dtype, x)
        weight = None if mask is None else align_mask(mask, x).astype(jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, c, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, c, jnp.float32)
        scale = self.param("scale", self.scale_init, c, dtype.params)
        bias = self.param("bias", nn.initializers.zeros, c, dtype.params)
        if not (train and self.is_mutable_collection("batch_stats")):
            factor = lax.rsqrt(running_var.value + self.epsilon) * scale
            return _shift_and_scale(x, running_mean.value, factor, bias).astype(dtype.compute)
        if weight is not None:  # 0 x NaN is NaN, and padding may be anything
            x = jnp.where((weight != 0) | jnp.isfinite(x), x, 0)
        y, mean, var, n = cast(tuple[Array, ...], _normalise(x, scale, bias, weight, self.epsilon))
        if not self.is_initializing():
            keep, take = self._shares()
            for running, now in ((running_mean, mean), (running_var, var * n / jnp.maximum(n - 1, 1))):
                mixed = (keep * running.value + take * now).astype(running.value.dtype)
                running.value = mixed if weight is None else jnp.where(n > 0, mixed, running.value)
        return y.astype(dtype.compute)

    def _shares(self) -> tuple[Any, Any]:
        """What running statistics keep of themselves and take of this batch."""
        if self.momentum >= 1 or not self.has_variable(YOUNG, "keep"):  # a momentum of 1 keeps them as they are
            return self.momentum, 1 - self.momentum
        most = self.get_variable(YOUNG, "keep")
        young = most < self.momentum
        return jnp.where(young, most, self.momentum), jnp.where(young, 1 - most, 1 - self.momentum)


def young(model_state: Tree, updates: Array) -> Tree:
    """Lend norms the number of updates before this one, for a training pass; `grown` takes it back.

    Running statistics begin at 0 and 1, and weights change fastest in the first updates, so an average over the usual ten batches
    is far from what the weights of the moment need: validation then loses where training does not. So with `n` updates before this
    one, running statistics keep at most `n / (n + 9)` of themselves: nothing of what they began with, and then about the last ninth
    of all batches. From `n = 82` on that is above the usual momentum of 0.9, which then holds.

    Args:
        model_state: collections of the model; one without `"batch_stats"` comes back as it is.
        updates: a scalar, 0 before the first one.

    """
    if "batch_stats" not in model_state:
        return model_state
    n = jnp.asarray(updates, jnp.float32)
    return type(model_state)({**model_state, YOUNG: _beside(model_state["batch_stats"], n / (n + 9))})


def grown(model_state: Tree) -> Tree:
    """Return the model state without what `young` lent."""
    return (
        type(model_state)({name: kept for name, kept in model_state.items() if name != YOUNG})
        if YOUNG in model_state
        else model_state
    )


def _beside(stats: Tree, keep: Array) -> Tree:
    """A tree with `keep` for every module that has statistics."""
    inner = {name: _beside(part, keep) for name, part in stats.items() if isinstance(part, Mapping)}
    return inner if len(inner) == len(stats) else {**inner, "keep": keep}


def _shift_and_scale(x: Array, mean: Array, factor: Array, bias: Array) -> Array:
    """`(x - mean) * factor + bias` by channel; subtracted first, which keeps the digits that a large mean would cost."""
    mean, factor, bias = (lax.broadcast_to_rank(c, x.ndim) for c in (mean, factor, bias))
    return (promote_float32(x) - mean) * factor + bias


# With its own gradient: what automatic differentiation makes of the two passes reads and writes the arrays twice as often.
@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _normalise(
    x: Array, scale: Array, bias: Array, weight: Array | None, epsilon: float
) -> tuple[Array, Array, Array, Array]:
    """Normalised `x`, and mean, variance and number of the places that `weight` `[B, ..., 1]` counts, over all devices."""
    return _normalise_forward(x, scale, bias, weight, epsilon)[0]


def _normalise_forward(x: Array, scale: Array, bias: Array, weight: Array | None, epsilon: float) -> tuple[Any, Any]:
    wide, places = promote_float32(x), x.size // ((x.shape[0] if weight is None else max(weight.size, 1)) * x.shape[-1])
    counted = lambda values: all_sum(channel_sums(values if weight is None else values * weight)) / jnp.maximum(n, 1)  # noqa: E731
    n = all_sum(
        jnp.asarray(x.shape[0] * places, wide.dtype) if weight is None else weight.sum().astype(wide.dtype) * places
    )
    mean = counted(wide)
    var = counted(jnp.square(wide - lax.broadcast_to_rank(mean, x.ndim)))
    inverse = lax.rsqrt(var + epsilon)
    return (_shift_and_scale(x, mean, inverse * scale, bias), mean, var, n), (x, scale, weight, mean, inverse, n)


def _normalise_backward(epsilon: float, saved: Any, cotangents: Any) -> tuple[Array, Array, Array, None]:
    del epsilon
    x, scale, weight, mean, inverse, n = saved
    dy, dmean, dvar, _ = cotangents
    centred = promote_float32(x) - lax.broadcast_to_rank(mean, x.ndim)
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
    def __call__(self, x: Array, *, train: bool = False, mask: Array | None = None) -> Array:
        """Normalise `[..., C]`; statistics are float32 or wider."""
        del train, mask
        dtype, c = policy(self.dtype, x), (x.shape[-1],)
        scale, bias = (
            self.param("scale", nn.initializers.ones, c, dtype.params),
            self.param("bias", nn.initializers.zeros, c, dtype.params),
        )
        wide = promote_float32(x)
        centred = wide - wide.mean(-1, keepdims=True)
        y = centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon)
        return (y * lax.broadcast_to_rank(scale, x.ndim) + lax.broadcast_to_rank(bias, x.ndim)).astype(dtype.compute)


class LayerScale(nn.Module):
    """One factor a channel for a residual branch, small at first (Touvron et al., 2021, arXiv:2103.17239)."""

    initial: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Scale `[..., C]`."""
        policy(None, x)  # integers are refused
        gamma = self.param("gamma", nn.initializers.constant(self.initial), (x.shape[-1],), jnp.float32)
        return x * lax.broadcast_to_rank(gamma.astype(x.dtype), x.ndim)
