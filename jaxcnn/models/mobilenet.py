"""MobileNet, first version: depthwise-separable convolutions (Howard et al., 2017, arXiv:1704.04861), with ReLU as in the paper."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from jaxcnn import ops
from jaxcnn.layers import BatchNorm, ConvNorm, Dense, Dropout, Network, SeparableConv, apply_block
from jaxcnn.precision import widened
from jaxcnn.types import InputError

Array = jax.Array
STAGES = (64,), (128, 128), (256, 256), (512,) * 6, (1024, 1024)  # channels of each block; every stage but the first halves


class MobileNet(Network):
    """See `mobilenet_v1`."""

    num_classes: int = 1000
    small_images: bool = False
    width: float = 1.0
    dropout: float = 0.0
    norm: Callable[..., nn.Module] = BatchNorm
    remat: bool = False
    dtype: Any = None

    @property
    def smallest(self) -> int:
        """Side of the smallest image of which the last stage does not see a single pixel."""
        return 5 if self.small_images else 17

    def setup(self) -> None:
        """Make the layers."""
        if not self.width > 0:
            raise InputError(f"width={self.width}: must be above 0; 1 is the network of the paper, 0.5 has half its channels")
        channels = lambda n: max(int(n * self.width), 8)  # noqa: E731
        self.stem = ConvNorm(channels(32), (3, 3), 1 if self.small_images else 2, norm=self.norm, dtype=self.dtype)
        halving = range(2, len(STAGES)) if self.small_images else range(1, len(STAGES))
        self.stages = [
            [
                SeparableConv(channels(n), strides=2 if i in halving and not j else 1, norm=self.norm, dtype=self.dtype)
                for j, n in enumerate(widths)
            ]
            for i, widths in enumerate(STAGES)
        ]
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())

    def features(self, x: Array, *, train: bool = False, real: Array | None = None) -> dict[str, Array]:
        """Return `stem` and `stage1` at half the resolution, and `stage2` to `stage5` at a quarter to a 32nd.

        With `small_images` the first four are `stem`, `stage1` and `stage2` at the whole resolution and `stage3` at a half.
        """
        if min(x.shape[1:3]) < self.smallest:
            hint = "enlarge it" if self.small_images else "enlarge it, or use small_images=True"
            raise InputError(f"image shape {tuple(x.shape)}: must be at least {self.smallest}x{self.smallest} pixels; {hint}")
        call = functools.partial(apply_block, train=train, real=real, remat=self.remat)
        x = call(self.stem, x)
        out = {"stem": x}
        for i, stage in enumerate(self.stages, 1):
            for block in stage:
                x = call(block, x)
            out[f"stage{i}"] = x
        return out

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Logits `[B, num_classes]`."""
        pooled = ops.global_avg_pool(widened(features[f"stage{len(STAGES)}"]))
        return self.logits(self.drop(pooled, train=train))


def mobilenet_v1(num_classes: int = 1000, small_images: bool = False, **options: Any) -> MobileNet:
    """Thirteen separable convolutions; 4,231,976 parameters for 1000 classes of colour images.

    Args:
        num_classes: logits.
        small_images: the form for images of about 32x32: the stem and the first block that halves keep the resolution,
            which leaves 4x4 of 32x32 at the end. From 5x5 on, else from 17x17.
        options: `width` (share of the channels, such as 0.5; at least 8 stay), `dropout` before the last layer, `norm`,
            `remat` (less memory in training, more time), `dtype`.

    """
    return MobileNet(num_classes, small_images, **options)
