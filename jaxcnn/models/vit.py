"""Vision transformers (Dosovitskiy et al., 2020, arXiv:2010.11929), in the sizes of DeiT (arXiv:2012.12877)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import InputError
from jaxcnn.layers import Conv, Dense, Dropout, DropPath, LayerNorm, Network, apply_block, check_side
from jaxcnn.models.convnext import gelu
from jaxcnn.models.resnet import growing

Array = jax.Array
INIT = nn.initializers.xavier_uniform()


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017, arXiv:1706.03762)."""

    heads: int
    use_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, N, C]` to `[B, N, C]`."""
        b, n, c = x.shape
        qkv = Dense(3 * c, self.dtype, INIT, self.use_bias, name="qkv")(x).reshape(b, n, 3, self.heads, c // self.heads)
        y = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return Dense(c, self.dtype, INIT, name="out")(y.reshape(b, n, c))


class Encoder(nn.Module):
    """Attention, then two dense layers with GELU between them; each part follows a norm and is added to its input."""

    heads: int
    dropout: float = 0.0
    drop_path: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, row_mask: Array | None = None) -> Array:
        """Map `[B, N, C]` to `[B, N, C]`."""
        del row_mask
        drop, skip, c = Dropout(self.dropout), DropPath(self.drop_path), x.shape[-1]
        y = Attention(self.heads, dtype=self.dtype, name="attention")(LayerNorm(dtype=self.dtype, name="norm1")(x))
        x = x + skip(drop(y, train=train), train=train)
        y = gelu(Dense(4 * c, self.dtype, INIT, name="dense1")(LayerNorm(dtype=self.dtype, name="norm2")(x)))
        return x + skip(drop(Dense(c, self.dtype, INIT, name="dense2")(drop(y, train=train)), train=train), train=train)


class ViT(Network):
    """See `vit_tiny_patch16_224`."""

    num_classes: int = 1000
    width: int = 192
    heads: int = 3
    depth: int = 12
    patch: int = 16
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = None

    @property
    def smallest(self) -> int:
        """Side of one patch."""
        return self.patch

    def setup(self) -> None:
        """Make the layers."""
        if self.heads < 1 or self.width % self.heads:
            raise InputError(f"width={self.width}, heads={self.heads}: the width must be a multiple of the heads")
        self.stem = Conv(self.width, (self.patch,) * 2, self.patch, "VALID", dtype=self.dtype, kernel_init=INIT)
        rates = growing(self.drop_path, self.depth)
        self.blocks = [Encoder(self.heads, self.dropout, rate, self.dtype) for rate in rates]
        self.norm = LayerNorm()
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())

    @nn.compact
    def _positions(self, places: int) -> tuple[Array, Array]:
        shape = (1, places + 1, self.width)
        if self.has_variable("params", "positions") and self.get_variable("params", "positions").shape != shape:
            known = self.get_variable("params", "positions").shape[1] - 1
            raise InputError(
                f"{places} patches in a transformer of {known}: give images with the size that the model was "
                "initialised with"
            )
        token = self.param("token", nn.initializers.zeros, (1, 1, self.width), jnp.float32)
        return token, self.param("positions", nn.initializers.normal(0.02), shape, jnp.float32)

    def features(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Return `stem`, `stage1` to `stage4` (one per quarter of the blocks) and `last`.

        They are `[B, h, w, width]` without the class token, except `last`, `[B, 1 + h * w, width]`.
        """
        check_side(x, self.smallest)
        x = self.stem(x)
        out, (b, h, w, c) = {"stem": x}, x.shape
        token, positions = self._positions(h * w)
        tokens = jnp.broadcast_to(token.astype(x.dtype), (b, 1, c))
        x = jnp.concatenate([tokens, x.reshape(b, h * w, c)], 1)  # [B, 1 + N, C]
        x = self.drop(x + positions.astype(x.dtype), train=train)
        for i, block in enumerate(self.blocks, 1):
            x = apply_block(block, x, train=train, row_mask=row_mask, remat=self.remat)
            if 4 * i % self.depth == 0:  # the patches lie on the way to the logits, for explanations
                own, patches = x[:, :1], x[:, 1:].reshape(b, h, w, c)
                out[f"stage{4 * i // self.depth}"] = patches
                x = jnp.concatenate([own, patches.reshape(b, h * w, c)], 1)
        return out | {"last": x}

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Logits `[B, num_classes]` from the class token."""
        return self.logits(self.drop(self.norm(promote_float32(features["last"][:, 0])), train=train))


def vit_tiny_patch16_224(num_classes: int = 1000, **options: Any) -> ViT:
    """Twelve blocks of width 192 with 3 heads; 5,717,416 parameters at 224x224. The image size is fixed at init.

    Args:
        num_classes: number of logits.
        **options: `patch` (16), `width`, `heads`, `depth` (a multiple of 4), `dropout` in every block, `drop_path`
            (stochastic depth: rate of the last block), `remat` (less memory in training, more time), `dtype`.

    """
    return ViT(num_classes, **options)


def vit_small_patch16_224(num_classes: int = 1000, **options: Any) -> ViT:
    """Twelve blocks of width 384 with 6 heads; 22,050,664 parameters at 224x224. See `vit_tiny_patch16_224`."""
    options = {"width": 384, "heads": 6} | options
    return ViT(num_classes, **options)
