"""SqueezeNet (Iandola et al., 2016, arXiv:1602.07360), and its cheaper version 1.1, both without bypass."""

import functools
import types
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn import ops
from jaxcnn.core.precision import promote_float32
from jaxcnn.layers import Conv, Dropout, Staged

Array = jax.Array
pool = functools.partial(ops.max_pool, window=3, strides=2, ceil=True)


class Fire(nn.Module):
    """1x1 to few channels, then 1x1 and 3x3 side by side, with four times as many channels each."""

    squeezed: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> Array:
        """Map `[B, H, W, C]` to `[B, H, W, 8 * squeezed]`."""
        del train, row_mask
        make = functools.partial(Conv, dtype=self.dtype)
        x = nn.relu(make(self.squeezed, (1, 1), name="squeeze")(x))
        sides = [make(4 * self.squeezed, (k, k), padding=k // 2, name=f"expand{k}x{k}")(x) for k in (1, 3)]
        return nn.relu(jnp.concatenate(sides, -1))


class Stem(nn.Module):
    """A convolution with stride two and no padding."""

    features: int
    kernel_size: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> Array:
        """Map `[B, H, W, C]` to `[B, H / 2, W / 2, features]`."""
        del train, row_mask
        return nn.relu(Conv(self.features, (self.kernel_size,) * 2, 2, "VALID", dtype=self.dtype, name="conv")(x))


class SqueezeNet(Staged):
    """See `squeezenet1_1`."""

    num_classes: int
    first: tuple[int, int]
    fires: Sequence[Sequence[int]]
    dropout: float = 0.5
    remat: bool = False
    dtype: Any = None

    pools = types.MappingProxyType({1: pool, 2: pool, 3: pool})

    @property
    def smallest(self) -> int:
        """Side of the smallest image that leaves a pixel to pool."""
        return self.first[1] + 14

    def setup(self) -> None:
        """Make the layers."""
        self.stem = Stem(*self.first, dtype=self.dtype)
        self.stages = [[Fire(n, dtype=self.dtype) for n in stage] for stage in self.fires]
        self.drop = Dropout(self.dropout)
        self.logits = Conv(self.num_classes, (1, 1), kernel_init=nn.initializers.normal(0.01))

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]`: the means of one map per class."""
        x = promote_float32(features[f"stage{len(self.fires)}"])
        return ops.global_avg_pool(nn.relu(self.logits(self.drop(x, train=train))))


def squeezenet1_0(num_classes: int = 1000, **options: Any) -> SqueezeNet:
    """Eight fire modules, as in the paper; 1,248,424 parameters. From 21x21 pixels. Options as for `squeezenet1_1`."""
    return SqueezeNet(num_classes, (96, 7), ((16, 16, 32), (32, 48, 48, 64), (64,)), **options)


def squeezenet1_1(num_classes: int = 1000, **options: Any) -> SqueezeNet:
    """Eight fire modules, with earlier pooling; 1,235,496 parameters. Images must be at least 17x17.

    Args:
        num_classes: number of logits.
        **options: `dropout` before the last layer (0.5), `remat` (less memory in training, more time), `dtype`.

    """
    return SqueezeNet(num_classes, (64, 3), ((16, 16), (32, 32), (48, 48, 64, 64)), **options)
