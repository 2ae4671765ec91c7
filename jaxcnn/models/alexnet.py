"""AlexNet (Krizhevsky et al., 2012), as in torchvision: the variant for one device (Krizhevsky, 2014, arXiv:1404.5997).

Unlike in the first paper, widths differ, and there are no groups and no local response normalisation.
"""

import functools
from typing import Any

import flax.linen as nn
import jax

from jaxcnn import ops
from jaxcnn.core.precision import promote_float32
from jaxcnn.layers import Conv, Dense, Dropout, Network, check_side

Array = jax.Array
# channels, kernel size, stride, padding
LAYERS = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
pool = functools.partial(ops.max_pool, window=3, strides=2)


class AlexNet(Network):
    """See `alexnet`."""

    num_classes: int = 1000
    width: float = 1.0
    dropout: float = 0.5
    dtype: Any = None

    smallest = 63

    def setup(self) -> None:
        """Make the layers."""
        self.convs = [Conv(int(n * self.width), (k, k), s, p, dtype=self.dtype) for n, k, s, p in LAYERS]
        self.dense = [Dense(int(4096 * self.width), dtype=self.dtype) for _ in range(2)]
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())

    def features(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Return `stem` at 1/4, `stage1` at 1/8 and `stage2` at 1/16 of the resolution, each before its pooling."""
        del train, row_mask
        check_side(x, self.smallest)
        first, second, *rest = self.convs
        stem = nn.relu(first(x))
        stage1 = nn.relu(second(pool(stem)))
        x = pool(stage1)
        for conv in rest:
            x = nn.relu(conv(x))
        return {"stem": stem, "stage1": stage1, "stage2": x}

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]` from 6x6 positions, for any image size."""
        x = ops.adaptive_avg_pool(pool(features["stage2"]), (6, 6))
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)  # channels first, as in the published weights
        for layer in self.dense:
            x = nn.relu(layer(self.drop(x, train=train)))
        return self.logits(promote_float32(x))


def alexnet(num_classes: int = 1000, **options: Any) -> AlexNet:
    """Five convolutions and three dense layers; 61,100,840 parameters. Images must be at least 63x63.

    Args:
        num_classes: number of logits.
        **options: `width` (share of the channels), `dropout` before the first two dense layers (0.5), `dtype`.

    """
    return AlexNet(num_classes, **options)
