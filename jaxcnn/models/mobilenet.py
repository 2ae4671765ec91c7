"""MobileNets: depthwise-separable convolutions (Howard et al., 2017, arXiv:1704.04861), with ReLU as in the paper.

Also the second version, with inverted residuals (Sandler et al., 2018, arXiv:1801.04381), and the third, found by
search (Howard et al., 2019, arXiv:1905.02244). Padding and epsilon are those of torchvision.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcnn import ops
from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import InputError, check_numbers
from jaxcnn.layers import BatchNorm, ConvNorm, Dense, Dropout, DropPath, SeparableConv, SqueezeExcite, Staged
from jaxcnn.models.resnet import growing

Array = jax.Array
# channels of each block; every stage but the first halves the resolution
STAGES = ((64,), (128, 128), (256, 256), (512,) * 6, (1024, 1024))


class MobileNet(Staged):
    """See `mobilenet_v1`."""

    num_classes: int = 1000
    cifar_stem: bool = False
    width: float = 1.0
    dropout: float = 0.0
    norm: Callable[..., nn.Module] = BatchNorm
    remat: bool = False
    dtype: Any = None

    @property
    def smallest(self) -> int:
        """Side of the smallest image whose last stage sees more than a single pixel."""
        return 5 if self.cifar_stem else 17

    def setup(self) -> None:
        """Make the layers."""
        check_width(self.width)

        def channels(n):
            return max(int(n * self.width), 8)

        self.stem = ConvNorm(channels(32), (3, 3), 1 if self.cifar_stem else 2, norm=self.norm, dtype=self.dtype)
        halving = range(2, len(STAGES)) if self.cifar_stem else range(1, len(STAGES))
        make = functools.partial(SeparableConv, norm=self.norm, dtype=self.dtype)
        self.stages = [
            [make(channels(n), strides=2 if i in halving and not j else 1) for j, n in enumerate(widths)]
            for i, widths in enumerate(STAGES)
        ]
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())


def mobilenet_v1(num_classes: int = 1000, cifar_stem: bool = False, **options: Any) -> MobileNet:
    """Thirteen separable convolutions; 4,231,976 parameters for 1000 classes of colour images.

    Args:
        num_classes: number of logits.
        cifar_stem: the variant for images of about 32x32: the stem and the first block that halves keep the resolution,
            so 32x32 pixels become 4x4 at the end. Images must be at least 5x5, otherwise 17x17.
        **options: `width` (share of the channels, such as 0.5; at least 8 channels stay), `dropout` before the last
            layer, `norm`, `remat` (less memory in training, more time), `dtype`.

    """
    return MobileNet(num_classes, cifar_stem, **options)


class Row(NamedTuple):
    """One block of a table: inner channels, output channels, kernel size, stride, squeezed channels, activation."""

    inner: int
    out: int
    kernel_size: int = 3
    strides: int = 1
    squeezed: int = 0
    activation: Callable[[Array], Array] = nn.relu6


class InvertedResidual(nn.Module):
    """1x1 to `inner` channels (left out if the input has as many), depthwise, squeeze and excitation, and a linear 1x1.

    The block is added to its input if the shape stays. It comes from the second MobileNet; the third and EfficientNet
    added squeeze and excitation.
    """

    row: Row
    gate: Callable[[Array], Array] = nn.sigmoid
    squeeze_activation: Callable[[Array], Array] = nn.relu
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, row_mask: Array | None = None) -> Array:
        """Map `[B, H, W, C]` to `[B, H / strides, W / strides, out]`."""
        row, k, y = self.row, self.row.kernel_size, x
        make = functools.partial(ConvNorm, norm=self.norm, activation=row.activation, dtype=self.dtype)
        if row.inner != x.shape[-1]:
            y = make(row.inner, (1, 1), name="expand")(y, train=train, row_mask=row_mask)
        depthwise = make(row.inner, (k, k), row.strides, k // 2, groups=row.inner, name="depthwise")
        y = depthwise(y, train=train, row_mask=row_mask)
        if row.squeezed:
            y = SqueezeExcite(row.squeezed, self.squeeze_activation, self.gate, self.dtype, name="attention")(y)
        y = make(row.out, (1, 1), activation=lambda x: x, name="project")(y, train=train, row_mask=row_mask)
        return x + DropPath(self.drop_path)(y, train=train) if x.shape == y.shape and row.strides == 1 else y


class Inverted(Staged):
    """Inverted residuals between two convolutions: see `mobilenet_v2`, `mobilenet_v3_large`, `efficientnet_b0`."""

    num_classes: int
    table: Sequence[Sequence[Row]]
    ends: tuple[int, int]
    size: int = 224
    hidden: int = 0
    activation: Callable[[Array], Array] = nn.relu6
    gate: Callable[[Array], Array] = nn.sigmoid
    squeeze_activation: Callable[[Array], Array] = nn.relu
    dropout: float = 0.2
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = BatchNorm
    remat: bool = False
    dtype: Any = None

    smallest = 17

    @property
    def default_image(self) -> tuple[int, int, int]:
        """Height, width and channels; each EfficientNet was designed for one size."""
        return (self.size, self.size, 3)

    @property
    def layout(self) -> list[list[Row]]:
        """Blocks by stage; a stage begins where the resolution halves."""
        stages: list[list[Row]] = [[]]
        for row in itertools.chain.from_iterable(self.table):
            if row.strides > 1 and stages[-1]:
                stages.append([])
            stages[-1].append(row)
        return stages

    def setup(self) -> None:
        """Make the layers."""
        make = functools.partial(ConvNorm, norm=self.norm, activation=self.activation, dtype=self.dtype)
        options: dict[str, Any] = {"gate": self.gate, "squeeze_activation": self.squeeze_activation}
        block = functools.partial(InvertedResidual, **options, norm=self.norm, dtype=self.dtype)
        rates = iter(growing(self.drop_path, sum(map(len, self.table))))
        self.stem = make(self.ends[0], (3, 3), 2, 1)
        self.stages = [[block(row, drop_path=next(rates)) for row in stage] for stage in self.layout]
        self.last = make(self.ends[1], (1, 1))
        self.dense = Dense(self.hidden, dtype=self.dtype) if self.hidden else None
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]`."""
        x = ops.global_avg_pool(features["last"])
        x = x if self.dense is None else self.activation(self.dense(x))
        return self.logits(self.drop(promote_float32(x), train=train))


def rounded(n: float) -> int:
    """Return the nearest multiple of 8, at least 8 and at most 10 % below `n`."""
    out = max(8, int(n + 4) // 8 * 8)
    return out + 8 if out < 0.9 * n else out


def check_width(width: float) -> None:
    """Refuse a width that leaves no channels."""
    check_numbers(width=width)
    if not width > 0:
        raise InputError(f"width={width}: must be above 0; 1 is the network of the paper, 0.5 has half its channels")


V2 = (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)


def mobilenet_v2(num_classes: int = 1000, width: float = 1.0, **options: Any) -> Inverted:
    """Seventeen inverted residuals; 3,504,872 parameters. Images must be at least 17x17.

    Args:
        num_classes: number of logits.
        width: share of the channels.
        **options: `dropout` before the last layer (0.2), `drop_path` (stochastic depth: rate of the last block),
            `norm`, `remat` (less memory in training, more time), `dtype`.

    """
    check_width(width)
    table, channels = [], rounded(32 * width)
    for expansion, out, count, strides in V2:  # table 2 of the paper
        rows = []
        for j in range(count):
            rows.append(Row(expansion * channels, rounded(out * width), strides=1 if j else strides))
            channels = rows[-1].out
        table.append(tuple(rows))
    return Inverted(num_classes, tuple(table), (rounded(32 * width), rounded(1280 * max(width, 1.0))), **options)


# inner and output channels, kernel size, stride, squeeze and excitation, hard swish: tables 1 and 2 of the third paper
LARGE = (
    (16, 16, 3, 1, 0, 0), (64, 24, 3, 2, 0, 0), (72, 24, 3, 1, 0, 0), (72, 40, 5, 2, 1, 0), (120, 40, 5, 1, 1, 0),
    (120, 40, 5, 1, 1, 0), (240, 80, 3, 2, 0, 1), (200, 80, 3, 1, 0, 1), (184, 80, 3, 1, 0, 1), (184, 80, 3, 1, 0, 1),
    (480, 112, 3, 1, 1, 1), (672, 112, 3, 1, 1, 1), (672, 160, 5, 2, 1, 1), (960, 160, 5, 1, 1, 1),
    (960, 160, 5, 1, 1, 1),
)  # fmt: skip
SMALL = (
    (16, 16, 3, 2, 1, 0), (72, 24, 3, 2, 0, 0), (88, 24, 3, 1, 0, 0), (96, 40, 5, 2, 1, 1), (240, 40, 5, 1, 1, 1),
    (240, 40, 5, 1, 1, 1), (120, 48, 5, 1, 1, 1), (144, 48, 5, 1, 1, 1), (288, 96, 5, 2, 1, 1), (576, 96, 5, 1, 1, 1),
    (576, 96, 5, 1, 1, 1),
)  # fmt: skip


def _v3(num_classes: int, table: tuple, last: int, hidden: int, width: float, **options: Any) -> Inverted:
    check_width(width)

    def size(n):
        return rounded(n * width)

    def row(inner, out, k, s, squeezed, swish):
        activation = nn.hard_swish if swish else nn.relu
        return Row(size(inner), size(out), k, s, rounded(size(inner) // 4) if squeezed else 0, activation)

    rows = [(row(*entry),) for entry in table]
    norm = functools.partial(BatchNorm, momentum=0.99, epsilon=1e-3)
    chosen = {"activation": nn.hard_swish, "gate": nn.hard_sigmoid, "norm": norm}
    return Inverted(num_classes, tuple(rows), (size(16), size(last)), hidden=size(hidden), **chosen | options)


def mobilenet_v3_large(num_classes: int = 1000, width: float = 1.0, **options: Any) -> Inverted:
    """Fifteen inverted residuals, squeezing, hard swish; 5,483,032 parameters. Arguments as for `mobilenet_v2`."""
    return _v3(num_classes, LARGE, 960, 1280, width, **options)


def mobilenet_v3_small(num_classes: int = 1000, width: float = 1.0, **options: Any) -> Inverted:
    """Eleven inverted residuals; 2,542,856 parameters. Arguments as for `mobilenet_v2`."""
    return _v3(num_classes, SMALL, 576, 1024, width, **options)
