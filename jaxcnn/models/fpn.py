"""Feature pyramids (Lin et al., 2016, arXiv:1612.03144): equally wide features at every resolution of a network.

Structure and initialisation are torchvision's. The coarser levels beyond those of the network are strided convolutions,
as in RetinaNet (Lin et al., 2017, arXiv:1708.02002), or with `pool=True` every other pixel of the level before, as in
the paper.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.core.types import InputError
from jaxcnn.layers import Conv, ConvNorm

Array = jax.Array
KERNEL_INIT = nn.initializers.lecun_uniform()


class FPN(nn.Module):
    """A feature pyramid: 1x1 convolutions, sums from coarse to fine, 3x3 convolutions.

    Attributes:
        width: number of channels of every level.
        levels: levels of the network that it reads, neighbours in rising order; level `i` has a stride of `2**i`.
        extra: number of coarser levels that it adds.
        pool: whether these are every other pixel of the level before instead of convolutions.
        norm: makes a norm behind each convolution of the network's levels, as in `layers.ConvNorm`; None for none.
        dtype: as in `precision.policy`.

    """

    width: int = 256
    levels: Sequence[int] = (3, 4, 5)
    extra: int = 2
    pool: bool = False
    norm: Callable[..., nn.Module] | None = None
    dtype: Any = None

    @nn.compact
    def __call__(
        self, found: Mapping[int, Array], *, train: bool = False, row_mask: Array | None = None
    ) -> dict[str, Array]:
        """Make a pyramid of the levels of a network.

        Args:
            found: level to feature `[B, H, W, C]`, as `layers.feature_levels` returns them.
            train: whether norms are in training mode.
            row_mask: `[B]`, 0 for padding; None for no padding.

        Returns:
            `p3`, `p4`, ... by the number of the level, each `[B, H, W, width]`, the finest first.

        Raises:
            InputError: the levels are not neighbours, or the network lacks one of them.

        """
        _check(self, found)
        call = functools.partial(self._layer, train=train, row_mask=row_mask)
        coarser, out = None, {}
        for i, level in reversed(list(enumerate(self.levels))):
            x = call(found[level], 1, f"lateral_{i}")
            coarser = x if coarser is None else x + upsampled(coarser, x.shape[1:3])
            out[level] = call(coarser, 3, f"output_{i}")
        last = max(self.levels)
        for level in range(last + 1, last + 1 + self.extra):
            before = out[level - 1]
            if self.pool:
                out[level] = before[:, ::2, ::2]
                continue
            conv = Conv(self.width, (3, 3), 2, 1, dtype=self.dtype, kernel_init=KERNEL_INIT, name=f"p{level}")
            out[level] = conv(before if level == last + 1 else nn.relu(before))
        return {f"p{level}": out[level] for level in sorted(out)}

    def _layer(self, x: Array, size: int, name: str, *, train: bool, row_mask: Array | None) -> Array:
        if self.norm is None:
            options = {"dtype": self.dtype, "kernel_init": KERNEL_INIT, "name": name}
            return Conv(self.width, (size, size), **options)(x)
        make = functools.partial(ConvNorm, norm=self.norm, activation=_same, dtype=self.dtype, name=name)
        return make(self.width, (size, size))(x, train=train, row_mask=row_mask)


def upsampled(x: Array, sides: Sequence[int]) -> Array:
    """Repeat each pixel of `[B, H, W, C]` along both sides, and cut what is one pixel too large.

    Args:
        x: the array.
        sides: height and width of the result: twice those of `x`, or one less.

    Raises:
        InputError: other sides.

    """
    if any(m not in (2 * n - 1, 2 * n) for n, m in zip(x.shape[1:3], sides, strict=True)):
        raise InputError(
            f"features of {tuple(x.shape[1:3])} pixels do not fit those of {tuple(sides)}; each level must have half "
            "the pixels of the one before"
        )
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)[:, : sides[0], : sides[1]]


def _same(x: Array) -> Array:
    return x


def _check(pyramid: FPN, found: Mapping[int, Array]) -> None:
    levels = tuple(pyramid.levels)
    if not levels or levels != tuple(range(levels[0], levels[0] + len(levels))):
        raise InputError(f"levels={levels}: must be neighbours in rising order, such as (3, 4, 5)")
    if lacking := sorted(set(levels) - set(found)):
        has = ", ".join(str(level) for level in sorted(found))
        raise InputError(f"levels={levels}: the backbone has no level {lacking[0]}, only {has}; use some of these")
    if pyramid.extra < 0:
        raise InputError(f"extra={pyramid.extra}: must be at least 0")
