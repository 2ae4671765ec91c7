"""LeNet-5 (LeCun et al., 1998, "Gradient-based learning applied to document recognition"), in its modern form.

Unlike the paper, it uses ReLU instead of a scaled tanh, max pooling instead of trainable subsampling, full connections
between the convolutions, and a linear last layer instead of radial basis functions. It has 61,706 parameters on grey
images of 28x28 (padded) or 32x32.
"""

from typing import Any

import flax.linen as nn
import jax

from jaxcnn.core.precision import promote_float32
from jaxcnn.layers import Conv, Dense, Dropout, Network

Array = jax.Array


class LeNet5(Network):
    """See `lenet5`."""

    num_classes: int = 10
    dropout: float = 0.0
    dtype: Any = None

    default_image = (28, 28, 1)

    def setup(self) -> None:
        """Make the layers."""
        self.conv1 = Conv(6, (5, 5), padding="VALID", pool=2, dtype=self.dtype)
        self.conv2 = Conv(16, (5, 5), padding="VALID", pool=2, dtype=self.dtype)
        self.dense1, self.dense2 = Dense(120, dtype=self.dtype), Dense(84, dtype=self.dtype)
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())

    def features(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Return `stage1` and `stage2`; images below 32x32 are padded to it, as in the paper."""
        del train, row_mask
        gaps = [max(32 - n, 0) for n in x.shape[1:3]]
        x = jax.numpy.pad(x, ((0, 0), *((g // 2, g - g // 2) for g in gaps), (0, 0)))
        stage1 = nn.relu(self.conv1(x))
        return {"stage1": stage1, "stage2": nn.relu(self.conv2(stage1))}

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]`."""
        x = features["stage2"]
        x = nn.relu(self.dense2(nn.relu(self.dense1(x.reshape(x.shape[0], -1)))))
        return self.logits(promote_float32(self.drop(x, train=train)))


def lenet5(num_classes: int = 10, **options: Any) -> LeNet5:
    """Two convolutions, two hidden layers; `dropout` before the last layer. The image size is fixed at init."""
    return LeNet5(num_classes, **options)
