"""Residual networks (He et al., 2015, arXiv:1512.03385), with the strides and padding of torchvision ("v1.5").

Deviates from the paper in striding in the 3x3 convolution of a bottleneck, and in projecting every shortcut that changes
shape; in `small_images=True` the stem is the paper's for CIFAR, 3x3 without stride or pooling.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxcnn import ops
from jaxcnn.layers import BatchNorm, ConvNorm, Dense, Dropout, Network, apply_block
from jaxcnn.precision import widened
from jaxcnn.types import InputError

Array = jax.Array


class Residual(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1 with `bottleneck`, added to their input."""

    width: int
    strides: int = 1
    bottleneck: bool = False
    zero_init: bool = False
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, real: Array | None = None) -> Array:
        """Map `[B, H, W, C]` to `[B, H / strides, W / strides, width]`, four times the width with `bottleneck`."""

        def make(name: str, width: int, window: int, strides: int = 1, **options: Any) -> ConvNorm:
            options = {"norm": self.norm, "dtype": self.dtype, "name": name} | options
            return ConvNorm(width, (window, window), strides, window // 2, **options)

        linear = {"activation": lambda x: x}
        last = linear | ({"norm": functools.partial(self.norm, scale_init=nn.initializers.zeros)} if self.zero_init else {})
        if self.bottleneck:
            out = 4 * self.width
            layers = [make("conv1", self.width, 1), make("conv2", self.width, 3, self.strides), make("conv3", out, 1, **last)]
        else:
            out = self.width
            layers = [make("conv1", out, 3, self.strides), make("conv2", out, 3, **last)]
        y = x
        for layer in layers:
            y = layer(y, train=train, real=real)
        if x.shape != y.shape:
            x = make("shortcut", out, 1, self.strides, **linear)(x, train=train, real=real)
        return nn.relu(x + y)


class ResNet(Network):
    """See `resnet18`."""

    num_classes: int = 1000
    blocks: Sequence[int] = (2, 2, 2, 2)
    bottleneck: bool = False
    small_images: bool = False
    width: int = 64
    zero_init_residual: bool = False
    dropout: float = 0.0
    norm: Callable[..., nn.Module] = BatchNorm
    remat: bool = False
    dtype: Any = None

    @property
    def smallest(self) -> int:
        """Side of the smallest image of which the last stage does not see a single pixel."""
        return 2 ** max(len(self.blocks) - (2 if self.small_images else 0), 0) + 1

    def setup(self) -> None:
        """Make the layers."""
        make = functools.partial(ConvNorm, self.width, norm=self.norm, dtype=self.dtype)
        self.stem = make((3, 3), 1, 1) if self.small_images else make((7, 7), 2, 3)
        block = functools.partial(Residual, bottleneck=self.bottleneck, zero_init=self.zero_init_residual, norm=self.norm, dtype=self.dtype)
        self.stages = [
            [block(self.width << i, strides=2 if i and not j else 1) for j in range(count)] for i, count in enumerate(self.blocks)
        ]
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())

    def features(self, x: Array, *, train: bool = False, real: Array | None = None) -> dict[str, Array]:
        """Return `stem` before its pooling, at half the resolution, and `stage1` to `stage4` at a quarter to a 32nd.

        With `small_images` these are the whole resolution twice, then a half to an eighth.
        """
        if min(x.shape[1:3]) < self.smallest:
            hint = "enlarge it" if self.small_images else "enlarge it, or use small_images=True"
            raise InputError(f"image shape {tuple(x.shape)}: must be at least {self.smallest}x{self.smallest} pixels; {hint}")
        call = functools.partial(apply_block, train=train, real=real, remat=self.remat)
        out = {"stem": call(self.stem, x)}
        x = out["stem"] if self.small_images else ops.max_pool(out["stem"], 3, strides=2, padding=1)
        for i, stage in enumerate(self.stages, 1):
            for block in stage:
                x = call(block, x)
            out[f"stage{i}"] = x
        return out

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Logits `[B, num_classes]`."""
        pooled = ops.global_avg_pool(widened(features[f"stage{len(self.blocks)}"]))
        return self.logits(self.drop(pooled, train=train))


def resnet18(num_classes: int = 1000, small_images: bool = False, **options: Any) -> ResNet:
    """Eight blocks of two convolutions; 11,689,512 parameters for 1000 classes of colour images.

    Args:
        num_classes: logits.
        small_images: the form for images of about 32x32: the stem keeps the resolution. From 5x5 on, else from 17x17.
        options: `width` (channels of the first stage, 64), `zero_init_residual` (begin with blocks that are the identity, as
            Goyal et al., 2017, arXiv:1706.02677; off as in the paper, so that every layer learns from the first step),
            `dropout` before the last layer, `norm`, `remat` (less memory in training, more time), `dtype`.

    """
    return ResNet(num_classes, (2, 2, 2, 2), False, small_images, **options)


def resnet34(num_classes: int = 1000, small_images: bool = False, **options: Any) -> ResNet:
    """Sixteen blocks of two convolutions; 21,797,672 parameters. Arguments as for `resnet18`."""
    return ResNet(num_classes, (3, 4, 6, 3), False, small_images, **options)


def resnet50(num_classes: int = 1000, small_images: bool = False, **options: Any) -> ResNet:
    """Sixteen bottleneck blocks; 25,557,032 parameters. Arguments as for `resnet18`."""
    return ResNet(num_classes, (3, 4, 6, 3), True, small_images, **options)


def resnet101(num_classes: int = 1000, small_images: bool = False, **options: Any) -> ResNet:
    """Thirty-three bottleneck blocks; 44,549,160 parameters. Arguments as for `resnet18`."""
    return ResNet(num_classes, (3, 4, 23, 3), True, small_images, **options)


def resnet152(num_classes: int = 1000, small_images: bool = False, **options: Any) -> ResNet:
    """Fifty bottleneck blocks; 60,192,808 parameters. Arguments as for `resnet18`."""
    return ResNet(num_classes, (3, 8, 36, 3), True, small_images, **options)
