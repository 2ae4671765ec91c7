"""The usual network of tutorials: 32 filters of 3x3, 2x2 max pooling, 128 units; 693,962 parameters at 28x28x1."""

from typing import Any

import flax.linen as nn
import jax

from jaxcnn.core.precision import promote_float32
from jaxcnn.layers import Conv, Dense, Dropout, Network

Array = jax.Array


class Tutorial(Network):
    """See `tutorial`."""

    num_classes: int = 10
    dropout: float = 0.0
    dtype: Any = None

    default_image = (28, 28, 1)

    def setup(self) -> None:
        """Make the layers, with the initialisation of Keras (Glorot and Bengio, 2010)."""
        init = nn.initializers.glorot_uniform()
        self.conv = Conv(32, (3, 3), padding="VALID", pool=2, dtype=self.dtype, kernel_init=init)
        self.dense = Dense(128, dtype=self.dtype, kernel_init=init)
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=init)

    def features(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Return `stem`, `[B, (H - 2) / 2, (W - 2) / 2, 32]`; ReLU after pooling is equal and cheaper."""
        del train, row_mask
        return {"stem": nn.relu(self.conv(x))}

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]`."""
        x = features["stem"]
        x = nn.relu(self.dense(x.reshape(x.shape[0], -1)))  # [B, 128]
        return self.logits(promote_float32(self.drop(x, train=train)))


def tutorial(num_classes: int = 10, **options: Any) -> Tutorial:
    """One convolution, one hidden layer; `dropout` before the last layer. The image size is fixed at init."""
    return Tutorial(num_classes, **options)
