"""Networks for videos and volumes `[B, T, H, W, C]`: convolutions of three dimensions, whole or factored.

C3D (Tran et al., 2014, arXiv:1412.0767) convolves in 3x3x3; R(2+1)D (Tran et al., 2017, arXiv:1711.11248) in 1x3x3 and
then in 3x1x1, with torchvision's widths. Pooling lets the last window hang over the end, as in C3D's own program, so
that clips of any size fit. Frames behind the length of a clip change nothing: they stay zero, as what lies beside a
clip is.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxcnn import ops
from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import InputError
from jaxcnn.layers import (
    BatchNorm,
    Conv,
    ConvNorm,
    Dense,
    Dropout,
    Network,
    Steps,
    check_dropout,
    check_image,
    steps_of,
)

Array = jax.Array


class Video(Network):
    """Features that may know how long a clip is, and a linear layer on their mean."""

    def features(
        self, x: Array, *, train: bool = False, row_mask: Array | None = None, length: Array | None = None
    ) -> dict[str, Array]:
        """Return a dict from name to intermediate array; `head` reads the last one."""
        raise TypeError(f"{type(self).__name__} defines no features()")

    def __call__(
        self, x: Array, *, train: bool = False, row_mask: Array | None = None, length: Array | None = None
    ) -> Array:
        """Map `[B, T, H, W, C]` float to logits `[B, num_classes]`.

        Args:
            x: clips, or volumes with their depth first.
            train: whether it runs in training mode.
            row_mask: `[B]`, 0 for padding; None for no padding.
            length: int `[B]`, 1 to T: frames behind it are padding; None for none.

        """
        check_image(x, 5)
        logits = self.head(self.features(x, train=train, row_mask=row_mask, length=length), train=train)
        return steps_of(x, length, row_mask, 1).mark(logits)


def mean_of_steps(x: Array, steps: Steps) -> Array:
    """Return the mean over the places of all steps that count, `[B, T, h, w, C]` to float32 `[B, C]`."""
    return ops.global_avg_pool(promote_float32(x), steps.mask)


class C3D(Video):
    """See `c3d` and `cnn3d`."""

    num_classes: int = 101
    widths: Sequence[int] = (64, 128, 256, 512, 512)
    convs: Sequence[int] = (1, 1, 2, 2, 2)
    hidden: Sequence[int] = (4096, 4096)
    first_pool: Sequence[int] = (1, 2, 2)
    dropout: float = 0.5
    batch_norm: bool = False
    dtype: Any = None

    default_image = (16, 112, 112, 3)

    def setup(self) -> None:
        """Make the layers."""
        kind: Any = ConvNorm if self.batch_norm else Conv
        make = functools.partial(kind, kernel_size=(3, 3, 3), dtype=self.dtype)
        stages = zip(self.widths, self.convs, strict=True)
        self.stages = [[make(width) for _ in range(count)] for width, count in stages]
        self.dense = [Dense(width, dtype=self.dtype) for width in self.hidden]
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())

    def features(
        self, x: Array, *, train: bool = False, row_mask: Array | None = None, length: Array | None = None
    ) -> dict[str, Array]:
        """Return `stage1`, `stage2`, ..., each pooled, then `pooled` `[B, C]` or with `hidden` the places in a row."""
        steps, out = steps_of(x, length, row_mask), {}
        x = steps.keep(x)
        for i, stage in enumerate(self.stages, 1):
            for layer in stage:
                y = layer(x, train=train, row_mask=steps.mask) if self.batch_norm else nn.relu(layer(x))
                x = steps.keep(y)
            window = tuple(self.first_pool) if i == 1 else (2, 2, 2)
            x = out[f"stage{i}"] = ops.max_pool(x, window, ceil=True)
            steps = steps.strided(window[0])
        return {**out, "pooled": x.reshape(x.shape[0], -1) if self.hidden else mean_of_steps(x, steps)}

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]`."""
        x = features["pooled"]
        for dense in self.dense:
            x = self.drop(nn.relu(dense(x)), train=train)
        x = promote_float32(x)
        return self.logits(x if self.hidden else self.drop(x, train=train))


class Factored(nn.Module):
    """A convolution of 3x3x3 as one over height and width and one over time, with a norm after each; ReLU between them.

    Attributes:
        features: number of output channels.
        middle: number of channels between the two.
        strides: of all three axes.
        activation: after the second norm.
        space: height and width of the kernel.
        time_strides: of the time, if they are others.
        norm: as in `ConvNorm`.
        dtype: as in `precision.policy`.

    """

    features: int
    middle: int
    strides: int = 1
    activation: Callable[[Array], Array] = nn.relu
    space: int = 3
    time_strides: int | None = None
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, steps: Steps, *, train: bool) -> tuple[Array, Steps]:
        """Map `[B, T, H, W, C]` to `[B, T', H', W', features]`, and the steps that count to those that still do."""
        make, s = functools.partial(ConvNorm, norm=self.norm, dtype=self.dtype), self.space // 2
        slow = self.strides if self.time_strides is None else self.time_strides
        sides, inside = ((0, 0), (s, s), (s, s)), (1, self.space, self.space)
        x = make(self.middle, inside, (1, self.strides, self.strides), sides, name="space")(
            x, train=train, row_mask=steps.mask
        )
        later = steps.strided(slow)
        times = ((1, 1), (0, 0), (0, 0))
        last = make(self.features, (3, 1, 1), (slow, 1, 1), times, activation=self.activation, name="time")
        return later.keep(last(steps.keep(x), train=train, row_mask=later.mask)), later


class FactoredResidual(nn.Module):
    """Two factored convolutions with the same number of channels inside, added to their input."""

    features: int
    strides: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, steps: Steps, *, train: bool) -> tuple[Array, Steps]:
        """Map `[B, T, H, W, C]` to `[B, T', H', W', features]`, and the steps that count to those that still do."""
        # as many parameters as a 3x3x3 convolution would have
        middle = max(x.shape[-1] * self.features * 27 // (x.shape[-1] * 9 + 3 * self.features), 1)
        make = functools.partial(Factored, self.features, middle, norm=self.norm, dtype=self.dtype)
        y, later = make(self.strides, name="conv1")(x, steps, train=train)
        y, _ = make(activation=_unchanged, name="conv2")(y, later, train=train)
        if y.shape != x.shape:
            shortcut = ConvNorm(
                self.features, (1, 1, 1), self.strides, 0, norm=self.norm, activation=_unchanged, dtype=self.dtype,
                name="shortcut",
            )  # fmt: skip
            x = shortcut(x, train=train, row_mask=later.mask)
        return later.keep(nn.relu(x + y)), later


def _unchanged(x: Array) -> Array:
    return x


class R2Plus1D(Video):
    """See `r2plus1d_18`."""

    num_classes: int = 400
    blocks: Sequence[int] = (2, 2, 2, 2)
    width: int = 64
    dropout: float = 0.0
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    default_image = (16, 112, 112, 3)

    def setup(self) -> None:
        """Make the layers."""
        options = {"norm": self.norm, "dtype": self.dtype}
        middle = max(45 * self.width // 64, 1)
        self.stem = Factored(self.width, middle, strides=2, space=7, time_strides=1, **options)
        self.stages = [
            [FactoredResidual(self.width << i, 2 if i and not j else 1, **options) for j in range(count)]
            for i, count in enumerate(self.blocks)
        ]
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())

    def features(
        self, x: Array, *, train: bool = False, row_mask: Array | None = None, length: Array | None = None
    ) -> dict[str, Array]:
        """Return `stem`, `stage1`, `stage2`, ..., and their mean `pooled`."""
        steps = steps_of(x, length, row_mask)
        x, steps = self.stem(steps.keep(x), steps, train=train)
        out = {"stem": x}
        for i, stage in enumerate(self.stages, 1):
            for block in stage:
                x, steps = block(x, steps, train=train)
            out[f"stage{i}"] = x
        return {**out, "pooled": mean_of_steps(x, steps)}

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]`."""
        return self.logits(self.drop(features["pooled"], train=train))


def c3d(num_classes: int = 101, **options: Any) -> C3D:
    """C3D for clips of 16 frames of 112x112; 78,409,573 parameters for 101 classes.

    The hidden layers fix the size of the clips at `init`; shorter clips are padded, and `length` says how short they
    are. `hidden=()` takes the mean over the places instead, for clips of any size.

    Args:
        num_classes: number of logits.
        **options: `widths` (channels of each stage: 64, 128, 256, 512, 512), `convs` (convolutions of each: 1, 1, 2, 2,
            2), `hidden` (widths of the layers before the last: 4096, 4096), `first_pool` (pooling of the first stage
            over time, height and width: 1, 2, 2; the others halve all), `batch_norm` (off as in the paper), `dropout`
            before each layer of the head but the first (0.5), `dtype`.

    Raises:
        InputError: a value is out of range.

    """
    made = C3D(num_classes, **options)
    if not made.widths or len(made.widths) != len(made.convs) or min(*made.widths, *made.convs, *made.hidden, 1) < 1:
        raise InputError(
            f"widths={tuple(made.widths)}, convs={tuple(made.convs)}, hidden={tuple(made.hidden)}: widths and convs "
            "must have one value for each stage, and all must be at least 1"
        )
    if len(made.first_pool) != 3 or min(made.first_pool) < 1:
        raise InputError(f"first_pool={tuple(made.first_pool)}: must be three numbers, at least 1: time, height, width")
    check_dropout(made.dropout)
    return made


def cnn3d(num_classes: int = 2, **options: Any) -> C3D:
    """C3D with few channels, batch norms and a mean over all places: for small volumes, and clips of any size.

    Args:
        num_classes: number of logits.
        **options: as for `c3d`; here `widths` are 16, 32 and 64, `convs` 1, 1 and 1, `hidden` none, `first_pool` 2, 2
            and 2, `dropout` 0, and `batch_norm` is on.

    """
    widths = tuple(options.get("widths", (16, 32, 64)))
    usual = {
        "widths": widths, "convs": (1,) * len(widths), "hidden": (), "first_pool": (2, 2, 2), "dropout": 0.0,
        "batch_norm": True,
    }  # fmt: skip
    return c3d(num_classes, **usual | options)


def r2plus1d_18(num_classes: int = 400, **options: Any) -> R2Plus1D:
    """R(2+1)D with eight residual blocks; 31,505,325 parameters for 400 classes, as in torchvision.

    Args:
        num_classes: number of logits.
        **options: `blocks` of each stage (2, 2, 2, 2), `width` (channels of the first stage, 64), `dropout` before the
            last layer (0), `norm`, `dtype`.

    Raises:
        InputError: a value is out of range.

    """
    made = R2Plus1D(num_classes, **options)
    if not made.blocks or min(*made.blocks, made.width) < 1:
        raise InputError(f"blocks={tuple(made.blocks)}, width={made.width}: must be at least 1")
    check_dropout(made.dropout)
    return made
