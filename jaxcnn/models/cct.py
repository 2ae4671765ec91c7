"""Compact convolutional transformer (Hassani et al., 2021, arXiv:2104.05704): convolutional tokens, soft pooling."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn import ops
from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import InputError
from jaxcnn.layers import Conv, Dense, Dropout, DropPath, LayerNorm, Network, apply_block, check_side
from jaxcnn.models.convnext import gelu
from jaxcnn.models.resnet import growing
from jaxcnn.models.vit import INIT, Attention

Array = jax.Array


class Block(nn.Module):
    """Norm and attention, norm and two dense layers, as in the authors' code: no shortcut skips the second norm."""

    heads: int
    ratio: int = 2
    dropout: float = 0.0
    drop_path: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, row_mask: Array | None = None) -> Array:
        """Map `[B, N, C]` to `[B, N, C]`."""
        del row_mask
        drop, skip, c = Dropout(self.dropout), DropPath(self.drop_path), x.shape[-1]
        attention = Attention(self.heads, use_bias=False, dtype=self.dtype, name="attention")
        y = attention(LayerNorm(1e-5, self.dtype, name="norm1")(x))
        x = LayerNorm(1e-5, self.dtype, name="norm2")(x + skip(drop(y, train=train), train=train))
        y = gelu(Dense(self.ratio * c, self.dtype, INIT, name="dense1")(x))
        y = Dense(c, self.dtype, INIT, name="dense2")(drop(y, train=train))
        return x + skip(drop(y, train=train), train=train)


class CCT(Network):
    """See `cct_7_3x1_32`."""

    num_classes: int = 10
    width: int = 256
    heads: int = 4
    depth: int = 7
    ratio: int = 2
    convs: int = 1
    dropout: float = 0.0
    drop_path: float = 0.1
    remat: bool = False
    dtype: Any = None

    default_image = (32, 32, 3)

    @property
    def smallest(self) -> int:
        """Side of the smallest image that gives more than one position."""
        return 2**self.convs + 1

    def setup(self) -> None:
        """Make the layers."""
        widths = [64] * (self.convs - 1) + [self.width]
        self.stem = [Conv(width, (3, 3), padding=1, use_bias=False, dtype=self.dtype) for width in widths]
        rates = growing(self.drop_path, self.depth)
        self.blocks = [Block(self.heads, self.ratio, self.dropout, rate, self.dtype) for rate in rates]
        self.norm = LayerNorm(1e-5)
        # without a bias, because a softmax ignores a constant
        self.vote = Dense(1, kernel_init=nn.initializers.lecun_normal(), use_bias=False)
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())

    @nn.compact
    def _positions(self, places: int) -> Array:
        shape = (1, places, self.width)
        if self.has_variable("params", "positions") and self.get_variable("params", "positions").shape != shape:
            known = self.get_variable("params", "positions").shape[1]
            raise InputError(
                f"{places} positions in a transformer of {known}: give images with the size that the model was "
                "initialised with"
            )
        return self.param("positions", nn.initializers.truncated_normal(0.2), shape, jnp.float32)

    def features(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Return `stem`, the last convolution, and `stage1`, the output `[B, H / 2^convs, W / 2^convs, width]`."""
        check_side(x, self.smallest)
        stem = x
        for conv in self.stem:
            stem = nn.relu(conv(x))  # [B, H, W, 64 or width]
            x = ops.max_pool(stem, 3, strides=2, padding=1)
        b, h, w, c = x.shape
        x = x.reshape(b, h * w, c) + self._positions(h * w).astype(x.dtype)  # [B, N, C]
        x = self.drop(x, train=train)
        for block in self.blocks:
            x = apply_block(block, x, train=train, row_mask=row_mask, remat=self.remat)
        return {"stem": stem, "stage1": x.reshape(b, h, w, c)}

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]` from a mean over positions with predicted weights."""
        x = features["stage1"]
        x = self.norm(promote_float32(x.reshape(x.shape[0], -1, x.shape[-1])))  # [B, N, C]
        pooled = (nn.softmax(self.vote(x), 1) * x).sum(1)
        return self.logits(self.drop(pooled, train=train))


def cct_7_3x1_32(num_classes: int = 10, **options: Any) -> CCT:
    """One 3x3 convolution and seven blocks of width 256; 3,760,138 parameters at 32x32, the default size.

    The image size is fixed at init.

    Args:
        num_classes: number of logits.
        **options: `width`, `heads`, `depth`, `ratio` (width inside a block, relative to its own), `convs` in the stem
            (all but the last have 64 channels), `dropout` in every block, `drop_path` (stochastic depth: rate of the
            last block, 0.1), `remat` (less memory in training, more time), `dtype`.

    """
    return CCT(num_classes, **options)


def cct_2_3x2_32(num_classes: int = 10, **options: Any) -> CCT:
    """Two 3x3 convolutions and two blocks of width 128; 283,722 parameters at 32x32. Options as for `cct_7_3x1_32`."""
    options = {"width": 128, "heads": 2, "depth": 2, "ratio": 1, "convs": 2} | options
    return CCT(num_classes, **options)
