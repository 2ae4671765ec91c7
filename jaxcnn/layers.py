"""Flax Linen blocks over `ops`, for any number of spatial axes; with `models/`, the only place that imports Linen."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn import ops
from jaxcnn.axis import all_sum, draw
from jaxcnn.ops.sums import channel_sums
from jaxcnn.precision import checked, policy, widened
from jaxcnn.remat import recompute
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
    pool: int = 1
    dtype: Any = None
    kernel_init: Callable[..., Array] = KERNEL_INIT

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, *spatial, C]` to `[B, *out, features]`; `pool` > 1 takes the maximum before the bias, which is the same and cheaper."""
        _check_channels(self, x.shape, self.groups)
        dtype = policy(self.dtype, x)
        kernel = self.param("kernel", self.kernel_init, (*self.window, x.shape[-1] // self.groups, self.features), dtype.params)
        y = ops.conv(
            x.astype(dtype.compute), kernel.astype(dtype.compute),
            strides=self.strides, padding=self.padding, dilation=self.dilation, groups=self.groups,
        )  # fmt: skip
        y = ops.max_pool(y, self.pool) if self.pool > 1 else y
        return _with_bias(self, y) if self.use_bias else y


class ConvTranspose(nn.Module):
    """Transposed convolution over `[B, *spatial, C]`; parameters `kernel` `[*window, C, features]` and `bias`.

    An axis of `n` places becomes `n * stride` with `"SAME"`, and `(n - 1) * stride + window - low - high` with numbers.

    Raises:
        InputError: the input has other channels than the one the parameters were made for.

    """

    features: int
    window: Sequence[int] = (2, 2)
    strides: int | Sequence[int] = 2
    padding: str | int | Sequence[tuple[int, int]] = "SAME"
    use_bias: bool = True
    dtype: Any = None
    kernel_init: Callable[..., Array] = KERNEL_INIT

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, *spatial, C]` to `[B, *out, features]`."""
        _check_channels(self, x.shape, 1)
        dtype = policy(self.dtype, x)
        kernel = self.param("kernel", self.kernel_init, (*self.window, x.shape[-1], self.features), dtype.params)
        y = ops.conv_transpose(x.astype(dtype.compute), kernel.astype(dtype.compute), strides=self.strides, padding=self.padding)
        return _with_bias(self, y) if self.use_bias else y


def _check_channels(module: nn.Module, shape: tuple[int, ...], groups: int) -> None:
    if module.has_variable("params", "kernel"):
        expected = module.get_variable("params", "kernel").shape[-2] * groups
        if shape[-1] != expected:
            raise InputError(f"image shape {tuple(shape)}: {shape[-1]} channels, but the parameters were made for {expected}")


def _with_bias(module: nn.Module, y: Array) -> Array:
    bias = module.param("bias", nn.initializers.zeros, (y.shape[-1],), jnp.float32)
    return y + lax.broadcast_to_rank(bias.astype(y.dtype), y.ndim)


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, 2015, arXiv:1502.03167) over all real rows of all devices.

    Statistics come in two passes, so no digits are lost where the mean is large, and are float32 or wider whatever the
    input. The running variance is the unbiased one, as in PyTorch. With `train=False` the running statistics are used.
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
        if not train:
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
        dtype = policy(self.dtype, x)
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), dtype.params)
        return _with_bias(self, x.astype(dtype.compute) @ kernel.astype(dtype.compute))


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
        options = {"groups": self.groups, "use_bias": False, "pool": self.pool, "dtype": self.dtype}
        x = Conv(self.features, self.window, self.strides, self.padding, **options, name="conv")(x)
        return self.activation(self.norm(dtype=self.dtype, name="norm")(x, train=train, real=real))


class SeparableConv(nn.Module):
    """Depthwise-separable convolution: one filter a channel, then 1x1 across the channels, each with norm and activation.

    Reference: Howard et al., 2017, arXiv:1704.04861.
    """

    features: int
    window: Sequence[int] = (3, 3)
    strides: int | Sequence[int] = 1
    padding: str | int | Sequence[tuple[int, int]] = "SAME"
    norm: Callable[..., nn.Module] = BatchNorm
    activation: Callable[[Array], Array] = nn.relu
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, real: Array | None = None) -> Array:
        """Map `[B, *spatial, C]` to `[B, *out, features]`."""
        make = functools.partial(ConvNorm, norm=self.norm, activation=self.activation, dtype=self.dtype)
        c = x.shape[-1]
        x = make(c, self.window, self.strides, self.padding, groups=c, name="depthwise")(x, train=train, real=real)
        return make(self.features, (1,) * len(self.window), name="pointwise")(x, train=train, real=real)


def apply_block(block: nn.Module, x: Array, *, train: bool, real: Array | None, remat: bool = False) -> Array:
    """Call `block(x, train=, real=)`; with `remat` its gradient computes the arrays inside anew instead of keeping them."""
    if not remat or not train or block.is_initializing():
        return block(x, train=train, real=real)
    module, variables = block.unbind()
    params = variables.pop("params")
    rngs = {"dropout": block.make_rng("dropout")} if block.has_rng("dropout") else {}  # one key, so both passes drop the same

    def pure(x: Array, rest: Any) -> tuple[Array, Any]:
        params, state, rngs, real = rest
        return module.apply({"params": params, **state}, x, train=True, real=real, rngs=rngs, mutable=list(state))

    y, changed = recompute(pure)(x, (params, variables, rngs, real))
    for collection, values in changed.items():
        for name, value in values.items():
            block.put_variable(collection, name, value)
    return y


class Network(nn.Module):
    """A model in two halves, `features(x) -> {name: array}` and `head(features) -> outputs`, so that others can use either.

    A field `dtype` takes what `precision.policy` takes, names included. Logits are float32 whatever it is: heads compute
    their last layer from `precision.widened` features.
    """

    def __post_init__(self) -> None:
        """Turn the name of a dtype into the dtype, or refuse it."""
        if hasattr(self, "dtype"):
            self.dtype = checked(self.dtype)
        super().__post_init__()

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
