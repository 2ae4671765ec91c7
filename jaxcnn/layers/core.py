"""Basic layers: convolution, dense, and two kinds of dropout."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn import ops
from jaxcnn.core.collectives import draw
from jaxcnn.core.precision import policy
from jaxcnn.core.types import InputError, check_numbers, check_whole, whole_numbers

Array = jax.Array
KERNEL_INIT = nn.initializers.he_normal()


def check_image(x: Array, ndim: int = 4) -> None:
    """Refuse an input with the wrong rank or dtype: models take floating-point `[B, *spatial, C]`."""
    if x.ndim != ndim:
        first = "depth or time, " if ndim == 5 else ""
        raise InputError(
            f"image shape {tuple(x.shape)}: must have {ndim} axes, [batch, {first}height, width, channels]; "
            "add one with x[..., None]"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(
            f"image dtype {x.dtype}: a model takes floats, a task also uint8; use task.predict, or "
            "x.astype('float32') / 255"
        )


def check_scaled(name: str, x: Array) -> None:
    """Refuse integers where a layer scales values, because the result would be rounded."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(
            f"{name}: input of shape {tuple(x.shape)} is {x.dtype}: must be floating point; use x.astype('float32')"
        )


def check_dropout(rate: float) -> None:
    """Refuse a dropout rate outside [0, 1)."""
    check_numbers(rate=rate)
    if not 0 <= rate < 1:
        raise InputError(f"dropout={rate}: must be at least 0 and below 1")


class Conv(nn.Module):
    """Convolution over `[B, *spatial, C]`; parameters `kernel` `[*kernel_size, C / groups, features]` and `bias`.

    Raises:
        InputError: a size is no whole number, or the number of input channels differs from that of the parameters.

    """

    features: int
    kernel_size: Sequence[int] = (3, 3)
    strides: int | Sequence[int] = 1
    padding: str | int | Sequence[tuple[int, int]] = "SAME"
    dilation: int | Sequence[int] = 1
    groups: int = 1
    use_bias: bool = True
    pool: int = 1
    dtype: Any = None
    kernel_init: Callable[..., Array] = KERNEL_INIT
    bias_init: Callable[..., Array] = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, *spatial, C]` to `[B, *out, features]`; max pooling with `pool` > 1 comes before the bias."""
        window = _window(self)
        check_whole("groups", self.groups, 1)
        check_whole("pool", self.pool, 1)
        _check_channels(self, x.shape, self.groups)
        dtype = policy(self.dtype, x)
        kernel = self.param(
            "kernel", self.kernel_init, (*window, x.shape[-1] // self.groups, self.features), dtype.params
        )
        conv = functools.partial(ops.conv_max_pool, window=self.pool) if self.pool > 1 else ops.conv
        y = conv(
            x.astype(dtype.compute), kernel.astype(dtype.compute),
            strides=self.strides, padding=self.padding, dilation=self.dilation, groups=self.groups,
        )  # fmt: skip
        return _with_bias(self, y, self.bias_init) if self.use_bias else y


class ConvTranspose(nn.Module):
    """Transposed convolution over `[B, *spatial, C]`; parameters `kernel` `[*kernel_size, C, features]` and `bias`.

    An axis of length `n` gets length `n * stride` with `"SAME"`, or `(n - 1) * stride + kernel_size - low - high` with
    explicit padding.

    Raises:
        InputError: a size is no whole number, or the number of input channels differs from that of the parameters.

    """

    features: int
    kernel_size: Sequence[int] = (2, 2)
    strides: int | Sequence[int] = 2
    padding: str | int | Sequence[tuple[int, int]] = "SAME"
    use_bias: bool = True
    dtype: Any = None
    kernel_init: Callable[..., Array] = KERNEL_INIT

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, *spatial, C]` to `[B, *out, features]`."""
        window = _window(self)
        _check_channels(self, x.shape, 1)
        dtype = policy(self.dtype, x)
        kernel = self.param("kernel", self.kernel_init, (*window, x.shape[-1], self.features), dtype.params)
        y = ops.conv_transpose(
            x.astype(dtype.compute), kernel.astype(dtype.compute), strides=self.strides, padding=self.padding
        )
        return _with_bias(self, y) if self.use_bias else y


def _window(module: Conv | ConvTranspose) -> tuple[int, ...]:
    """Return the size of the kernel, and check it and the number of features."""
    check_whole("features", module.features, 1)
    if not isinstance(module.kernel_size, Sequence):
        raise InputError(f"kernel_size={module.kernel_size!r}: must have a number for each axis, as (3, 3)")
    return whole_numbers("kernel_size", module.kernel_size, len(module.kernel_size))


def _check_channels(module: nn.Module, shape: tuple[int, ...], groups: int) -> None:
    if module.has_variable("params", "kernel"):
        expected = module.get_variable("params", "kernel").shape[-2] * groups
        if shape[-1] != expected:
            raise InputError(
                f"image shape {tuple(shape)}: has {shape[-1]} channels, but the parameters are for {expected}"
            )


def _with_bias(module: nn.Module, y: Array, init: Callable[..., Array] = nn.initializers.zeros) -> Array:
    bias = module.param("bias", init, (y.shape[-1],), jnp.float32)
    return y + lax.broadcast_to_rank(bias.astype(y.dtype), y.ndim)


class Dropout(nn.Module):
    """Dropout (Srivastava et al., 2014) with one mask for the global batch: the same units on any number of devices.

    Raises:
        InputError: the rate is outside [0, 1).

    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """In training, zero a share `rate` of the elements and scale up the rest."""
        check_dropout(self.rate)
        if not train or self.rate == 0:
            return x
        check_scaled("dropout", x)
        key = self.make_rng("dropout")
        keep = draw(lambda key, shape: jax.random.bernoulli(key, 1 - self.rate, shape), key, x.shape)
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)


class Dense(nn.Module):
    """Fully connected layer over the last axis; a width that does not fit gives an error that names the cause."""

    features: int
    dtype: Any = None
    kernel_init: Callable[..., Array] = KERNEL_INIT
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[..., C]` to `[..., features]`."""
        check_whole("features", self.features, 1)
        if self.has_variable("params", "kernel"):
            expected = self.get_variable("params", "kernel").shape[0]
            if x.shape[-1] != expected:
                raise InputError(
                    f"{x.shape[-1]} inputs to a dense layer of {expected}: give images with the size and channels "
                    "that the model was initialised with"
                )
        dtype = policy(self.dtype, x)
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), dtype.params)
        y = x.astype(dtype.compute) @ kernel.astype(dtype.compute)
        return _with_bias(self, y) if self.use_bias else y


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016, arXiv:1603.09382): drop a residual branch for rows of the global batch.

    Raises:
        InputError: the rate is outside [0, 1).

    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """In training, zero a share `rate` of the rows of `[B, ...]` and scale up the rest."""
        if not 0 <= self.rate < 1:
            raise InputError(f"drop_path={self.rate}: must be at least 0 and below 1")
        if not train or self.rate == 0:
            return x
        check_scaled("drop_path", x)
        shape = (x.shape[0], *(1,) * (x.ndim - 1))
        keep = draw(lambda key, shape: jax.random.bernoulli(key, 1 - self.rate, shape), self.make_rng("dropout"), shape)
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)
