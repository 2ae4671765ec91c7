"""Dense layers behind a network whose outputs are compared with each other (Chen et al., 2020, arXiv:2002.05709)."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from jaxcnn.layers.core import Dense
from jaxcnn.layers.norm import BatchNorm

Array = jax.Array


class Projection(nn.Module):
    """Dense layers with norms, on the outputs of another layer.

    Attributes:
        widths: of the layers.
        before: whether a norm and an activation come before the first layer.
        after: whether a norm, without an activation, comes after the last.

    """

    widths: Sequence[int]
    before: bool = True
    after: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> Array:
        """Map `[B, C]` to `[B, widths[-1]]`."""
        for i, width in enumerate(self.widths):
            if i or self.before:
                x = nn.relu(BatchNorm(name=f"norm{i}")(x, train=train, mask=row_mask))
            last = i == len(self.widths) - 1
            x = Dense(width, use_bias=last and not self.after, name=f"dense{i}")(x)
        return BatchNorm(name="norm")(x, train=train, mask=row_mask) if self.after else x
