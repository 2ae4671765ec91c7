"""Inception v3 (Szegedy et al., 2015, arXiv:1512.00567), with the parts it shares with GoogLeNet."""

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn import ops
from jaxcnn.core.precision import promote_float32
from jaxcnn.layers import BatchNorm, ConvNorm, Dense, Dropout, Staged

Array = jax.Array
Norm = functools.partial(BatchNorm, epsilon=1e-3)


class Unit(NamedTuple):
    """One convolution; the padding is by default half the kernel, or none with a stride."""

    name: str
    features: int
    kernel_size: int | tuple[int, int] = 1
    strides: int = 1
    padding: Any = None


Step = Unit | tuple[Unit, Unit] | Callable[[Array], Array]  # a convolution, two of them side by side, or a pooling


class Mixed(nn.Module):
    """Branches of convolutions and poolings side by side; a single branch is a simple sequence."""

    branches: Sequence[Sequence[Step]]
    norm: Callable[..., nn.Module] = Norm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, row_mask: Array | None = None) -> Array:
        """Map `[B, H, W, C]` to the concatenated channels of all branches, `[B, h, w, width]`."""

        def unit(u: Unit, y: Array) -> Array:
            window = (u.kernel_size,) * 2 if isinstance(u.kernel_size, int) else u.kernel_size
            padding = "VALID" if u.strides > 1 else [(k // 2, k // 2) for k in window]
            layer = ConvNorm(
                u.features, window, u.strides, u.padding or padding, norm=self.norm, dtype=self.dtype, name=u.name
            )
            return layer(y, train=train, row_mask=row_mask)

        ends = []
        for branch in self.branches:
            y = x
            for step in branch:
                if isinstance(step, Unit):
                    y = unit(step, y)
                else:
                    y = step(y) if callable(step) else jnp.concatenate([unit(u, y) for u in step], -1)
            ends.append(y)
        return jnp.concatenate(ends, -1)


class Inception(Staged):
    """Stages of `Mixed` blocks; with `aux`, auxiliary heads at the taps, whose logits `with_auxiliary` also returns."""

    num_classes: int
    aux: bool = False
    dropout: float = 0.5
    norm: Callable[..., nn.Module] = Norm
    remat: bool = False
    dtype: Any = None

    table: ClassVar[tuple[Any, ...]] = ()  # the stem, then stages of blocks; a block is a tuple of branches

    def setup(self) -> None:
        """Make the layers."""
        make = functools.partial(Mixed, norm=self.norm, dtype=self.dtype)
        stem, *stages = self.table
        self.stem = make([stem])
        self.stages = [[make(branches) for branches in stage] for stage in stages]
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())
        self.extra = [self.make_extra() for _ in self.taps] if self.aux else []

    def make_extra(self) -> nn.Module:
        """Return an auxiliary head."""
        raise TypeError(f"{type(self).__name__} has no auxiliary heads")

    def with_auxiliary(
        self, x: Array, *, train: bool = False, row_mask: Array | None = None
    ) -> tuple[Array, list[Array]]:
        """Return the logits, and a list of those of the auxiliary heads, each `[B, num_classes]`."""
        features = self.features(x, train=train, row_mask=row_mask)
        extra = [
            head(features[name], train=train, row_mask=row_mask)
            for head, name in zip(self.extra, self.taps.values(), strict=False)
        ]
        return self.head(features, train=train), extra

    def __call__(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> Array:
        """Map `[B, H, W, C]` float to logits `[B, num_classes]`."""
        if self.aux and self.is_initializing():
            return self.with_auxiliary(x, train=train, row_mask=row_mask)[0]
        return super().__call__(x, train=train, row_mask=row_mask)


class Extra(nn.Module):
    """The auxiliary head: pooling to few positions, two convolutions, a linear layer."""

    num_classes: int
    norm: Callable[..., nn.Module] = Norm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, row_mask: Array | None = None) -> Array:
        """Map `[B, 17, 17, 768]` to logits `[B, num_classes]`."""
        make = functools.partial(ConvNorm, norm=self.norm, dtype=self.dtype)
        x = make(128, (1, 1), name="conv0")(ops.avg_pool(x, 5, strides=3), train=train, row_mask=row_mask)
        x = make(768, (5, 5), padding="VALID", name="conv1")(x, train=train, row_mask=row_mask)
        logits = Dense(self.num_classes, kernel_init=nn.initializers.truncated_normal(0.001), name="logits")
        return logits(ops.global_avg_pool(promote_float32(x)))


average = functools.partial(ops.avg_pool, window=3, strides=1, padding=1)
halve = functools.partial(ops.max_pool, window=3, strides=2)


def _a(pooled: int) -> Sequence[Sequence[Step]]:
    return (
        (Unit("branch1x1", 64),),
        (Unit("branch5x5_1", 48), Unit("branch5x5_2", 64, 5)),
        (Unit("branch3x3dbl_1", 64), Unit("branch3x3dbl_2", 96, 3), Unit("branch3x3dbl_3", 96, 3)),
        (average, Unit("branch_pool", pooled)),
    )


def _c(n: int) -> Sequence[Sequence[Step]]:
    row, column = (1, 7), (7, 1)
    twice = [Unit(f"branch7x7dbl_{i}", n, window) for i, window in enumerate((1, column, row, column), 1)]
    return (
        (Unit("branch1x1", 192),),
        (Unit("branch7x7_1", n), Unit("branch7x7_2", n, row), Unit("branch7x7_3", 192, column)),
        (*twice, Unit("branch7x7dbl_5", 192, row)),
        (average, Unit("branch_pool", 192)),
    )


B = (
    (Unit("branch3x3", 384, 3, 2),),
    (Unit("branch3x3dbl_1", 64), Unit("branch3x3dbl_2", 96, 3), Unit("branch3x3dbl_3", 96, 3, 2)),
    (halve,),
)
D = (
    (Unit("branch3x3_1", 192), Unit("branch3x3_2", 320, 3, 2)),
    (
        Unit("branch7x7x3_1", 192),
        Unit("branch7x7x3_2", 192, (1, 7)),
        Unit("branch7x7x3_3", 192, (7, 1)),
        Unit("branch7x7x3_4", 192, 3, 2),
    ),
    (halve,),
)
E = (
    (Unit("branch1x1", 320),),
    (Unit("branch3x3_1", 384), (Unit("branch3x3_2a", 384, (1, 3)), Unit("branch3x3_2b", 384, (3, 1)))),
    (
        *(Unit("branch3x3dbl_1", 448), Unit("branch3x3dbl_2", 384, 3)),
        (Unit("branch3x3dbl_3a", 384, (1, 3)), Unit("branch3x3dbl_3b", 384, (3, 1))),
    ),
    (average, Unit("branch_pool", 192)),
)


class InceptionV3(Inception):
    """See `inception_v3`."""

    smallest = 75
    default_image = (299, 299, 3)
    pools = types.MappingProxyType({1: halve, 2: halve})
    taps = types.MappingProxyType({(3, 4): "aux"})
    table = (
        (Unit("Conv2d_1a_3x3", 32, 3, 2), Unit("Conv2d_2a_3x3", 32, 3, 1, "VALID"), Unit("Conv2d_2b_3x3", 64, 3)),
        (((Unit("Conv2d_3b_1x1", 80), Unit("Conv2d_4a_3x3", 192, 3, 1, "VALID")),),),
        (_a(32), _a(64), _a(64)),
        (B, _c(128), _c(160), _c(160), _c(192)),
        (D, E, E),
    )

    def make_extra(self) -> nn.Module:
        """Return the auxiliary head."""
        return Extra(self.num_classes, self.norm, self.dtype)


def inception_v3(num_classes: int = 1000, **options: Any) -> InceptionV3:
    """Eleven mixed blocks, for 299x299; 23,834,568 parameters, 27,161,264 with `aux`. Images must be at least 75x75.

    Args:
        num_classes: number of logits.
        **options: `aux` (an auxiliary head, for `tasks.classification(auxiliary=...)`, which needs images of about
            299x299), `dropout` before the last layer (0.5), `norm`, `remat` (less memory in training, more time),
            `dtype`.

    """
    return InceptionV3(num_classes, **options)
