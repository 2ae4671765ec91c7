"""VGG (Simonyan and Zisserman, 2014, arXiv:1409.1556), with or without batch norm after every convolution."""

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxcnn import ops
from jaxcnn.core.precision import promote_float32
from jaxcnn.layers import BatchNorm, Conv, ConvNorm, Dense, Dropout, Staged

Array = jax.Array
WIDTHS = 64, 128, 256, 512, 512


class Plain(nn.Module):
    """A 3x3 convolution with bias and ReLU."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> Array:
        """Map `[B, H, W, C]` to `[B, H, W, features]`."""
        del train, row_mask
        return nn.relu(Conv(self.features, (3, 3), 1, 1, dtype=self.dtype, name="conv")(x))


class VGG(Staged):
    """See `vgg16`."""

    num_classes: int = 1000
    blocks: Sequence[int] = (2, 2, 3, 3, 3)
    norm: Callable[..., nn.Module] | None = None
    width: float = 1.0
    dropout: float = 0.5
    remat: bool = False
    dtype: Any = None

    smallest = 32
    pools = types.MappingProxyType({i: functools.partial(ops.max_pool, window=2) for i in range(1, len(WIDTHS))})

    def setup(self) -> None:
        """Make the layers."""
        make = functools.partial(Plain, dtype=self.dtype)
        if self.norm:
            options: dict[str, Any] = {"kernel_size": (3, 3), "padding": 1, "use_bias": True, "norm": self.norm}
            make = functools.partial(ConvNorm, **options, dtype=self.dtype)
        blocks = [
            [make(int(n * self.width)) for _ in range(count)] for n, count in zip(WIDTHS, self.blocks, strict=True)
        ]
        self.stem, self.stages = blocks[0], blocks[1:]
        self.dense = [Dense(int(4096 * self.width), dtype=self.dtype) for _ in range(2)]
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]` from 7x7 positions, for any image size."""
        x = ops.adaptive_avg_pool(ops.max_pool(features["stage4"], 2), (7, 7))
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)  # channels first, as in the published weights
        for layer in self.dense:
            x = self.drop(nn.relu(layer(x)), train=train)
        return self.logits(promote_float32(x))


def vgg11(num_classes: int = 1000, **options: Any) -> VGG:
    """Eight convolutions, three dense layers; 132,863,336 parameters, 132,868,840 as `vgg11_bn`. At least 32x32 pixels.

    Args:
        num_classes: number of logits.
        **options: `width` (share of the channels), `dropout` between the dense layers (0.5), `norm` (None for none),
            `remat` (less memory in training, more time), `dtype`.

    """
    return VGG(num_classes, (1, 1, 2, 2, 2), **options)


def vgg13(num_classes: int = 1000, **options: Any) -> VGG:
    """Ten convolutions; 133,047,848 parameters, 133,053,736 as `vgg13_bn`. Arguments as for `vgg11`."""
    return VGG(num_classes, (2, 2, 2, 2, 2), **options)


def vgg16(num_classes: int = 1000, **options: Any) -> VGG:
    """Thirteen convolutions; 138,357,544 parameters, 138,365,992 as `vgg16_bn`. Arguments as for `vgg11`."""
    return VGG(num_classes, (2, 2, 3, 3, 3), **options)


def vgg19(num_classes: int = 1000, **options: Any) -> VGG:
    """Sixteen convolutions; 143,667,240 parameters, 143,678,248 as `vgg19_bn`. Arguments as for `vgg11`."""
    return VGG(num_classes, (2, 2, 4, 4, 4), **options)


# with batch norm; as in torchvision, convolutions keep a bias before the norm, which training does not change
vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn = (
    functools.partial(make, norm=BatchNorm) for make in (vgg11, vgg13, vgg16, vgg19)
)
