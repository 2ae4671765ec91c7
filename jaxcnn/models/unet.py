"""U-Net (Ronneberger et al., 2015, arXiv:1505.04597) in one to three dimensions, with its own or another encoder.

Convolutions keep the size, so the logits have that of the image, whatever it is; between levels, what is one pixel too
large is cut and what is one too small repeats its border. Blocks are two 3x3 convolutions with norms, in three
dimensions those of Cicek et al. (2016, arXiv:1606.06650), with `residual=True` a sum around both (Zhang et al., 2017,
arXiv:1711.10684).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn import ops
from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import InputError
from jaxcnn.layers import BatchNorm, Conv, ConvNorm, ConvTranspose, Dropout, Network, apply_block, check_image
from jaxcnn.layers.network import feature_levels
from jaxcnn.models.zoo import Body, backbone

Array = jax.Array


class ConvPair(nn.Module):
    """Two convolutions of three pixels per axis, each with a norm and ReLU."""

    width: int
    residual: bool = False
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, row_mask: Array | None = None) -> Array:
        """Map `[B, *spatial, C]` to `[B, *spatial, width]`."""
        make = functools.partial(ConvNorm, self.width, (3,) * (x.ndim - 2), norm=self.norm, dtype=self.dtype)
        y = make(name="conv1")(x, train=train, row_mask=row_mask)
        if not self.residual:
            return make(name="conv2")(y, train=train, row_mask=row_mask)
        y = make(activation=_same, name="conv2")(y, train=train, row_mask=row_mask)
        if x.shape[-1] != self.width:
            short = ConvNorm(
                self.width, (1,) * (x.ndim - 2), norm=self.norm, activation=_same, dtype=self.dtype, name="shortcut"
            )
            x = short(x, train=train, row_mask=row_mask)
        return nn.relu(x + y)


class UNet(Network):
    """See `unet`."""

    num_classes: int = 2
    widths: Sequence[int] = (32, 64, 128, 256, 512)
    dims: int = 2
    residual: bool = False
    encoder: Any = None
    dropout: float = 0.0
    norm: Callable[..., nn.Module] = BatchNorm
    remat: bool = False
    dtype: Any = None

    @property
    def default_image(self) -> tuple[int, ...]:
        """Spatial axes and channels: a colour photo, a volume or a series."""
        return {1: (256, 1), 2: (256, 256, 3), 3: (32, 32, 32, 1)}[self.dims]

    @property
    def smallest(self) -> int:
        """Side of the smallest image, of which one pixel is left at the deepest level."""
        return self.encoder.smallest if self.encoder is not None else 2 ** (len(self.widths) - 1)

    def setup(self) -> None:
        """Make the layers; level `i` has `2**i` times coarser pixels than the image."""
        if not self.widths:
            raise InputError("widths=(): give at least one, the channels of each level")
        block = functools.partial(ConvPair, residual=self.residual, norm=self.norm, dtype=self.dtype)
        levels = self.widths if self.encoder is not None else self.widths[:-1]
        self.down = [] if self.encoder is not None else [block(width) for width in self.widths]
        self.up = [ConvTranspose(width, (2,) * self.dims, 2, dtype=self.dtype) for width in levels]
        self.merge = [block(width) for width in levels]
        self.drop = Dropout(self.dropout)
        self.logits = Conv(self.num_classes, (1,) * self.dims)

    def features(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Return `level0`, `level1`, ... of the encoder, then `decoder`, `[B, *spatial, widths[0]]`."""
        if any(n < self.smallest for n in x.shape[1:-1]):
            raise InputError(
                f"image shape {tuple(x.shape)}: must be at least {self.smallest} pixels a side; enlarge it, or use "
                "fewer widths"
            )
        call = functools.partial(apply_block, train=train, row_mask=row_mask, remat=self.remat)
        if self.encoder is None:
            found, y = {}, x
            for i, block in enumerate(self.down):
                y = call(block, ops.max_pool(y, 2) if i else y)
                found[i] = y
        else:
            found = self._levels(x, self.encoder.features(x, train=train, row_mask=row_mask))
        deepest = max(found)
        y = self.drop(found[deepest], train=train)
        for i in reversed(range(deepest)):
            skip = found.get(i)
            y = _fitted(self.up[i](y), x.shape[1:-1] if i == 0 else skip.shape[1:-1] if skip is not None else None)
            y = call(self.merge[i], y if skip is None else jnp.concatenate([skip.astype(y.dtype), y], -1))
        return {**{f"level{i}": found[i] for i in sorted(found)}, "decoder": y}

    def _levels(self, x: Array, features: dict[str, Array]) -> dict[int, Array]:
        """Return the last feature of each resolution of the encoder, at most one more than there are widths."""
        found = feature_levels(self.encoder, x, features)
        if max(found) > len(self.widths):
            raise InputError(
                f"widths={tuple(self.widths)}: the encoder has {max(found)} levels below the image; give one width each"
            )
        return found

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, *spatial, num_classes]`."""
        del train
        return self.logits(promote_float32(features["decoder"]))

    def __call__(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> Array:
        """Map `[B, *spatial, C]` float to logits `[B, *spatial, num_classes]`."""
        check_image(x, self.dims + 2)
        return self.head(self.features(x, train=train, row_mask=row_mask), train=train)


def _same(x: Array) -> Array:
    return x


def _fitted(x: Array, sides: Sequence[int] | None) -> Array:
    """Cut `[B, *spatial, C]` to these sides, or repeat its border up to them."""
    if sides is None:
        return x
    if any(abs(n - m) > 1 for n, m in zip(sides, x.shape[1:-1], strict=True)):
        raise InputError(
            f"encoder: features of {tuple(x.shape[1:-1])} pixels do not fit those of {tuple(sides)}; each level must "
            "have half the pixels of the one before"
        )
    x = x[(slice(None), *(slice(n) for n in sides))]
    for axis, n in enumerate(sides, 1):
        if x.shape[axis] < n:
            x = jnp.concatenate([x, jax.lax.slice_in_dim(x, x.shape[axis] - 1, None, axis=axis)], axis)
    return x


def unet(num_classes: int = 2, encoder: Body | None = None, **options: Any) -> UNet:
    """U-Net for logits per pixel; 7,762,465 parameters for one channel and one logit.

    Args:
        num_classes: number of classes, with the background; K logits per pixel.
        encoder: a network whose `features` become the levels, its name in `models.MODELS`, or `{"name": NAME,
            "options": {...}}`; `widths` are then those of the decoder. None for an encoder like the decoder.
        **options: `widths` (channels of each level, whose number is the depth), `dims` (2; 3 for volumes, 1 for
            series), `residual`, `dropout` at the deepest level, `norm`, `remat`, `dtype`.

    """
    return UNet(num_classes, encoder=None if encoder is None else backbone(encoder), **options)
