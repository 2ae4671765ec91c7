"""Fully convolutional networks (Long et al., 2015, arXiv:1411.4038): a class for each pixel from any features.

The form is torchvision's: a small head on the last features, whose logits are enlarged to the image, and perhaps an
auxiliary head on the features before them. The encoder's kernels are dilated in its last stages, so that the features
have an eighth of the resolution.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import InputError
from jaxcnn.layers import BatchNorm, Conv, ConvNorm, Dropout, Network, apply_block, check_image
from jaxcnn.models import resnet
from jaxcnn.models.zoo import Body, backbone
from jaxcnn.ops import resize_linear

Array = jax.Array
DILATED = {8: (False, True, True), 16: (False, False, True), 32: (False, False, False)}  # by the output stride


class Narrow(nn.Module):
    """A 3x3 convolution to a quarter of the channels, with norm, ReLU and dropout."""

    dropout: float = 0.1
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, row_mask: Array | None = None) -> Array:
        """Map `[B, h, w, C]` to `[B, h, w, C / 4]`."""
        width = max(x.shape[-1] // 4, 1)
        x = ConvNorm(width, norm=self.norm, dtype=self.dtype, name="hidden")(x, train=train, row_mask=row_mask)
        return Dropout(self.dropout)(x, train=train)


class Extra(nn.Module):
    """The auxiliary head."""

    num_classes: int
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, row_mask: Array | None = None) -> Array:
        """Map `[B, h, w, C]` to logits `[B, h, w, num_classes]`."""
        x = Narrow(norm=self.norm, dtype=self.dtype, name="decoder")(x, train=train, row_mask=row_mask)
        return Conv(self.num_classes, (1, 1), name="logits")(promote_float32(x))


class FCN(Network):
    """See `fcn`."""

    num_classes: int = 21
    encoder: Any = None
    aux: bool = False
    dropout: float = 0.1
    norm: Callable[..., nn.Module] = BatchNorm
    remat: bool = False
    dtype: Any = None

    @property
    def default_image(self) -> tuple[int, ...]:
        """Height, width and channels of the images that the encoder was designed for."""
        return self.encoder.default_image

    @property
    def smallest(self) -> int:
        """Side of the smallest image, that of the encoder."""
        return self.encoder.smallest

    def setup(self) -> None:
        """Make the layers."""
        self.decoder = self.make_decoder()
        self.logits = Conv(self.num_classes, (1, 1))
        self.extra = [Extra(self.num_classes, self.norm, self.dtype)] if self.aux else []

    def make_decoder(self) -> nn.Module:
        """Return the layers between the encoder and the logits."""
        return Narrow(self.dropout, self.norm, self.dtype)

    def features(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Return `image`, which tells `head` the size, the encoder's features, and `decoder`, `[B, h, w, D]`."""
        found = self.encoder.features(x, train=train, row_mask=row_mask)
        flat = next((name for name, y in found.items() if y.ndim != x.ndim), None)
        if flat is not None:
            raise InputError(
                f"encoder={type(self.encoder).__name__}: its {flat} has shape {tuple(found[flat].shape)}; must have "
                "features with height and width, as residual networks do"
            )
        last = list(found.values())[-1]
        decoded = apply_block(self.decoder, last, train=train, row_mask=row_mask, remat=self.remat)
        return {"image": x, **found, "decoder": decoded}

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, H, W, num_classes]` of the size of the image."""
        del train
        return self._enlarged(self.logits(promote_float32(features["decoder"])), features)

    def with_auxiliary(
        self, x: Array, *, train: bool = False, row_mask: Array | None = None
    ) -> tuple[Array, list[Array]]:
        """Return the logits, and a list of those of the auxiliary head, each `[B, H, W, num_classes]`."""
        check_image(x)
        features = self.features(x, train=train, row_mask=row_mask)
        before = list(features.values())[-3]  # the last ones are the encoder's result and the decoder's
        extra = [self._enlarged(head(before, train=train, row_mask=row_mask), features) for head in self.extra]
        return self.head(features, train=train), extra

    def __call__(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> Array:
        """Map `[B, H, W, C]` float to logits `[B, H, W, num_classes]`."""
        if self.aux and self.is_initializing():
            return self.with_auxiliary(x, train=train, row_mask=row_mask)[0]
        return super().__call__(x, train=train, row_mask=row_mask)

    def _enlarged(self, logits: Array, features: dict[str, Array]) -> Array:
        return resize_linear(logits, features["image"].shape[1:-1]) if "image" in features else logits


def fcn(num_classes: int = 21, encoder: Body | None = None, **options: Any) -> FCN:
    """Fully convolutional head on any network; 32,957,013 parameters on `resnet50` for 21 classes.

    Args:
        num_classes: number of classes, with the background; K logits per pixel.
        encoder: a network of `jaxcnn.models` whose `features` have height and width, its name in `models.MODELS`, or
            `{"name": NAME, "options": {...}}`; by default a `resnet50` that leaves an eighth of the resolution.
        **options: `aux` (an auxiliary head on the features before the last, for `tasks.segmentation(auxiliary=...)`),
            `dropout` before the logits (0.1), `norm`, `remat` (less memory in training, more time), `dtype`.

    """
    body = dilated(resnet.resnet50, 8, options) if encoder is None else backbone(encoder)
    return FCN(num_classes, body, **options)


def fcn_resnet50(num_classes: int = 21, output_stride: int = 8, **options: Any) -> FCN:
    """`fcn` on a dilated `resnet50`; 32,957,013 parameters, 35,322,218 with `aux`.

    Args:
        num_classes: number of classes, with the background.
        output_stride: the image's resolution over that of the features: 8, 16 or 32. The weights are the same.
        **options: as for `fcn`, but for `encoder`.

    Raises:
        InputError: another output stride.

    """
    return FCN(num_classes, dilated(resnet.resnet50, output_stride, options), **options)


def fcn_resnet101(num_classes: int = 21, output_stride: int = 8, **options: Any) -> FCN:
    """`fcn` on a dilated `resnet101`; 51,949,141 parameters. Arguments as for `fcn_resnet50`."""
    return FCN(num_classes, dilated(resnet.resnet101, output_stride, options), **options)


def dilated(make: Callable[..., resnet.ResNet], output_stride: int, options: dict[str, Any]) -> resnet.ResNet:
    """Make a residual network with dilated stages.

    Args:
        make: its constructor.
        output_stride: the image's resolution over that of the features: 8, 16 or 32.
        options: of the head, of which the encoder takes `norm`, `remat` and `dtype`.

    Raises:
        InputError: another output stride.

    """
    if output_stride not in DILATED:
        raise InputError(f"output_stride={output_stride}: must be 8, 16 or 32")
    shared = {name: options[name] for name in ("norm", "remat", "dtype") if name in options}
    return make(replace_stride_with_dilation=DILATED[output_stride], **shared)
