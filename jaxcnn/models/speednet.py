"""A network that learns CIFAR-10 fast, in the spirit of airbench94 (Jordan, 2024, arXiv:2404.00498).

The first layer has no bias and does not learn; it pads one row and one column, so that sides stay powers of two. Unlike
airbench94, norms have a scale, and GELU has its tanh form.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import ops
from jaxcnn.core.precision import policy, promote_float32
from jaxcnn.core.types import InputError
from jaxcnn.layers import BatchNorm, Conv, Dense, Dropout, Staged

Array = jax.Array
Matrix = Sequence[Sequence[float]]


class SpeedNet(Staged):
    """See `speednet`."""

    num_classes: int = 10
    widths: Sequence[int] = (64, 256, 256)
    whitening: Matrix | None = None
    scale: float = 1 / 9
    dropout: float = 0.0
    norm: Callable[..., nn.Module] = functools.partial(BatchNorm, momentum=0.8)
    remat: bool = False
    dtype: Any = None

    default_image = (32, 32, 3)

    @property
    def smallest(self) -> int:
        """Side of the smallest image that leaves a pixel for the last stage."""
        return 2 ** len(self.widths)

    def setup(self) -> None:
        """Make the layers."""
        self.stem = Whitening(self.whitening, self.dtype)
        self.stages = [[Stage(width, self.norm, self.dtype)] for width in self.widths]
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]` from the maximum of each channel, scaled down."""
        pooled = ops.global_max_pool(promote_float32(features[f"stage{len(self.widths)}"]))
        return self.scale * self.logits(self.drop(pooled, train=train))


class Whitening(nn.Module):
    """Multiply the 2x2 patch at each position by `matrix`, then GELU of it and of its negative; nothing is learned."""

    matrix: Matrix | None
    dtype: Any = None

    def __call__(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> Array:
        """Map `[B, H, W, C]` to `[B, H, W, 8 C]`."""
        del train, row_mask
        matrix = np.eye(4 * x.shape[-1]) if self.matrix is None else np.asarray(self.matrix)
        if matrix.shape != (4 * x.shape[-1],) * 2:
            raise InputError(
                f"image shape {tuple(x.shape)}: has {x.shape[-1]} channels, but whitening is a matrix of {matrix.shape}"
            )
        dtype = policy(self.dtype, x).compute
        kernel = jnp.asarray(matrix, dtype).reshape(2, 2, x.shape[-1], -1)
        y = ops.conv(x.astype(dtype), kernel, padding=((0, 1), (0, 1)))
        positive = nn.gelu(y)
        return jnp.concatenate([positive, positive - y], -1)  # gelu(-y) = gelu(y) - y


class Stage(nn.Module):
    """Convolution, pooling, norm, GELU; convolution, norm, GELU."""

    width: int
    norm: Callable[..., nn.Module]
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, row_mask: Array | None = None) -> Array:
        """Map `[B, H, W, C]` to `[B, H / 2, W / 2, width]`."""
        for i, pool in ((1, 2), (2, 1)):
            options: dict[str, Any] = {
                "use_bias": False,
                "pool": pool,
                "dtype": self.dtype,
                "kernel_init": partly_identity,
            }
            x = Conv(self.width, **options, name=f"conv{i}")(x)
            x = nn.gelu(self.norm(dtype=self.dtype, name=f"norm{i}")(x, train=train, mask=row_mask))
        return x


def partly_identity(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """Initialise a kernel `[*window, C, K]`: the first C filters pass their channel on, the others are uniform.

    Args:
        key: random key.
        shape: shape of the kernel.
        dtype: its dtype.

    """
    *window, c, k = shape
    random = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")(key, shape, dtype)
    identity = jnp.zeros(shape, dtype).at[tuple(n // 2 for n in window)].set(jnp.eye(c, k, dtype=dtype))
    return jnp.where(jnp.arange(k) < c, identity, random)


def speednet(num_classes: int = 10, **options: Any) -> SpeedNet:
    """Three stages of two 3x3 convolutions after a whitening layer, for images of about 32x32.

    Args:
        num_classes: number of logits.
        **options: `whitening` (result of `whitening`; by default patches stay as they are), `widths` (channels of each
            stage, (64, 256, 256)), `scale` of the logits, `dropout` before the last layer, `norm`, `remat` (less memory
            in training, more time), `dtype`.

    """
    return SpeedNet(num_classes, **options)


def whitening(images: Any, epsilon: float = 5e-4) -> list[list[float]]:
    """Return a matrix that makes the values of 2x2 patches uncorrelated, with unit variance, strongest direction first.

    The matrix is an option of the model, as the mean of the pixels is one of the task: plain numbers in the
    configuration of a run. It needs no freezing, averaging or restoring, and no gradient is computed for it.

    Args:
        images: `[N, H, W, C]` in the form that the model takes; a few thousand suffice.
        epsilon: added to every variance, so that directions with almost none are not amplified.

    Returns:
        `4 C` rows of `4 C` numbers. Patches `[..., 4 C]`, in order of rows, columns and channels, are white after
        multiplication by it.

    Raises:
        InputError: not four axes, no images, or images below 2x2 pixels.

    """
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or min(images.shape[1:3]) < 2 or not len(images):
        raise InputError(f"images of shape {images.shape}: must be [N, H, W, C], with at least 2x2 pixels")
    (h, w), corners = images.shape[1:3], [(i, j) for i in (0, 1) for j in (0, 1)]
    patches = np.concatenate([images[:, i : h - 1 + i, j : w - 1 + j] for i, j in corners], -1)
    patches = patches.reshape(-1, 4 * images.shape[-1])
    values, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))
    return (vectors / np.sqrt(values + epsilon))[:, ::-1].tolist()
