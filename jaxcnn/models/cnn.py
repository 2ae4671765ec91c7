"""A small, strong network for small images: convolutions with batch norm, then global pooling.

Reference: Lin et al., 2013, arXiv:1312.4400.

Unlike usual networks, it pools before the norm, which then has a quarter of the work. The borders of small images hold
little information, so the stem and the last stages do not pad.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn import ops
from jaxcnn.core.precision import promote_float32
from jaxcnn.layers import BatchNorm, ConvNorm, Dense, Dropout, Network, apply_block, check_side

Array = jax.Array


class CNN(Network):
    """See `cnn`."""

    num_classes: int = 10
    widths: Sequence[int] = (32, 64, 128, 128)
    dropout: float = 0.0
    norm: Callable[..., nn.Module] = BatchNorm
    remat: bool = False
    dtype: Any = None

    default_image = (28, 28, 1)

    @property
    def smallest(self) -> int:
        """Side of the smallest image that leaves a pixel for the last stage."""
        return 4 * (2 * len(self.widths) - 3) + 4

    def setup(self) -> None:
        """Make the layers."""
        make = functools.partial(ConvNorm, norm=self.norm, dtype=self.dtype)
        stem, first, *rest = self.widths
        self.stem = make(stem, (5, 5), padding="VALID", pool=2)
        self.stages = [make(first, pool=2), *(make(width, padding="VALID") for width in rest)]
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())

    def features(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Return `stem` at half the resolution and `stage1`, `stage2`, ... at a quarter, each `[B, h, w, width]`."""
        check_side(x, self.smallest)
        call = functools.partial(apply_block, train=train, row_mask=row_mask, remat=self.remat)
        out = {"stem": call(self.stem, x)}
        for i, stage in enumerate(self.stages, 1):
            out[f"stage{i}"] = call(stage, list(out.values())[-1])
        return out

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]` from the mean and the maximum of the last stage."""
        last = promote_float32(features[f"stage{len(self.stages)}"])
        pooled = jnp.concatenate([ops.global_avg_pool(last), ops.global_max_pool(last)], -1)
        return self.logits(self.drop(pooled, train=train))


def cnn(num_classes: int = 10, **options: Any) -> CNN:
    """Four convolutions of 5x5 and 3x3, for grey or colour images of at least 24x24.

    Args:
        num_classes: number of logits.
        **options: `widths` (channels of the stem and of each stage, at least two), `dropout` before the last layer,
            `norm`, `remat` (less memory in training, more time), `dtype`.

    """
    return CNN(num_classes, **options)
