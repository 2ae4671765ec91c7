"""Residual networks (He et al., 2015, arXiv:1512.03385) and variants, with torchvision's strides and padding ("v1.5").

Variants are ResNeXt (Xie et al., 2016, arXiv:1611.05431), wide networks (Zagoruyko and Komodakis, 2016,
arXiv:1605.07146), networks with squeeze and excitation (Hu et al., 2017, arXiv:1709.01507) or CBAM (Woo et al., 2018,
arXiv:1807.06521), and the paper's networks for CIFAR. Unlike the paper, the 3x3 convolution of a bottleneck has the
stride, and every shortcut that changes the shape has a projection (except in the networks for CIFAR). With
`cifar_stem=True` the stem is the paper's for CIFAR, 3x3 without stride or pooling. The last stages may dilate their
kernels instead of striding (Yu and Koltun, 2015, arXiv:1511.07122), which changes no parameter.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn import ops
from jaxcnn.core.types import InputError
from jaxcnn.layers import CBAM, BatchNorm, ConvNorm, Dense, Dropout, DropPath, SqueezeExcite, Staged

Array = jax.Array
Attention = Callable[..., nn.Module]  # (channels, dtype=, name=) -> a module that is called like a block


class Residual(nn.Module):
    """Two 3x3 convolutions, or with `bottleneck` 1x1, 3x3 and 1x1, added to their input.

    `dilations` are those of the 3x3 convolution with the stride, and of the one behind it.
    """

    width: int
    strides: int = 1
    dilations: tuple[int, int] = (1, 1)
    bottleneck: bool = False
    inner: int = 0
    groups: int = 1
    projected: bool = True
    attention: Attention | None = None
    drop_path: float = 0.0
    zero_init: bool = False
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, row_mask: Array | None = None) -> Array:
        """Map `[B, H, W, C]` to `[B, H / strides, W / strides, width]`, or four times the width with `bottleneck`."""

        def make(name: str, width: int, window: int, strides: int = 1, dilation: int = 1, **options: Any) -> ConvNorm:
            options = {"norm": self.norm, "dtype": self.dtype, "name": name, "dilation": dilation} | options
            return ConvNorm(width, (window, window), strides, window // 2 * dilation, **options)

        linear: dict[str, Any] = {"activation": lambda x: x}
        zero: dict[str, Any] = {"norm": functools.partial(self.norm, scale_init=nn.initializers.zeros)}
        last = linear | zero if self.zero_init else linear
        if self.bottleneck:
            out, inner = 4 * self.width, self.inner or self.width
            middle = make("conv2", inner, 3, self.strides, self.dilations[0], groups=self.groups)
            layers = [make("conv1", inner, 1), middle, make("conv3", out, 1, **last)]
        else:
            out = self.width
            first = make("conv1", out, 3, self.strides, self.dilations[0])
            layers = [first, make("conv2", out, 3, 1, self.dilations[1], **last)]
        y = x
        for layer in layers:
            y = layer(y, train=train, row_mask=row_mask)
        if self.attention:
            y = self.attention(out, dtype=self.dtype, name="attention")(y, train=train, mask=row_mask)
        y = DropPath(self.drop_path)(y, train=train)
        if x.shape != y.shape and self.projected:
            x = make("shortcut", out, 1, self.strides, **linear)(x, train=train, row_mask=row_mask)
        elif x.shape != y.shape:
            x = x[:, :: self.strides, :: self.strides]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, out - x.shape[-1])))
        return nn.relu(x + y)


class ResNet(Staged):
    """See `resnet18`."""

    num_classes: int = 1000
    blocks: Sequence[int] = (2, 2, 2, 2)
    bottleneck: bool = False
    cifar_stem: bool = False
    width: int = 64
    inner: float = 1.0
    groups: int = 1
    projected: bool = True
    attention: Attention | None = None
    zero_init_residual: bool = False
    replace_stride_with_dilation: Sequence[bool] = ()
    dropout: float = 0.0
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = BatchNorm
    remat: bool = False
    dtype: Any = None

    @property
    def smallest(self) -> int:
        """Side of the smallest image whose last stage sees more than a single pixel."""
        return 2 ** max(len(self.blocks) - (2 if self.cifar_stem else 0), 0) + 1

    @property
    def default_image(self) -> tuple[int, int, int]:
        """Height, width and channels, as in ImageNet or CIFAR."""
        return (32, 32, 3) if self.cifar_stem else (224, 224, 3)

    @property
    def pools(self) -> dict[int, Callable[[Array], Array]]:
        """The pooling after the stem."""
        return {} if self.cifar_stem else {1: functools.partial(ops.max_pool, window=3, strides=2, padding=1)}

    def setup(self) -> None:
        """Make the layers."""
        make = functools.partial(ConvNorm, self.width, norm=self.norm, dtype=self.dtype)
        self.stem = make((3, 3), 1, 1) if self.cifar_stem else make((7, 7), 2, 3)
        block = functools.partial(
            Residual, bottleneck=self.bottleneck, groups=self.groups, projected=self.projected,
            attention=self.attention, zero_init=self.zero_init_residual, norm=self.norm, dtype=self.dtype,
        )  # fmt: skip
        rates = iter(growing(self.drop_path, sum(self.blocks)))

        def first_to_last(i: int, count: int, stride: int, before: int, after: int) -> list[nn.Module]:
            width = self.width << i
            first, others, inner = (stride, (before, after)), (1, (after, after)), int(width * self.inner)
            return [block(width, *(others if j else first), inner=inner, drop_path=next(rates)) for j in range(count)]

        places = zip(self.blocks, self._places(), strict=True)
        self.stages = [first_to_last(i, count, *place) for i, (count, place) in enumerate(places)]
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())

    def _places(self) -> list[tuple[int, int, int]]:
        """Return the stride of each stage, and the dilations before and after its first 3x3 convolution.

        That convolution keeps the dilation before it, as in torchvision: then every second pixel of a dilated stage is
        what the stride gives.
        """
        chosen = tuple(self.replace_stride_with_dilation) or (False,) * (len(self.blocks) - 1)
        if len(chosen) != len(self.blocks) - 1:
            raise InputError(
                f"replace_stride_with_dilation={chosen}: must have {len(self.blocks) - 1} values, one for each stage "
                "after the first"
            )
        places, dilation = [(1, 1, 1)], 1
        for dilated in chosen:
            after = 2 * dilation if dilated else dilation
            places.append((1 if dilated else 2, dilation, after))
            dilation = after
        return places


def growing(rate: float, blocks: int) -> list[float]:
    """Return rates of stochastic depth that rise from 0 in the first block to `rate` in the last, as in its paper."""
    return [rate * i / max(blocks - 1, 1) for i in range(blocks)]


def squeeze(channels: int, **options: Any) -> SqueezeExcite:
    """Squeeze and excitation with a sixteenth of the channels, in multiples of eight."""
    return SqueezeExcite(max(8, (channels // 16 + 4) // 8 * 8), **options)


def cbam(channels: int, **options: Any) -> CBAM:
    """CBAM with a sixteenth of the channels, in multiples of eight."""
    return CBAM(max(8, (channels // 16 + 4) // 8 * 8), **options)


def resnet18(num_classes: int = 1000, cifar_stem: bool = False, **options: Any) -> ResNet:
    """Eight blocks of two convolutions; 11,689,512 parameters for 1000 classes of colour images.

    Args:
        num_classes: number of logits.
        cifar_stem: the variant for images of about 32x32: the stem keeps the resolution. Images must be at least 5x5,
            otherwise 17x17.
        **options: `width` (channels of the first stage, 64), `zero_init_residual` (start with blocks that are the
            identity, as Goyal et al., 2017, arXiv:1706.02677; off as in the paper, so that every layer learns from the
            first step), `replace_stride_with_dilation` (for each stage after the first, whether its kernels are dilated
            instead: `(False, True, True)` leaves an eighth of the resolution, and takes the same weights), `dropout`
            before the last layer, `drop_path` (stochastic depth: rate of the last block), `norm`, `remat` (less memory
            in training, more time), `dtype`.

    """
    return ResNet(num_classes, (2, 2, 2, 2), False, cifar_stem, **options)


def resnet34(num_classes: int = 1000, cifar_stem: bool = False, **options: Any) -> ResNet:
    """Sixteen blocks of two convolutions; 21,797,672 parameters. Arguments as for `resnet18`."""
    return ResNet(num_classes, (3, 4, 6, 3), False, cifar_stem, **options)


def resnet50(num_classes: int = 1000, cifar_stem: bool = False, **options: Any) -> ResNet:
    """Sixteen bottleneck blocks; 25,557,032 parameters. Arguments as for `resnet18`."""
    return ResNet(num_classes, (3, 4, 6, 3), True, cifar_stem, **options)


def resnet101(num_classes: int = 1000, cifar_stem: bool = False, **options: Any) -> ResNet:
    """Thirty-three bottleneck blocks; 44,549,160 parameters. Arguments as for `resnet18`."""
    return ResNet(num_classes, (3, 4, 23, 3), True, cifar_stem, **options)


def resnet152(num_classes: int = 1000, cifar_stem: bool = False, **options: Any) -> ResNet:
    """Fifty bottleneck blocks; 60,192,808 parameters. Arguments as for `resnet18`."""
    return ResNet(num_classes, (3, 8, 36, 3), True, cifar_stem, **options)


def resnext50_32x4d(num_classes: int = 1000, cifar_stem: bool = False, **options: Any) -> ResNet:
    """`resnet50` with 3x3 convolutions in 32 groups, twice as wide; 25,028,904 parameters. See `resnet18`."""
    options = {"inner": 2.0, "groups": 32} | options
    return ResNet(num_classes, (3, 4, 6, 3), True, cifar_stem, **options)


def wide_resnet50_2(num_classes: int = 1000, cifar_stem: bool = False, **options: Any) -> ResNet:
    """`resnet50` with 3x3 convolutions twice as wide; 68,883,240 parameters. Arguments as for `resnet18`."""
    options = {"inner": 2.0} | options
    return ResNet(num_classes, (3, 4, 6, 3), True, cifar_stem, **options)


def seresnet18(num_classes: int = 1000, cifar_stem: bool = False, **options: Any) -> ResNet:
    """`resnet18` with squeeze and excitation in every block; 11,779,624 parameters. Arguments as for `resnet18`."""
    return ResNet(num_classes, (2, 2, 2, 2), False, cifar_stem, attention=squeeze, **options)


def seresnet50(num_classes: int = 1000, cifar_stem: bool = False, **options: Any) -> ResNet:
    """`resnet50` with squeeze and excitation in every block; 28,088,024 parameters. Arguments as for `resnet18`."""
    return ResNet(num_classes, (3, 4, 6, 3), True, cifar_stem, attention=squeeze, **options)


def cbam_resnet18(num_classes: int = 1000, cifar_stem: bool = False, **options: Any) -> ResNet:
    """`resnet18` with CBAM in every block. Arguments as for `resnet18`."""
    return ResNet(num_classes, (2, 2, 2, 2), False, cifar_stem, attention=cbam, **options)


def resnet20(num_classes: int = 10, **options: Any) -> ResNet:
    """The paper's network for CIFAR: nine blocks of 16, 32 and 64 channels; 269,722 parameters, none in the shortcuts.

    Args:
        num_classes: number of logits.
        **options: as for `resnet18`; `width` (16) makes it wider, and `attention` (`squeeze` or `cbam` of this module)
            adds attention to every block.

    """
    options = {"width": 16, "projected": False} | options
    return ResNet(num_classes, (3, 3, 3), False, True, **options)


def seresnet20(num_classes: int = 10, **options: Any) -> ResNet:
    """`resnet20` with squeeze and excitation in every block."""
    return resnet20(num_classes, attention=squeeze, **options)


def cbam_resnet20(num_classes: int = 10, **options: Any) -> ResNet:
    """`resnet20` with CBAM in every block."""
    return resnet20(num_classes, attention=cbam, **options)


def resnet56(num_classes: int = 10, **options: Any) -> ResNet:
    """`resnet20` with nine blocks per stage; 853,018 parameters. Arguments as for `resnet20`."""
    options = {"width": 16, "projected": False} | options
    return ResNet(num_classes, (9, 9, 9), False, True, **options)
