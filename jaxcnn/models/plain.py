"""A plain stack of convolutions with exchangeable parts, to study effects of depth, pooling, activation and norm."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from jaxcnn import ops
from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import InputError
from jaxcnn.layers import BatchNorm, Conv, Dense, Dropout, Network, check_side

Array = jax.Array
POOLS: dict[str, Callable[..., Array]] = {"max": ops.max_pool, "average": ops.avg_pool}
# with the initialisation that suits each: He et al., 2015, arXiv:1502.01852; Glorot and Bengio, 2010
HE, GLOROT = nn.initializers.he_normal(), nn.initializers.glorot_normal()
ACTIVATIONS = {"relu": (nn.relu, HE), "sigmoid": (nn.sigmoid, GLOROT), "tanh": (nn.tanh, GLOROT)}


class Plain(Network):
    """See `plain`."""

    num_classes: int = 10
    depth: int = 3
    width: int = 32
    pool: str = "max"
    pools: int = 3
    activation: str = "relu"
    batch_norm: bool = False
    dropout: float = 0.0
    dtype: Any = None

    default_image = (28, 28, 1)

    @property
    def smallest(self) -> int:
        """Side of the smallest image that leaves a pixel after the last pooling."""
        return 2 ** min(self.pools, self.depth)

    def setup(self) -> None:
        """Make the layers."""
        if self.pool not in POOLS or self.activation not in ACTIVATIONS:
            given = f"pool={self.pool!r}, activation={self.activation!r}"
            raise InputError(f"{given}: must be one of {', '.join(POOLS)}, and one of {', '.join(ACTIVATIONS)}")
        init = ACTIVATIONS[self.activation][1]
        self.convs = [
            Conv(self.width, (3, 3), use_bias=not self.batch_norm, dtype=self.dtype, kernel_init=init)
            for _ in range(self.depth)
        ]
        self.norms = [BatchNorm(dtype=self.dtype) for _ in range(self.depth if self.batch_norm else 0)]
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())

    def features(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Return `stage1`, `stage2`, ...: each convolution after activation and pooling, `[B, h, w, width]`."""
        check_side(x, self.smallest)
        out, activate = {}, ACTIVATIONS[self.activation][0]
        for i, conv in enumerate(self.convs):
            x = conv(x)
            x = activate(self.norms[i](x, train=train, mask=row_mask) if self.batch_norm else x)
            x = POOLS[self.pool](x, 2) if i < self.pools else x
            out[f"stage{i + 1}"] = x
        return out

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]` from all positions of the last stage."""
        x = promote_float32(features[f"stage{self.depth}"])
        return self.logits(self.drop(x.reshape(x.shape[0], -1), train=train))


def plain(num_classes: int = 10, **options: Any) -> Plain:
    """3x3 convolutions, 2x2 pooling after each of the first three, and a dense layer. The image size is fixed at init.

    Args:
        num_classes: number of logits.
        **options: `depth` (number of convolutions, 3), `width` (channels of each, 32), `pool` ("max" or "average"),
            `pools` (number of convolutions with pooling, 3), `activation` ("relu", "sigmoid" or "tanh"), `batch_norm`
            before the activation, `dropout` before the last layer, `dtype`.

    """
    return Plain(num_classes, **options)
