"""ConvNeXt: a convolutional network with the choices of a transformer (Liu et al., 2022, arXiv:2201.03545)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxcnn import ops
from jaxcnn.core.precision import promote_float32
from jaxcnn.layers import Conv, Dense, Dropout, DropPath, LayerNorm, LayerScale, Staged
from jaxcnn.models.resnet import growing

Array = jax.Array
Norm = Callable[..., nn.Module]
gelu = functools.partial(nn.gelu, approximate=False)


class Block(nn.Module):
    """Depthwise 7x7, norm, two dense layers with GELU between them, scaled and added to the input."""

    drop_path: float = 0.0
    layer_scale: float = 1e-6
    norm: Norm = LayerNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, row_mask: Array | None = None) -> Array:
        """Map `[B, H, W, C]` to the same shape."""
        c = x.shape[-1]
        y = Conv(c, (7, 7), padding=3, groups=c, dtype=self.dtype, name="conv")(x)
        y = self.norm(dtype=self.dtype, name="norm")(y, train=train, mask=row_mask)
        y = Dense(c, self.dtype, name="dense2")(gelu(Dense(4 * c, self.dtype, name="dense1")(y)))
        return x + DropPath(self.drop_path)(LayerScale(self.layer_scale, name="scale")(y), train=train)


class Reduce(nn.Module):
    """A convolution over windows that do not overlap, with a norm after it, or before it."""

    features: int
    kernel_size: int
    before: bool = False
    norm: Norm = LayerNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, row_mask: Array | None = None) -> Array:
        """Map `[B, H, W, C]` to `[B, H / kernel_size, W / kernel_size, features]`."""
        conv = Conv(self.features, (self.kernel_size,) * 2, self.kernel_size, "VALID", dtype=self.dtype, name="conv")
        norm = functools.partial(self.norm(dtype=self.dtype, name="norm"), train=train, mask=row_mask)
        return conv(norm(x)) if self.before else norm(conv(x))


class ConvNeXt(Staged):
    """See `convnext_tiny`."""

    num_classes: int
    blocks: Sequence[int]
    widths: Sequence[int] = (96, 192, 384, 768)
    dropout: float = 0.0
    drop_path: float = 0.1
    layer_scale: float = 1e-6
    norm: Norm = LayerNorm
    remat: bool = False
    dtype: Any = None

    smallest = 32

    def setup(self) -> None:
        """Make the layers."""
        options = {"norm": self.norm, "dtype": self.dtype}
        rates = iter(growing(self.drop_path, sum(self.blocks)))
        self.stem = Reduce(self.widths[0], 4, **options)
        blocks = [[Block(next(rates), self.layer_scale, **options) for _ in range(count)] for count in self.blocks]
        self.stages = [
            [Reduce(n, 2, True, **options), *stage] if i else stage
            for i, (n, stage) in enumerate(zip(self.widths, blocks, strict=True))
        ]
        self.norm_last = LayerNorm()
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]`."""
        pooled = ops.global_avg_pool(promote_float32(features[f"stage{len(self.blocks)}"]))
        return self.logits(self.drop(self.norm_last(pooled), train=train))


def convnext_tiny(num_classes: int = 1000, **options: Any) -> ConvNeXt:
    """Eighteen blocks of 96 to 768 channels; 28,589,128 parameters. Images must be at least 32x32.

    Args:
        num_classes: number of logits.
        **options: `widths` and `blocks` of the stages, `dropout` before the last layer, `drop_path` (stochastic depth:
            rate of the last block, 0.1), `layer_scale` (initial value, 1e-6), `norm`, `remat` (less memory in training,
            more time), `dtype`.

    """
    options = {"blocks": (3, 3, 9, 3)} | options
    return ConvNeXt(num_classes, **options)


def convnext_small(num_classes: int = 1000, **options: Any) -> ConvNeXt:
    """Thirty-six blocks; 50,223,688 parameters. Arguments as for `convnext_tiny`; `drop_path` is 0.4."""
    options = {"blocks": (3, 3, 27, 3), "drop_path": 0.4} | options
    return ConvNeXt(num_classes, **options)
