"""Flax Linen blocks over `ops`, for any number of spatial axes; with `models/`, the only place that imports Linen."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn import ops
from jaxcnn.axis import all_sum, draw
from jaxcnn.types import InputError, align

Array = jax.Array
KERNEL_INIT = nn.initializers.he_normal()


def check_image(x: Array, ndim: int = 4) -> None:
    """Refuse an input of the wrong rank or dtype: models take `[B, *spatial, C]`, floating point."""
    if x.ndim != ndim:
        raise InputError(
            f"image shape {tuple(x.shape)}: must have {ndim} axes, [batch, height, width, channels]; add one with x[..., None]"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"image dtype {x.dtype}: a model takes floats, a task also uint8; use task.predict, or x.astype('float32') / 255")


def check_dropout(rate: float) -> None:
    """Refuse a share of units outside [0, 1)."""
    if not 0 <= rate < 1:
        raise InputError(f"dropout={rate}: must be at least 0 and below 1")


class Conv(nn.Module):
    """Convolution over `[B, *spatial, C]`; parameters `kernel` `[*window, C / groups, features]` and `bias`.

    Raises:
        InputError: the input has other channels than the one the parameters were made for.

    """

    features: int
    window: Sequence[int] = (3, 3)
    strides: int | Sequence[int] = 1
    padding: str | int | Sequence[tuple[int, int]] = "SAME"
    dilation: int | Sequence[int] = 1
    groups: int = 1
    use_bias: bool = True
    dtype: Any = None
    kernel_init: Callable[..., Array] = KERNEL_INIT

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, *spatial, C]` to `[B, *out, features]`."""
        if self.has_variable("params", "kernel"):
            expected = self.get_variable("params", "kernel").shape[-2] * self.groups
            if x.shape[-1] != expected:
                raise InputError(f"image shape {tuple(x.shape)}: {x.shape[-1]} channels, but the parameters were made for {expected}")
        kernel = self.param("kernel", self.kernel_init, (*self.window, x.shape[-1] // self.groups, self.features), jnp.float32)
        dtype = self.dtype or x.dtype
        y = ops.conv(
            x.astype(dtype), kernel.astype(dtype), strides=self.strides, padding=self.padding, dilation=self.dilation, groups=self.groups
        )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + lax.broadcast_to_rank(bias.astype(dtype), y.ndim)
        return y


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, 2015, arXiv:1502.03167) over all real rows of all devices.

    Statistics come in two passes, so no digits are lost where the mean is large. The running variance is the unbiased
    one, as in PyTorch. With `train=False` the running statistics are used.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, real: Array | None = None) -> Array:
        """Normalise `[B, *spatial, C]`; `real` `[B]` leaves padding out of the statistics."""
        c, axes = (x.shape[-1],), tuple(range(x.ndim - 1))
        spread = lambda channels: lax.broadcast_to_rank(channels, x.ndim)  # noqa: E731
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, c)
        running_var = self.variable("batch_stats", "var", jnp.ones, c)
        scale = self.param("scale", nn.initializers.ones, c, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, c, jnp.float32)
        mean, var = running_mean.value, running_var.value
        if train:
            wide = x.astype(jnp.float32)
            weight = None if real is None else align(real, x)
            places = x.size // (x.shape[0] * x.shape[-1])
            n = all_sum(jnp.float32(x.shape[0] * places) if real is None else real.sum() * places)
            total = lambda values: all_sum((values if weight is None else values * weight).sum(axes)) / jnp.maximum(n, 1)  # noqa: E731
            mean = total(wide)
            var = total(jnp.square(wide - spread(mean)))
            if not self.is_initializing():
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * var * n / jnp.maximum(n - 1, 1)
        dtype = self.dtype or x.dtype
        factor = lax.rsqrt(var + self.epsilon) * scale
        return ((x.astype(jnp.float32) - spread(mean)) * spread(factor) + spread(bias)).astype(dtype)


class Dropout(nn.Module):
    """Dropout (Srivastava et al., 2014) with the mask of the global batch: the same units on any number of devices.

    Raises:
        InputError: the rate is outside [0, 1).

    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Zero a share `rate` of the elements and scale the rest, when training."""
        check_dropout(self.rate)
        if not train or self.rate == 0:
            return x
        keep = draw(lambda key, shape: jax.random.bernoulli(key, 1 - self.rate, shape), self.make_rng("dropout"), x.shape)
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)


class Dense(nn.Module):
    """Fully connected layer over the last axis, with an error that a reader can act on when the width does not fit."""

    features: int
    dtype: Any = None
    kernel_init: Callable[..., Array] = KERNEL_INIT

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[..., C]` to `[..., features]`."""
        if self.has_variable("params", "kernel"):
            expected = self.get_variable("params", "kernel").shape[0]
            if x.shape[-1] != expected:
                raise InputError(
                    f"{x.shape[-1]} inputs to a dense layer of {expected}: the image differs in size or channels from the one at init"
                )
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        dtype = self.dtype or x.dtype
        return x.astype(dtype) @ kernel.astype(dtype) + lax.broadcast_to_rank(bias.astype(dtype), x.ndim)


class ConvNorm(nn.Module):
    """Convolution without bias, then a norm, then an activation; `norm` is any module called as `norm(x, train=, real=)`."""

    features: int
    window: Sequence[int] = (3, 3)
    strides: int | Sequence[int] = 1
    padding: str | int | Sequence[tuple[int, int]] = "SAME"
    groups: int = 1
    pool: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    activation: Callable[[Array], Array] = nn.relu
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, real: Array | None = None) -> Array:
        """Map `[B, *spatial, C]` to `[B, *out, features]`; `pool` > 1 takes the maximum before the norm, which then has less to do."""
        x = Conv(self.features, self.window, self.strides, self.padding, groups=self.groups, use_bias=False, dtype=self.dtype, name="conv")(
            x
        )
        if self.pool > 1:
            x = ops.max_pool(x, self.pool)
        return self.activation(self.norm(dtype=self.dtype, name="norm")(x, train=train, real=real))


class Network(nn.Module):
    """A model in two halves, `features(x) -> {name: array}` and `head(features) -> outputs`, so that others can use either."""

    def features(self, x: Array, *, train: bool = False, real: Array | None = None) -> dict[str, Array]:
        """Return intermediate arrays by name, the last one being what `head` reads."""
        raise TypeError(f"{type(self).__name__} defines no features()")

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return outputs, such as logits `[B, num_classes]`."""
        raise TypeError(f"{type(self).__name__} defines no head()")

    def __call__(self, x: Array, *, train: bool = False, real: Array | None = None) -> Array:
        """Map `[B, H, W, C]` float to the outputs of `head`."""
        check_image(x)
        return self.head(self.features(x, train=train, real=real), train=train)
