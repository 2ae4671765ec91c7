"""Norms: over the rows of all devices, over groups of channels of an image, and over the channels of a place."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.core.collectives import all_sum
from jaxcnn.core.precision import policy, promote_float32
from jaxcnn.core.types import Tree, check_whole
from jaxcnn.ops.pooling import align_mask
from jaxcnn.ops.sums import channel_sums, spread

Array = jax.Array
# the collection in which a training step gives, per norm, the largest share that a running statistic keeps of itself
YOUNG = "young_stats"


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, 2015, arXiv:1502.03167) over all real rows of all devices.

    Statistics come in two passes, so no digits are lost where the mean is large, and are float32 or wider whatever the
    input. The running variance is the unbiased one, as in PyTorch. With `train=False`, or where `batch_stats` may not
    be changed (Flax's `mutable`), the running statistics are used. Running statistics keep `momentum` of themselves, or
    less where a training step says that they are young: see `young`.

    Rows are those of the axis `"data"` where it is bound, and of all devices under jit; `jaxcnn.core.collectives.over`
    names another axis. With `frozen`, training uses the running statistics, too, and changes neither these nor scale
    and bias.

    Raises:
        InputError: `mask` has another shape than leading axes of the input, the input is not floating point, or another
            axis than `"data"` is bound and was not named.

    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = None
    scale_init: Callable[..., Array] = nn.initializers.ones
    frozen: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool, mask: Array | None = None) -> Array:
        """Normalise `[B, *spatial, C]`.

        Args:
            x: the array.
            train: whether to use the statistics of this batch, and to put them into the running ones.
            mask: 1 for what counts and 0 for padding, which the statistics leave out, for the leading axes of `x`:
                `[B]`, `[B, T]`, `[B, H, W]`, ... Where nothing counts, the running statistics stay.

        """
        c, dtype = (x.shape[-1],), policy(self.dtype, x)
        weight = None if mask is None else align_mask(mask, x).astype(jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, c, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, c, jnp.float32)
        scale = self.param("scale", self.scale_init, c, dtype.params)
        bias = self.param("bias", nn.initializers.zeros, c, dtype.params)
        if self.frozen:
            train, scale, bias = False, lax.stop_gradient(scale), lax.stop_gradient(bias)
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

    Running statistics begin at 0 and 1, and weights change fastest in the first updates, so an average over the usual
    ten batches is far from what the weights of the moment need: validation then loses where training does not. So with
    `n` updates before this one, running statistics keep at most `n / (n + 9)` of themselves: nothing of what they began
    with, and then about the last ninth of all batches. From `n = 82` on that is above the usual momentum of 0.9, which
    then holds.

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
    """Return `(x - mean) * factor + bias` per channel; subtracting first keeps digits where the mean is large."""
    mean, factor, bias = (lax.broadcast_to_rank(c, x.ndim) for c in (mean, factor, bias))
    return (promote_float32(x) - mean) * factor + bias


# With its own derivative: automatic differentiation of the two passes would read and write the arrays twice as
# often, for a term that is always zero, the sum of what is centred. Sums and repeats are each other's transposes, so
# its transpose is as fast.
@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _normalise(
    x: Array, scale: Array, bias: Array, weight: Array | None, epsilon: float
) -> tuple[Array, Array, Array, Array]:
    """Return `x` normalised, and mean, variance and number of the places that count, over all devices."""
    mean, var, n = _statistics(x, weight)
    return _shift_and_scale(x, mean, lax.rsqrt(var + epsilon) * scale, bias), mean, var, n


def _statistics(x: Array, weight: Array | None) -> tuple[Array, Array, Array]:
    wide = promote_float32(x)
    places = (
        jnp.asarray(math.prod(x.shape[:-1]), wide.dtype)
        if weight is None
        else weight.sum().astype(wide.dtype) * _each(x, weight)
    )
    n = all_sum(places)

    def counted(values):
        return all_sum(channel_sums(values if weight is None else values * weight)) / jnp.maximum(n, 1)

    mean = counted(wide)
    return mean, counted(jnp.square(wide - lax.broadcast_to_rank(mean, x.ndim))), n


def _each(x: Array, weight: Array) -> int:
    """How many places one weight counts for."""
    return math.prod(n for n, m in zip(x.shape[:-1], weight.shape, strict=False) if m == 1)


@_normalise.defjvp
def _normalise_jvp(epsilon: float, primals: Any, tangents: Any) -> tuple[Any, Any]:
    x, scale, bias, weight = primals
    dx, dscale, dbias, _ = tangents
    mean, var, n = _statistics(x, weight)
    inverse = lax.rsqrt(var + epsilon)
    y = _shift_and_scale(x, mean, inverse * scale, bias)
    dx, centred, n = promote_float32(dx), promote_float32(x) - lax.broadcast_to_rank(mean, x.ndim), jnp.maximum(n, 1)
    counted = dx if weight is None else dx * weight
    dmean, dvar = (s / n for s in all_sum((channel_sums(counted), 2 * channel_sums(counted * centred))))
    slope = inverse * dscale - 0.5 * inverse**3 * scale * dvar
    constant = dbias - inverse * scale * dmean
    dy = dx * lax.broadcast_to_rank(inverse * scale, x.ndim) + centred * spread(slope, x) + spread(constant, x)
    return (y, mean, var, n), (dy.astype(y.dtype), dmean, dvar, jnp.zeros_like(n))


class LayerNorm(nn.Module):
    """Layer normalisation over the channels (Ba et al., 2016, arXiv:1607.06450).

    It is called like `BatchNorm`, and does the same in training and in prediction.
    """

    epsilon: float = 1e-6
    dtype: Any = None
    scale_init: Callable[..., Array] = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False, mask: Array | None = None) -> Array:
        """Normalise `[..., C]`; statistics are float32 or wider."""
        del train, mask
        dtype, c = policy(self.dtype, x), (x.shape[-1],)
        scale, bias = (
            self.param("scale", self.scale_init, c, dtype.params),
            self.param("bias", nn.initializers.zeros, c, dtype.params),
        )
        wide = promote_float32(x)
        centred = wide - wide.mean(-1, keepdims=True)
        y = centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon)
        return (y * lax.broadcast_to_rank(scale, x.ndim) + lax.broadcast_to_rank(bias, x.ndim)).astype(dtype.compute)


class GroupNorm(nn.Module):
    """Group normalisation: over the places and the channels of a group, in each row alone (Wu and He, 2018).

    It is called like `BatchNorm`, and does the same in training and in prediction, whatever the size of the batch.

    Attributes:
        groups: number of groups; where the channels are no multiple of it, the greatest common divisor of both.
        epsilon: added to the variance.
        dtype: as in `precision.policy`.
        scale_init: initialiser of the scale, such as zeros where a block is to begin as the identity.

    Reference: Wu and He, 2018, arXiv:1803.08494.

    """

    groups: int = 32
    epsilon: float = 1e-5
    dtype: Any = None
    scale_init: Callable[..., Array] = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False, mask: Array | None = None) -> Array:
        """Normalise `[B, *spatial, C]`.

        Args:
            x: the array; statistics are float32 or wider.
            train: not used.
            mask: as in `BatchNorm`; one of whole rows, `[B]`, changes nothing, because rows do not mix.

        Raises:
            InputError: the number of groups is below 1, or the mask does not fit.

        """
        del train
        check_whole("groups", self.groups, 1)
        c, dtype = x.shape[-1], policy(self.dtype, x)
        scale = self.param("scale", self.scale_init, (c,), dtype.params)
        bias = self.param("bias", nn.initializers.zeros, (c,), dtype.params)
        places, wide = tuple(range(1, x.ndim - 1)), promote_float32(x)
        weight = jnp.ones((1,) * x.ndim, wide.dtype) if mask is None or mask.ndim < 2 else align_mask(mask, x)
        weight = weight.astype(wide.dtype)
        if mask is not None and mask.ndim >= 2:  # 0 x NaN is NaN, and padding may be anything
            wide = jnp.where((weight != 0) | jnp.isfinite(wide), wide, 0)
        count = weight.sum(places, keepdims=True) * _each(x[:1], weight[:1])
        size = c // math.gcd(self.groups, c)

        def mean(values: Array) -> Array:
            sums = (values * weight).sum(places, keepdims=True)
            total = sums.reshape(*sums.shape[:-1], -1, size).sum(-1)
            return jnp.repeat(total / jnp.maximum(count * size, 1), size, -1)

        centred = wide - mean(wide)
        factor = lax.rsqrt(mean(jnp.square(centred)) + self.epsilon) * lax.broadcast_to_rank(scale, x.ndim)
        return (centred * factor + lax.broadcast_to_rank(bias, x.ndim)).astype(dtype.compute)


class LayerScale(nn.Module):
    """One factor a channel for a residual branch, small at first (Touvron et al., 2021, arXiv:2103.17239)."""

    initial: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Scale `[..., C]`."""
        policy(None, x)  # integers are refused
        gamma = self.param("gamma", nn.initializers.constant(self.initial), (x.shape[-1],), jnp.float32)
        return x * lax.broadcast_to_rank(gamma.astype(x.dtype), x.ndim)
