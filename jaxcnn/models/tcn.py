"""The temporal convolutional network (Bai et al., 2018, arXiv:1803.01271): causal dilated convolutions.

As in the paper, convolutions have weight normalisation (Salimans and Kingma, 2016, arXiv:1602.07868). Kernels start as
He et al. (2015) draw them, not from a normal distribution of deviation 0.01, because weight normalisation keeps only
their direction and the layers after it would otherwise start with tiny outputs. Dropout is per element.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn import ops
from jaxcnn.core.precision import policy, promote_float32
from jaxcnn.core.types import InputError
from jaxcnn.layers import Conv, Dense, Dropout, Network
from jaxcnn.layers.core import KERNEL_INIT
from jaxcnn.models.series import check_series, kept, places, possible

Array = jax.Array


class CausalConv(nn.Module):
    """A convolution whose output at a step reads no later step, with a kernel that is a direction and a length."""

    features: int
    kernel_size: int
    dilation: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, T, C]` to `[B, T, features]`."""
        dtype, shape = policy(self.dtype, x), (self.kernel_size, x.shape[-1], self.features)
        direction = self.param("direction", KERNEL_INIT, shape, jnp.float32)
        norm = jnp.sqrt(jnp.square(direction).sum((0, 1), keepdims=True))
        # made from the direction, so that the first kernel is the one that was drawn
        length = self.param("length", lambda key: jnp.sqrt(jnp.square(direction).sum((0, 1))))
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        kernel = direction / jnp.maximum(norm, 1e-12) * length[None, None]
        before = (((self.kernel_size - 1) * self.dilation, 0),)
        y = ops.conv(x.astype(dtype.compute), kernel.astype(dtype.compute), padding=before, dilation=self.dilation)
        return y + lax.broadcast_to_rank(bias.astype(y.dtype), y.ndim)


class CausalBlock(nn.Module):
    """Two causal convolutions with ReLU and dropout, and a shortcut around them."""

    features: int
    kernel_size: int
    dilation: int
    dropout: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Map `[B, T, C]` to `[B, T, features]`."""
        y = x
        for i in (1, 2):
            conv = CausalConv(self.features, self.kernel_size, self.dilation, self.dtype, name=f"conv{i}")
            y = Dropout(self.dropout)(nn.relu(conv(y)), train=train)
        if x.shape[-1] != self.features:
            x = Conv(self.features, (1,), dtype=self.dtype, name="shortcut")(x)
        return nn.relu(x + y)


class TCN(Network):
    """See `tcn`."""

    horizon: int = 1
    quantiles: int = 3
    widths: Sequence[int] = (32, 32, 32, 32, 32)
    kernel_size: int = 3
    dropout: float = 0.0
    dtype: Any = None

    default_image = (64, 2)

    def setup(self) -> None:
        """Make the layers."""
        self.blocks = [
            CausalBlock(width, self.kernel_size, 2**i, self.dropout, self.dtype) for i, width in enumerate(self.widths)
        ]
        self.values = Dense(self.horizon * self.quantiles)

    def features(
        self, x: Array, *, train: bool = False, row_mask: Array | None = None, length: Array | None = None
    ) -> dict[str, Array]:
        """Return `block1`, `block2`, ..., each `[B, T, width]`, and `last` `[B, width]`, the step before padding."""
        del row_mask
        check_series(x, length)
        mask, steps, out = places(x, length), x.shape[1], {}
        x = kept(x, mask)
        for i, block in enumerate(self.blocks, 1):
            x = out[f"block{i}"] = kept(block(x, train=train), mask)
        at = jnp.full(x.shape[0], steps - 1) if length is None else length - 1
        last = jnp.take_along_axis(promote_float32(x), at.clip(0, steps - 1)[:, None, None], 1)[:, 0]
        return {**out, "last": possible(last, steps, length)}

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return `[B, horizon, quantiles]`."""
        del train
        y = self.values(features["last"])
        return y.reshape(y.shape[0], self.horizon, self.quantiles)  # [B, H, Q]

    def __call__(
        self, x: Array, *, train: bool = False, row_mask: Array | None = None, length: Array | None = None
    ) -> Array:
        """Map float `[B, T, C]` to `[B, horizon, quantiles]`."""
        return self.head(self.features(x, train=train, row_mask=row_mask, length=length), train=train)


def tcn(horizon: int = 1, quantiles: int = 3, **options: Any) -> TCN:
    """Temporal convolutional network of Bai et al. (2018, arXiv:1803.01271), which forecasts all steps at once.

    The last step sees `1 + 2 (kernel_size - 1) (2**blocks - 1)` steps of the series: 125 with the options below.

    Args:
        horizon: number of steps to forecast.
        quantiles: number of values per step, such as those of `tasks.forecasting`.
        **options: `widths` (channels of each block, of which block `i` from 0 has the dilation `2**i`; five times 32),
            `kernel_size` (3), `dropout` (0), `dtype`.

    Returns:
        A network that is called as `apply(variables, x, train=, row_mask=, length=)`.

    Raises:
        InputError: a size below 1, or more than 24 blocks.

    """
    made = TCN(horizon, quantiles, **options)
    if min(made.horizon, made.quantiles, made.kernel_size, *made.widths, len(made.widths)) < 1:
        raise InputError("horizon, quantiles, kernel_size and widths: must be at least 1, and at least one width")
    if len(made.widths) > 24:
        raise InputError(f"widths: {len(made.widths)} blocks; must be 24 at most, because dilations double")
    return made
