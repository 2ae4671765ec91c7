"""Networks that assign time series to classes: InceptionTime, and the residual network of Wang et al. (2017).

InceptionTime: Ismail Fawaz et al., 2020, arXiv:1909.04939; the paper averages five such networks, this is one of them.
ResNet: Wang et al., 2017, arXiv:1611.06455. Both take series of different lengths: padding counts neither in
convolutions nor in the statistics of norms nor in means, so it never changes logits. In the papers all series have one
length.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn import ops
from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import InputError
from jaxcnn.layers import BatchNorm, Conv, Dense, Dropout, Network

Array = jax.Array


def check_series(x: Array, length: Array | None = None) -> None:
    """Refuse series that are not floating-point `[B, T, C]`, and lengths that are not integers `[B]`."""
    if x.ndim != 3 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(
            f"series of shape {tuple(x.shape)} and dtype {x.dtype}: must be floats, [batch, time, channels]; "
            "add an axis with x[..., None]"
        )
    if length is not None and (length.shape != x.shape[:1] or not jnp.issubdtype(length.dtype, jnp.integer)):
        raise InputError(
            f"length of shape {tuple(length.shape)} and dtype {length.dtype}: must be integers [{x.shape[0]}], "
            "one per series"
        )


def places(x: Array, length: Array | None) -> Array:
    """Return which places of `[B, T, C]` are no padding, bool `[B, T]`."""
    where = jnp.arange(x.shape[1])[None]
    return jnp.broadcast_to(True if length is None else where < length[:, None], x.shape[:2])


def possible(values: Array, steps: int, length: Array | None) -> Array:
    """Make rows `[B, ...]` NaN whose length is below 1 or above the number of steps."""
    if length is None:
        return values
    good = (length >= 1) & (length <= steps)
    return jnp.where(good.reshape(-1, *(1,) * (values.ndim - 1)), values, jnp.nan)


def kept(x: Array, mask: Array, fill: float = 0.0) -> Array:
    """Return `[B, T, C]` with `fill` where the mask `[B, T]` is false."""
    return jnp.where(mask[..., None], x, jnp.asarray(fill, x.dtype))


class MaskedConv(nn.Module):
    """A convolution over time and a norm; padding is zero before it, so that it is the padding of the convolution."""

    features: int
    kernel_size: int
    norm: bool = True
    relu: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, mask: Array, counted: Array, *, train: bool) -> Array:
        """Map `[B, T, C]` to `[B, T, features]`; `counted` is the mask without rows that are padding."""
        k = self.kernel_size
        around = (((k - 1) // 2, k // 2),)
        conv = Conv(self.features, (k,), padding=around, use_bias=False, dtype=self.dtype, name="conv")
        x = conv(kept(x, mask))
        x = BatchNorm(dtype=self.dtype, name="norm")(x, train=train, mask=counted) if self.norm else x
        return nn.relu(x) if self.relu else x


class InceptionModule(nn.Module):
    """Convolutions of several lengths side by side after a bottleneck, and one after a maximum over three places."""

    filters: int
    kernel_sizes: Sequence[int]
    bottleneck: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, mask: Array, counted: Array, *, train: bool) -> Array:
        """Map `[B, T, C]` to `[B, T, filters * (len(kernel_sizes) + 1)]`."""
        plain = {"norm": False, "relu": False, "dtype": self.dtype}
        narrow = x
        if self.bottleneck and x.shape[-1] > 1:
            narrow = MaskedConv(self.bottleneck, 1, name="bottleneck", **plain)(x, mask, counted, train=train)
        parts = [
            MaskedConv(self.filters, k, name=f"conv{k}", **plain)(narrow, mask, counted, train=train)
            for k in self.kernel_sizes
        ]
        highest = ops.max_pool(kept(x, mask, float(jnp.finfo(x.dtype).min)), 3, strides=1, padding=((1, 1),))
        parts.append(MaskedConv(self.filters, 1, name="pooled", **plain)(highest, mask, counted, train=train))
        y = jnp.concatenate(parts, -1)
        return nn.relu(BatchNorm(dtype=self.dtype, name="norm")(y, train=train, mask=counted))


class ResidualModule(nn.Module):
    """Three convolutions of the residual network, the last without its ReLU."""

    filters: int
    kernel_sizes: Sequence[int]
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, mask: Array, counted: Array, *, train: bool) -> Array:
        """Map `[B, T, C]` to `[B, T, filters]`."""
        last = len(self.kernel_sizes) - 1
        for i, k in enumerate(self.kernel_sizes):
            conv = MaskedConv(self.filters, k, relu=i < last, dtype=self.dtype, name=f"conv{i + 1}")
            x = conv(x, mask, counted, train=train)
        return x


class SeriesNetwork(Network):
    """Modules over time, shortcuts around groups of them, the mean over time, and a linear layer.

    A subclass makes `blocks`, `shortcuts` (by the number of the block after which the sum comes), `drop` and `logits`.
    """

    default_image = (64, 1)

    def features(
        self, x: Array, *, train: bool = False, row_mask: Array | None = None, length: Array | None = None
    ) -> dict[str, Array]:
        """Return `block1`, `block2`, ..., each `[B, T, width]` and 0 in padding, and `pooled` `[B, width]`."""
        check_series(x, length)
        mask = places(x, length)
        counted = mask if row_mask is None else mask & (row_mask > 0)[:, None]
        out, steps, begun = {}, x.shape[1], x
        for i, block in enumerate(self.blocks, 1):
            x = block(x, mask, counted, train=train)
            if i in self.around:
                x = nn.relu(x + self.shortcuts[self.around.index(i)](begun, mask, counted, train=train))
                begun = x
            x = out[f"block{i}"] = kept(x, mask)
        pooled = ops.global_avg_pool(promote_float32(x), mask)
        return {**out, "pooled": possible(pooled, steps, length)}

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]`."""
        return self.logits(self.drop(features["pooled"], train=train))

    def __call__(
        self, x: Array, *, train: bool = False, row_mask: Array | None = None, length: Array | None = None
    ) -> Array:
        """Map float `[B, T, C]`, of whose rows the first `length` steps are no padding, to `[B, num_classes]`."""
        return self.head(self.features(x, train=train, row_mask=row_mask, length=length), train=train)


class InceptionTime(SeriesNetwork):
    """See `inception_time`."""

    num_classes: int = 2
    filters: int = 32
    depth: int = 6
    kernel_sizes: Sequence[int] = (40, 20, 10)
    bottleneck: int = 32
    dropout: float = 0.0
    dtype: Any = None

    def setup(self) -> None:
        """Make the layers."""
        self.blocks = [
            InceptionModule(self.filters, self.kernel_sizes, self.bottleneck, self.dtype) for _ in range(self.depth)
        ]
        self.around = tuple(range(3, self.depth + 1, 3))
        width = self.filters * (len(self.kernel_sizes) + 1)
        self.shortcuts = [MaskedConv(width, 1, relu=False, dtype=self.dtype) for _ in self.around]
        self.drop, self.logits = Dropout(self.dropout), Dense(self.num_classes)


class SeriesResNet(SeriesNetwork):
    """See `series_resnet`."""

    num_classes: int = 2
    widths: Sequence[int] = (64, 128, 128)
    kernel_sizes: Sequence[int] = (8, 5, 3)
    dropout: float = 0.0
    dtype: Any = None

    def setup(self) -> None:
        """Make the layers."""
        self.blocks = [ResidualModule(width, self.kernel_sizes, self.dtype) for width in self.widths]
        self.around = tuple(range(1, len(self.widths) + 1))
        self.shortcuts = [MaskedConv(width, 1, relu=False, dtype=self.dtype) for width in self.widths]
        self.drop, self.logits = Dropout(self.dropout), Dense(self.num_classes)


def inception_time(num_classes: int = 2, **options: Any) -> InceptionTime:
    """InceptionTime of Ismail Fawaz et al. (2020, arXiv:1909.04939), for series `[B, T, C]` with `length` `[B]`.

    Args:
        num_classes: number of logits.
        **options: `filters` (of each convolution, 32), `depth` (modules, 6; a shortcut goes around every three of
            them), `kernel_sizes` (steps, 40, 20 and 10), `bottleneck` (channels before the long convolutions, 32; 0 for
            none), `dropout` (before the last layer, 0), `dtype`.

    Returns:
        A network that is called as `apply(variables, x, train=, row_mask=, length=)`.

    Raises:
        InputError: a size below 1.

    """
    made = InceptionTime(num_classes, **options)
    _sizes(made.num_classes, made.filters, made.depth, *made.kernel_sizes, count=len(made.kernel_sizes))
    return made


def series_resnet(num_classes: int = 2, **options: Any) -> SeriesResNet:
    """Residual network of Wang et al. (2017, arXiv:1611.06455), for series `[B, T, C]` with `length` `[B]`.

    Every shortcut has a convolution of one step; the paper leaves it out where the width stays.

    Args:
        num_classes: number of logits.
        **options: `widths` (channels of each block, 64, 128 and 128), `kernel_sizes` (steps of the convolutions of a
            block, 8, 5 and 3), `dropout` (before the last layer, 0), `dtype`.

    Returns:
        A network that is called as `apply(variables, x, train=, row_mask=, length=)`.

    Raises:
        InputError: a size below 1.

    """
    made = SeriesResNet(num_classes, **options)
    _sizes(made.num_classes, *made.widths, *made.kernel_sizes, count=min(len(made.widths), len(made.kernel_sizes)))
    return made


def _sizes(*values: int, count: int) -> None:
    if min(values) < 1 or count < 1:
        raise InputError(f"sizes {list(values)} of a network for series: must be at least 1, and at least one of each")
