"""Tensors as they lie in a file and here: the order of axes, other numbers of channels, other grids of positions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.types import InputError
from jaxcnn.weights.preprocessing import Preprocessing
from jaxcnn.weights.tables import Source
from jaxcnn.weights.tensors import Tensors


def to_ours(x: np.ndarray, path: str, name: str, shape: tuple[int, ...], table: Source | None) -> np.ndarray:
    """Bring a tensor of a file to the layout that the network has.

    Channels become the last axis, in the order that the network has them. Dense kernels that the file writes as
    convolutions, and factors with empty axes, lose these axes. A tensor that cannot have the wanted
    shape stays as it is, and the comparison of shapes then finds it.

    Args:
        x: the tensor.
        path: of the variable that it belongs to.
        name: that the file gives it.
        shape: of that variable.
        table: of the library that wrote the file; None for our own files.

    """
    if table is not None and path.endswith(".kernel"):
        if x.ndim < 2 or not x.size or (len(shape) != 2 and x.ndim != len(shape)):
            return x
        x = x.reshape(len(x), -1).T if len(shape) == 2 else x.transpose(*range(2, x.ndim), 1, 0)
    elif len(shape) == 1:
        x = x.reshape(-1)
    if order := _order(name, table):
        x = _reordered(x, order)
    return _other_grid(x, shape) if path.endswith(".positions") and x.ndim == 3 else x


def to_theirs(x: np.ndarray, path: str, name: str, table: Source | None) -> np.ndarray:
    """Bring a variable to the layout of a library.

    Args:
        x: the variable.
        path: of the variable.
        name: that the library gives it.
        table: of the library; None for our own files.

    """
    if table is None:
        return x
    if order := _order(name, table):
        x = _reordered(x, [order.index(i) for i in range(len(order))])
    if name.rpartition(".")[2] in table.spatial:
        return x[:, None, None]
    return x.transpose(-1, -2, *range(x.ndim - 2)) if path.endswith(".kernel") and x.ndim > 1 else x


def their_shape(shape: tuple[int, ...], path: str, name: str, table: Source | None) -> tuple[int, ...]:
    """Return the shape that a variable has in the layout of a library; arguments as for `to_theirs`."""
    return to_theirs(np.broadcast_to(np.bool_(0), shape), path, name, table).shape


def _order(name: str, table: Source | None) -> Sequence[int]:
    """Return where the output channels of a group are in the file; nothing where the order is the same."""
    return () if table is None else table.orders.get(name.rpartition(".")[0], ())


def _reordered(x: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Reorder the last axis within groups; an array whose groups are not whole stays as it is."""
    if x.shape[-1] % len(order):
        return x
    return x.reshape(*x.shape[:-1], -1, len(order))[..., list(order)].reshape(x.shape)


def other_channels(values: Tensors, like: Mapping[str, Any], file: Preprocessing, wanted: Preprocessing) -> Tensors:
    """Change the first convolution from colour images to gray ones, or the other way round.

    Gray pixels then give what they would give as colour ones. Of a gray pixel g, colour kernels w make `sum_c w_c (g -
    m_c) / s_c`. With one mean m and deviation s this is `k (g - m) / s + sum_c w_c (m - m_c) / s_c` for the kernel `k =
    s sum_c w_c / s_c`. The constant goes into the bias, or into the mean of the norm behind the convolution.

    Args:
        values: the file's, by our paths.
        like: what the network needs, by our paths.
        file: the normalisation that the file's values were trained with.
        wanted: the normalisation from now on.

    """
    path = next((path for path, x in values.items() if _differs_in_channels(x.shape, like[path].shape)), None)
    if path is None:
        return values
    x = values[path].astype(np.float64)
    if x.shape[-2] == 1:
        return values | {path: np.repeat(x / 3, 3, -2).astype(np.float32)}
    (m, s), (means, stds) = ((np.asarray(p.mean, np.float64), np.asarray(p.std, np.float64)) for p in (wanted, file))
    kernel = (x * (s / stds)[:, None]).sum(-2, keepdims=True)
    constant = (x * ((m - means) / stds)[:, None]).sum(tuple(range(x.ndim - 1)))
    values = values | {path: kernel.astype(np.float32)}
    bias = path.removesuffix("kernel") + "bias"
    norm = path.removesuffix("conv.kernel").replace("params.", "batch_stats.", 1) + "norm.mean"
    if bias in values:
        return values | {bias: (values[bias] + constant).astype(np.float32)}
    if norm in values:
        return values | {norm: (values[norm] - constant).astype(np.float32)}
    if np.abs(constant).max() > 1e-6:
        line = "channels=1: the first convolution has no bias that could absorb the different means of the channels"
        raise InputError(f"{line}; use colour images, with the gray channel repeated three times")
    return values


def _differs_in_channels(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether two shapes are those of a first convolution for 3 channels and for 1."""
    if len(shape) <= 2 or {shape[-2], wanted[-2]} != {1, 3}:
        return False
    return (*shape[:-2], shape[-1]) == (*wanted[:-2], wanted[-1])


def _other_grid(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resample a transformer's positions `[1, 1 + n * n, C]` for another square, as Dosovitskiy et al., 2020."""
    if x.shape[1] < 1:
        return x
    n, m = math.isqrt(x.shape[1] - 1), math.isqrt(shape[1] - 1)
    if x.shape == shape or (n * n, m * m, x.shape[2]) != (x.shape[1] - 1, shape[1] - 1, shape[2]):
        return x
    grid = jax.image.resize(jnp.asarray(x[:, 1:]).reshape(n, n, -1), (m, m, x.shape[2]), "bicubic")
    return np.concatenate([x[:, :1], np.asarray(grid).reshape(1, m * m, -1)], 1)
