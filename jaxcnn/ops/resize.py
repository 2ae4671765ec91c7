"""Resizing to any size."""

from collections.abc import Sequence

import jax

from jaxcnn.core.types import InputError
from jaxcnn.ops.native import is_whole
from jaxcnn.ops.primitives import bind, primitive

Array = jax.Array


def resize_linear(x: Array, sizes: Sequence[int]) -> Array:
    """Resize along each spatial axis by linear interpolation between the centres of pixels, without antialiasing.

    This is `interpolate(mode="bilinear", align_corners=False)` of PyTorch, in any number of dimensions.

    Args:
        x: `[B, *spatial, C]`.
        sizes: the new size of each spatial axis.

    Returns:
        `[B, *sizes, C]`, the dtype of `x`.

    Raises:
        InputError: there is not one size for each spatial axis.

    """
    if len(sizes) != x.ndim - 2:
        raise InputError(f"sizes={tuple(sizes)}: must have {x.ndim - 2} numbers, one for each axis of {tuple(x.shape)}")
    if tuple(sizes) == x.shape[1:-1]:
        return x
    return bind(LINEAR, x, sizes=tuple(sizes)) if is_whole() else _linear(x, tuple(sizes))


def _linear(x: Array, sizes: tuple[int, ...]) -> Array:
    return jax.image.resize(x, (x.shape[0], *sizes, x.shape[-1]), "linear", antialias=False)


LINEAR = primitive("resize_linear", _linear, _linear)  # traced in `whole_operations` alone
