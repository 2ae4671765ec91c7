"""Densely connected networks (Huang et al., 2016, arXiv:1608.06993), with bottlenecks and compression (DenseNet-BC)."""

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn import ops
from jaxcnn.layers import BatchNorm, Conv, ConvNorm, Dense, Dropout, Staged

Array = jax.Array


class NormConv(nn.Module):
    """Norm, ReLU, convolution: the order inside a dense network; without `features`, only norm and ReLU."""

    features: int = 0
    kernel_size: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, row_mask: Array | None = None) -> Array:
        """Map `[B, H, W, C]` to `[B, H, W, features]`."""
        x = nn.relu(self.norm(dtype=self.dtype, name="norm")(x, train=train, mask=row_mask))
        if not self.features:
            return x
        k = self.kernel_size
        return Conv(self.features, (k, k), padding=k // 2, use_bias=False, dtype=self.dtype, name="conv")(x)


class DenseLayer(nn.Module):
    """Append `growth` channels to the input."""

    growth: int
    dropout: float = 0.0
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, row_mask: Array | None = None) -> Array:
        """Map `[B, H, W, C]` to `[B, H, W, C + growth]`."""
        make = functools.partial(NormConv, norm=self.norm, dtype=self.dtype)
        y = make(4 * self.growth, 1, name="layer1")(x, train=train, row_mask=row_mask)
        y = make(self.growth, 3, name="layer2")(y, train=train, row_mask=row_mask)
        return jnp.concatenate([x, Dropout(self.dropout)(y, train=train)], -1)


class Transition(nn.Module):
    """Halve the number of channels and the resolution."""

    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, row_mask: Array | None = None) -> Array:
        """Map `[B, H, W, C]` to `[B, H / 2, W / 2, C / 2]`."""
        layer = NormConv(x.shape[-1] // 2, norm=self.norm, dtype=self.dtype, name="layer")
        return ops.avg_pool(layer(x, train=train, row_mask=row_mask), 2)


class DenseNet(Staged):
    """See `densenet121`."""

    num_classes: int
    blocks: Sequence[int]
    growth: int = 32
    width: int = 64
    dropout: float = 0.0
    norm: Callable[..., nn.Module] = BatchNorm
    remat: bool = False
    dtype: Any = None

    smallest = 29
    pools = types.MappingProxyType({1: functools.partial(ops.max_pool, window=3, strides=2, padding=1)})

    def setup(self) -> None:
        """Make the layers."""
        options = {"norm": self.norm, "dtype": self.dtype}
        self.stem = ConvNorm(self.width, (7, 7), 2, 3, **options)
        layers = [[DenseLayer(self.growth, self.dropout, **options) for _ in range(count)] for count in self.blocks]
        self.stages = [[Transition(**options), *stage] if i else stage for i, stage in enumerate(layers)]
        self.last = NormConv(**options)
        self.drop = Dropout(0.0)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())


def densenet121(num_classes: int = 1000, **options: Any) -> DenseNet:
    """58 dense layers of 32 channels; 7,978,856 parameters. Images must be at least 29x29.

    Args:
        num_classes: number of logits.
        **options: `growth` (channels of a layer, 32), `width` (channels of the stem, 64), `dropout` after every layer,
            `norm`, `remat` (less memory in training, more time), `dtype`.

    """
    return DenseNet(num_classes, (6, 12, 24, 16), **options)


def densenet169(num_classes: int = 1000, **options: Any) -> DenseNet:
    """82 dense layers; 14,149,480 parameters. Arguments as for `densenet121`."""
    return DenseNet(num_classes, (6, 12, 32, 32), **options)
