"""Blocks of networks: layers with norm and activation, separable convolution, channel and spatial attention."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn import ops
from jaxcnn.layers.core import Conv, Dense
from jaxcnn.layers.norm import BatchNorm

Array = jax.Array


class ConvNorm(nn.Module):
    """Convolution, then a norm, then an activation.

    Attributes:
        features: number of output channels.
        kernel_size: one size per spatial axis.
        strides: one number, or one per spatial axis.
        padding: as in `ops.conv`.
        groups: number of groups of channels that are convolved separately.
        dilation: distance between the taps of the kernel, in pixels: one number, or one per spatial axis.
        pool: size of a max pooling before the norm; 1 for none.
        use_bias: add a bias to the convolution.
        norm: makes a module that is called as `norm(x, train=, mask=)`.
        activation: function of an array.
        dtype: as in `precision.policy`.

    """

    features: int
    kernel_size: Sequence[int] = (3, 3)
    strides: int | Sequence[int] = 1
    padding: str | int | Sequence[tuple[int, int]] = "SAME"
    groups: int = 1
    dilation: int | Sequence[int] = 1
    pool: int = 1
    use_bias: bool = False
    norm: Callable[..., nn.Module] = BatchNorm
    activation: Callable[[Array], Array] = nn.relu
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, row_mask: Array | None = None) -> Array:
        """Map `[B, *spatial, C]` to `[B, *out, features]`; pooling before the norm makes the norm cheaper."""
        options = {"dilation": self.dilation, "groups": self.groups, "use_bias": self.use_bias, "pool": self.pool}
        options["dtype"] = self.dtype
        x = Conv(self.features, self.kernel_size, self.strides, self.padding, **options, name="conv")(x)
        return self.activation(self.norm(dtype=self.dtype, name="norm")(x, train=train, mask=row_mask))


class SeparableConv(nn.Module):
    """Depthwise-separable convolution: one filter per channel, then 1x1 over channels, each with norm and activation.

    Reference: Howard et al., 2017, arXiv:1704.04861.
    """

    features: int
    kernel_size: Sequence[int] = (3, 3)
    strides: int | Sequence[int] = 1
    padding: str | int | Sequence[tuple[int, int]] = "SAME"
    norm: Callable[..., nn.Module] = BatchNorm
    activation: Callable[[Array], Array] = nn.relu
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, row_mask: Array | None = None) -> Array:
        """Map `[B, *spatial, C]` to `[B, *out, features]`."""
        make = functools.partial(ConvNorm, norm=self.norm, activation=self.activation, dtype=self.dtype)
        c = x.shape[-1]
        depthwise = make(c, self.kernel_size, self.strides, self.padding, groups=c, name="depthwise")
        x = depthwise(x, train=train, row_mask=row_mask)
        return make(self.features, (1,) * len(self.kernel_size), name="pointwise")(x, train=train, row_mask=row_mask)


class SqueezeExcite(nn.Module):
    """Squeeze and excitation: two small layers compute a gate per channel from the channel means.

    Reference: Hu et al., 2017, arXiv:1709.01507.

    Attributes:
        squeezed: number of channels between the two layers.
        activation: function after the first layer.
        gate: function after the second layer, to 0..1.
        dtype: as in `precision.policy`.

    """

    squeezed: int
    activation: Callable[[Array], Array] = nn.relu
    gate: Callable[[Array], Array] = nn.sigmoid
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False, mask: Array | None = None) -> Array:
        """Scale `[B, *spatial, C]`; `mask`, as in `BatchNorm`, excludes positions from the means."""
        del train
        axes = tuple(range(1, x.ndim - 1))
        make = functools.partial(Conv, kernel_size=(1,) * len(axes), dtype=self.dtype)
        means = jnp.expand_dims(ops.global_avg_pool(x, _places(mask)), axes)
        y = self.activation(make(self.squeezed, name="reduce")(means))
        return x * self.gate(make(x.shape[-1], name="expand")(y))


class CBAM(nn.Module):
    """Convolutional block attention (Woo et al., 2018, arXiv:1807.06521): gates for channels, then for positions."""

    squeezed: int
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, mask: Array | None = None) -> Array:
        """Scale `[B, *spatial, C]`; `mask`, as in `BatchNorm`, excludes positions from the means and maxima."""
        axes, counted = tuple(range(1, x.ndim - 1)), _places(mask)
        make = functools.partial(Conv, kernel_size=(1,) * len(axes), dtype=self.dtype)
        reduce, expand = make(self.squeezed, name="reduce"), make(x.shape[-1], name="expand")

        def shared(pooled):
            return expand(nn.relu(reduce(pooled)))

        mean, largest = (jnp.expand_dims(pool(x, counted), axes) for pool in (ops.global_avg_pool, ops.global_max_pool))
        x = x * nn.sigmoid(shared(mean) + shared(largest))
        both = jnp.stack([x.mean(-1), ops.first_max(x, -1)], -1)
        places = ConvNorm(1, (7,) * len(axes), norm=self.norm, activation=nn.sigmoid, dtype=self.dtype, name="places")
        return x * places(both, train=train, row_mask=mask)


def _places(mask: Array | None) -> Array | None:
    """Return the mask if it covers positions; a mask of whole rows does not."""
    return None if mask is None or mask.ndim < 2 else mask


class DenseNorms(nn.Module):
    """Dense layers with batch norms, on the outputs `[B, C]` of another layer, such as the projection of SimCLR.

    Attributes:
        widths: of the layers.
        before: whether a norm and an activation come before the first layer.
        after: whether a norm, without an activation, comes after the last.

    """

    widths: Sequence[int]
    before: bool = True
    after: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> Array:
        """Map `[B, C]` to `[B, widths[-1]]`; `row_mask` `[B]` is 0 for padding."""
        for i, width in enumerate(self.widths):
            if i or self.before:
                x = nn.relu(BatchNorm(name=f"norm{i}")(x, train=train, mask=row_mask))
            last = i == len(self.widths) - 1
            x = Dense(width, use_bias=last and not self.after, name=f"dense{i}")(x)
        return BatchNorm(name="norm")(x, train=train, mask=row_mask) if self.after else x
