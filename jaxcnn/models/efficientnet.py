"""EfficientNet: inverted residuals scaled in depth, width and resolution together (Tan and Le, 2019, arXiv:1905.11946).

Padding is symmetric, as in torchvision; the paper's own weights need the padding of TensorFlow and cannot be used.
"""

import math
from typing import Any

import flax.linen as nn

from jaxcnn.models.mobilenet import Inverted, Row, rounded

# expansion, kernel size, stride, channels out, number of blocks: table 1 of the paper
TABLE = (
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)  # fmt: skip


def _scaled(num_classes: int, width: float, depth: float, **options: Any) -> Inverted:
    table, channels = [], rounded(32 * width)
    for expansion, window, strides, out, count in TABLE:
        rows = []
        for j in range(math.ceil(count * depth)):
            inner = rounded(channels * expansion)
            rows.append(Row(inner, rounded(out * width), window, 1 if j else strides, max(channels // 4, 1), nn.silu))
            channels = rows[-1].out
        table.append(tuple(rows))
    chosen = {"activation": nn.silu, "squeeze_activation": nn.silu, "drop_path": 0.2}
    return Inverted(num_classes, tuple(table), (rounded(32 * width), 4 * channels), **chosen | options)


def efficientnet_b0(num_classes: int = 1000, **options: Any) -> Inverted:
    """Sixteen blocks, for 224x224; 5,288,548 parameters. Images must be at least 17x17.

    Args:
        num_classes: number of logits.
        **options: `dropout` before the last layer (0.2, in `b2` and `b3` 0.3), `drop_path` (stochastic depth: rate of
            the last block, 0.2), `norm`, `remat` (less memory in training, more time), `dtype`.

    """
    return _scaled(num_classes, 1.0, 1.0, **options)


def efficientnet_b1(num_classes: int = 1000, **options: Any) -> Inverted:
    """Twenty-three blocks, for 240x240; 7,794,184 parameters. Arguments as for `efficientnet_b0`."""
    return _scaled(num_classes, 1.0, 1.1, size=240, **options)


def efficientnet_b2(num_classes: int = 1000, **options: Any) -> Inverted:
    """Twenty-three blocks, a tenth wider, for 288x288; 9,109,994 parameters. Arguments as for `efficientnet_b0`."""
    return _scaled(num_classes, 1.1, 1.2, size=288, **{"dropout": 0.3} | options)


def efficientnet_b3(num_classes: int = 1000, **options: Any) -> Inverted:
    """Twenty-six blocks, a fifth wider, for 300x300; 12,233,232 parameters. Arguments as for `efficientnet_b0`."""
    return _scaled(num_classes, 1.2, 1.4, size=300, **{"dropout": 0.3} | options)
