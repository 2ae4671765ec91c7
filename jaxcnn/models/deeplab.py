"""DeepLab-v3 (Chen et al., 2017, arXiv:1706.05587): context at several scales by dilated convolutions side by side."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn import ops
from jaxcnn.layers import BatchNorm, ConvNorm, Dropout
from jaxcnn.models import resnet
from jaxcnn.models.fcn import FCN, dilated
from jaxcnn.models.zoo import Body, backbone

Array = jax.Array
RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}  # by the output stride; in pixels of the image all the same


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: merges 1x1 and dilated 3x3 convolutions and the mean; then 3x3 once more."""

    width: int = 256
    rates: Sequence[int] = RATES[8]
    dropout: float = 0.5
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, row_mask: Array | None = None) -> Array:
        """Map `[B, h, w, C]` to `[B, h, w, width]`."""

        def apply(name: str, y: Array, window: int, dilation: int = 1) -> Array:
            make = functools.partial(ConvNorm, norm=self.norm, dtype=self.dtype, name=name)
            return make(self.width, (window, window), dilation=dilation)(y, train=train, row_mask=row_mask)

        branches = [apply("branch0", x, 1)]
        branches += [apply(f"branch{i}", x, 3, rate) for i, rate in enumerate(self.rates, 1)]
        mean = apply("pooled", ops.global_avg_pool(x)[:, None, None], 1)
        y = jnp.concatenate([*branches, jnp.broadcast_to(mean, branches[0].shape)], -1)
        y = Dropout(self.dropout)(apply("project", y, 1), train=train)
        return apply("hidden", y, 3)


class DeepLabV3(FCN):
    """See `deeplab_v3`."""

    dropout: float = 0.5
    width: int = 256
    rates: Sequence[int] = RATES[8]

    def make_decoder(self) -> nn.Module:
        """Return the layers between the encoder and the logits."""
        return ASPP(self.width, tuple(self.rates), self.dropout, self.norm, self.dtype)


def deeplab_v3(num_classes: int = 21, encoder: Body | None = None, **options: Any) -> DeepLabV3:
    """DeepLab-v3 head on any network; 39,638,869 parameters on `resnet50` for 21 classes.

    Args:
        num_classes: number of classes, with the background; K logits per pixel.
        encoder: as in `fcn`.
        **options: `rates` (dilations side by side, 12, 24 and 36; smaller ones suit small images and coarser features),
            `width` (channels of the head, 256), `aux` (an auxiliary head on the features before the last, for
            `tasks.segmentation(auxiliary=...)`), `dropout` (0.5), `norm`, `remat`, `dtype`.

    """
    body = dilated(resnet.resnet50, 8, options) if encoder is None else backbone(encoder)
    return DeepLabV3(num_classes, body, **options)


def deeplabv3_resnet50(num_classes: int = 21, output_stride: int = 8, **options: Any) -> DeepLabV3:
    """`deeplab_v3` on a dilated `resnet50`; 39,638,869 parameters, 42,004,074 with `aux`.

    Args:
        num_classes: number of classes, with the background.
        output_stride: the image's resolution over that of the features: 8, 16 or 32; `rates` are by default 12, 24 and
            36 at 8, and smaller in proportion at 16 and 32. The weights are the same.
        **options: as for `deeplab_v3`, but for `encoder`.

    Raises:
        InputError: another output stride.

    """
    return _on(resnet.resnet50, num_classes, output_stride, options)


def deeplabv3_resnet101(num_classes: int = 21, output_stride: int = 8, **options: Any) -> DeepLabV3:
    """`deeplab_v3` on a dilated `resnet101`; 58,630,997 parameters. Arguments as for `deeplabv3_resnet50`."""
    return _on(resnet.resnet101, num_classes, output_stride, options)


def _on(make: Callable[..., resnet.ResNet], num_classes: int, output_stride: int, options: dict[str, Any]) -> DeepLabV3:
    encoder = dilated(make, output_stride, options)
    options = {"rates": RATES[output_stride]} | options
    return DeepLabV3(num_classes, encoder, **options)
