"""GoogLeNet, the first Inception network (Szegedy et al., 2014, arXiv:1409.4842), as in torchvision.

Unlike the paper, it has batch norm (Ioffe and Szegedy, 2015, arXiv:1502.03167), and 3x3 convolutions in place of 5x5,
because the published weights were trained with these.
"""

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxcnn import ops
from jaxcnn.core.precision import promote_float32
from jaxcnn.layers import ConvNorm, Dense, Dropout
from jaxcnn.models.inception import Inception, Norm, Step, Unit

Array = jax.Array
halve = functools.partial(ops.max_pool, window=3, strides=2, ceil=True)


def _mixed(first: int, second: tuple[int, int], third: tuple[int, int], pooled: int) -> Sequence[Sequence[Step]]:
    return (
        (Unit("branch1", first),),
        (Unit("branch2_0", second[0]), Unit("branch2_1", second[1], 3)),
        (Unit("branch3_0", third[0]), Unit("branch3_1", third[1], 3)),
        (functools.partial(ops.max_pool, window=3, strides=1, padding=1), Unit("branch4_1", pooled)),
    )


class Extra(nn.Module):
    """An auxiliary head: pooling to 4x4 positions, a convolution, two dense layers."""

    num_classes: int
    dropout: float = 0.7
    norm: Callable[..., nn.Module] = Norm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, row_mask: Array | None = None) -> Array:
        """Map `[B, H, W, C]` to logits `[B, num_classes]`."""
        conv = ConvNorm(128, (1, 1), norm=self.norm, dtype=self.dtype, name="conv")
        x = conv(ops.adaptive_avg_pool(x, (4, 4)), train=train, row_mask=row_mask)
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)  # channels first, as in the published weights
        x = Dropout(self.dropout)(nn.relu(Dense(1024, dtype=self.dtype, name="dense")(x)), train=train)
        return Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal(), name="logits")(promote_float32(x))


class GoogLeNet(Inception):
    """See `googlenet`."""

    dropout: float = 0.2

    smallest = 17
    pools = types.MappingProxyType(
        {1: halve, 2: halve, 3: halve, 4: functools.partial(ops.max_pool, window=2, ceil=True)}
    )
    taps = types.MappingProxyType({(3, 0): "aux1", (3, 3): "aux2"})
    table = (
        (Unit("conv1", 64, 7, 2, ((3, 3), (3, 3))),),
        (((Unit("conv2", 64), Unit("conv3", 192, 3)),),),
        (_mixed(64, (96, 128), (16, 32), 32), _mixed(128, (128, 192), (32, 96), 64)),
        (
            _mixed(192, (96, 208), (16, 48), 64),
            _mixed(160, (112, 224), (24, 64), 64),
            _mixed(128, (128, 256), (24, 64), 64),
            _mixed(112, (144, 288), (32, 64), 64),
            _mixed(256, (160, 320), (32, 128), 128),
        ),
        (_mixed(256, (160, 320), (32, 128), 128), _mixed(384, (192, 384), (48, 128), 128)),
    )

    def make_extra(self) -> nn.Module:
        """Return an auxiliary head."""
        return Extra(self.num_classes, norm=self.norm, dtype=self.dtype)


def googlenet(num_classes: int = 1000, **options: Any) -> GoogLeNet:
    """Nine mixed blocks; 6,624,904 parameters, 13,004,888 with `aux`. Images must be at least 17x17.

    Args:
        num_classes: number of logits.
        **options: `aux` (two auxiliary heads, for `tasks.classification(auxiliary=...)`), `dropout` before the last
            layer (0.2), `norm`, `remat` (less memory in training, more time), `dtype`.

    """
    return GoogLeNet(num_classes, **options)
