"""A plain stack of convolutions with exchangeable parts, to study effects of depth, pooling, activation and norm."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxcnn import ops
from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import InputError, check_whole
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
    widths: Sequence[int] = ()
    kernel_size: int = 3
    stride: int = 1
    hidden: int = 0
    dtype: Any = None

    default_image = (28, 28, 1)

    @property
    def smallest(self) -> int:
        """Side of the smallest image that leaves a pixel after the last pooling."""
        side = 1
        for i in reversed(range(len(self.channels))):
            side = (side * (2 if i < self.pools else 1) - 1) * self.stride + 1
        return side

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each convolution."""
        return tuple(self.widths) or (self.width,) * self.depth

    def setup(self) -> None:
        """Make the layers."""
        if self.pool not in POOLS or self.activation not in ACTIVATIONS:
            given = f"pool={self.pool!r}, activation={self.activation!r}"
            raise InputError(f"{given}: must be one of {', '.join(POOLS)}, and one of {', '.join(ACTIVATIONS)}")
        check_whole("stride", self.stride, 1)
        init, window = ACTIVATIONS[self.activation][1], (self.kernel_size,) * 2
        self.convs = [
            Conv(
                width, window, self.stride, use_bias=not self.batch_norm, pool=self._fused(i), dtype=self.dtype,
                kernel_init=init,
            )
            for i, width in enumerate(self.channels)
        ]  # fmt: skip
        self.norms = [BatchNorm(dtype=self.dtype) for _ in self.channels] if self.batch_norm else []
        self.dense = Dense(self.hidden, dtype=self.dtype, kernel_init=init) if self.hidden else None
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())

    def features(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Return `stage1`, `stage2`, ...: each convolution after activation and pooling, `[B, h, w, width]`."""
        check_side(x, self.smallest)
        out, activate = {}, ACTIVATIONS[self.activation][0]
        for i, conv in enumerate(self.convs):
            x = conv(x)
            x = activate(self.norms[i](x, train=train, mask=row_mask) if self.batch_norm else x)
            x = POOLS[self.pool](x, 2) if i < self.pools and self._fused(i) == 1 else x
            out[f"stage{i + 1}"] = x
        return out

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]` from all positions of the last stage."""
        x = features[f"stage{len(self.channels)}"]
        x = x.reshape(x.shape[0], -1)
        x = ACTIVATIONS[self.activation][0](self.dense(x)) if self.dense else x
        return self.logits(self.drop(promote_float32(x), train=train))

    def _fused(self, i: int) -> int:
        """Return the side of the pooling in a convolution: a maximum before a rising activation is the same, faster."""
        return 2 if self.pool == "max" and not self.batch_norm and i < self.pools else 1


def plain(num_classes: int = 10, **options: Any) -> Plain:
    """3x3 convolutions, 2x2 pooling after each of the first three, and a dense layer. The image size is fixed at init.

    Args:
        num_classes: number of logits.
        **options: `depth` (number of convolutions, 3), `width` (channels of each, 32), `pool` ("max" or "average"),
            `pools` (number of convolutions with pooling, 3), `activation` ("relu", "sigmoid" or "tanh"), `batch_norm`
            before the activation, `dropout` before the last layer, `widths` (channels of each convolution, instead of
            `depth` and `width`), `kernel_size` (3), `stride` (of each convolution, 1), `hidden` (units of a dense
            layer before the last one; 0 for none), `dtype`.

    """
    return Plain(num_classes, **options)
