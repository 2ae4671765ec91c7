"""A multi-layer perceptron (Rumelhart et al., 1986) with ReLU and dropout: the baseline that a CNN must beat."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxcnn.core.precision import promote_float32
from jaxcnn.layers import Dense, Dropout, Network

Array = jax.Array


class MLP(Network):
    """See `mlp`."""

    num_classes: int = 10
    widths: Sequence[int] = (256, 128)
    dropout: float = 0.0
    dtype: Any = None

    default_image = (28, 28, 1)

    def setup(self) -> None:
        """Make the layers."""
        self.hidden = [Dense(width, dtype=self.dtype) for width in self.widths]
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())

    def features(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Return `stage1`, `stage2`, ...: the hidden layers, `[B, width]`."""
        del row_mask
        out, x = {}, x.reshape(x.shape[0], -1)  # [B, H * W * C]
        for i, layer in enumerate(self.hidden, 1):
            x = out[f"stage{i}"] = self.drop(nn.relu(layer(x)), train=train)
        return out

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]`."""
        del train
        return self.logits(promote_float32(features[f"stage{len(self.widths)}"]))


def mlp(num_classes: int = 10, **options: Any) -> MLP:
    """Fully connected layers with ReLU. The image size is fixed at init.

    Args:
        num_classes: number of logits.
        **options: `widths` of the hidden layers (256, 128), `dropout` after each of them, `dtype`.

    """
    return MLP(num_classes, **options)
