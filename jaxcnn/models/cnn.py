"""A small strong network for small images: convolutions with batch norm, max pooling, global pooling (Lin et al., 2013, arXiv:1312.4400).

Deviates from the usual order in pooling before the norm, which then has a quarter of the work to do.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn import ops
from jaxcnn.layers import BatchNorm, ConvNorm, Dense, Dropout, Network

Array = jax.Array


class CNN(Network):
    """See `cnn`."""

    num_classes: int = 10
    widths: Sequence[int] = (32, 64, 128)
    dropout: float = 0.0
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    def setup(self) -> None:
        """Make the layers."""
        make = lambda width, window, pool: ConvNorm(width, window, pool=pool, norm=self.norm, dtype=self.dtype)  # noqa: E731
        stem, *rest = self.widths
        self.stem = make(stem, (5, 5), 2)
        self.stages = [make(width, (3, 3), 2 if i == 0 else 1) for i, width in enumerate(rest)]
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())

    def features(self, x: Array, *, train: bool = False, real: Array | None = None) -> dict[str, Array]:
        """Return `stem` at half the resolution and `stage1`, `stage2`, ... at a quarter."""
        out = {"stem": self.stem(x, train=train, real=real)}
        for i, stage in enumerate(self.stages, 1):
            out[f"stage{i}"] = stage(list(out.values())[-1], train=train, real=real)
        return out

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Logits `[B, num_classes]` from the last stage, pooled by mean and by maximum."""
        last = features[f"stage{len(self.stages)}"].astype(jnp.float32)
        pooled = jnp.concatenate([ops.global_avg_pool(last), ops.global_max_pool(last)], -1)
        return self.logits(self.drop(pooled, train=train))


def cnn(num_classes: int = 10, **options: Any) -> CNN:
    """Three or more convolutions, for gray or colour images from about 16x16 on; any size of at least 8x8.

    Args:
        num_classes: logits.
        options: `widths` (channels of the stem and of each stage), `dropout` before the last layer, `norm`, `dtype`.

    """
    return CNN(num_classes, **options)
