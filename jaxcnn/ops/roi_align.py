"""RoIAlign: feature maps sampled inside boxes, as a primitive that is linear in the maps (He et al., 2017).

Each sample blends its four neighbours, and a cell of the result is the mean of its samples. Both are separable, so a
cell is a sum over a few rows and columns, each with its weight. A CPU takes the boxes one by one and adds up one tap
after another: what it reads stays in the cache, and the time does not depend on the size of the maps. Products with
matrices of weights took four times as long for maps of 50 x 50, and ten times for 200 x 200.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.core.types import InputError, check_whole, whole_numbers
from jaxcnn.ops.geometry import check_floating
from jaxcnn.ops.native import is_whole
from jaxcnn.ops.primitives import bind, fold_rows, linear, primitive

Array = jax.Array
Taps = tuple[Array, Array]  # where and with which weight: int32 and float32 [B, N, cells, taps]


def roi_align(
    features: Array | Sequence[Array],
    boxes: Array,
    *,
    size: int | tuple[int, int] = (7, 7),
    sampling_ratio: int = 2,
    aligned: bool = False,
    level: Array | None = None,
) -> Array:
    """Sample feature maps on a grid inside each box, bilinearly.

    A sample outside a map has the value at its border, as in the Python form in torchvision; its compiled form gives 0
    from one pixel outside on. No gradient goes to the boxes.

    Args:
        features: `[B, H, W, C]`, or several maps of different sizes, the levels of a pyramid.
        boxes: `[B, N, 4]`, yxyx in 0..1. A box that is not finite gives zeros.
        size: cells of the result, height and width.
        sampling_ratio: samples per cell along each axis, at least 1.
        aligned: whether the centre of the first pixel is at half a pixel. If not, it is at 0, and a box is at least one
            pixel wide and high, as in the first implementations and in torchvision's detectors.
        level: int `[B, N]`, the number of the map that each box is sampled from; required if there are several.

    Returns:
        `[B, N, *size, C]`, the dtype of the features.

    Raises:
        InputError: a shape, dtype or value is wrong.

    Reference: He et al., 2017, arXiv:1703.06870.

    """
    maps = [features] if isinstance(features, jax.Array | np.ndarray) else list(features)
    cells, level = whole_numbers("size", size, 2), None if level is None else jnp.asarray(level)
    _check(maps, boxes, sampling_ratio, level)
    boxes = jnp.asarray(boxes, jnp.float32)
    sound = jnp.isfinite(boxes).all(-1)
    boxes = lax.stop_gradient(jnp.where(sound[..., None], boxes, 0))
    if is_whole():
        kinds = jnp.zeros(boxes.shape[:2], jnp.int32) if level is None else level.clip(0, len(maps) - 1)
        how = {"cells": cells, "samples": sampling_ratio, "aligned": aligned}
        found = bind(WHOLE, boxes, kinds, *maps, **how)
        return jnp.where(sound[..., None, None, None], found, 0)
    return _sampled(maps, boxes, sound, level, cells, sampling_ratio, aligned)


def _sampled(
    maps: Sequence[Array], boxes: Array, sound: Array, level: Array | None, cells: Any, samples: int, aligned: bool
) -> Array:
    """Return what `roi_align` returns, for boxes that are finite."""
    first = np.cumsum([0, *(m.shape[1] * m.shape[2] for m in maps)])[:-1]  # place of each map among all
    start, high, wide = (
        jnp.asarray(values)[jnp.zeros(boxes.shape[:2], jnp.int32) if level is None else level.clip(0, len(maps) - 1)]
        for values in (first, [m.shape[1] for m in maps], [m.shape[2] for m in maps])
    )
    (y, down), (x, right) = (
        _taps(boxes[..., i], boxes[..., i + 2], n, cells[i], samples, aligned) for i, n in enumerate((high, wide))
    )
    y = start[..., None, None] + y * wide[..., None, None]
    down = jnp.where(sound[..., None, None], down, 0)
    joined = jnp.concatenate([m.reshape(m.shape[0], -1, m.shape[-1]) for m in maps], 1)  # [B, P, C]
    return bind(SAMPLE, joined, y.astype(jnp.int32), down, x.astype(jnp.int32), right)


def _taps(low: Array, high: Array, n: Array, cells: int, samples: int, aligned: bool) -> Taps:
    """Return the pixels along an axis that each cell is made of, `[B, N, cells, 2 * samples]`, and their weights."""
    offset = 0.5 if aligned else 0.0
    begin, end = low * n - offset, high * n - offset
    length = end - begin if aligned else jnp.maximum(end - begin, 1)
    shares = (jnp.arange(cells * samples, dtype=jnp.float32) + 0.5) / (cells * samples)
    places = begin[..., None] + shares.reshape(1, 1, -1) * length[..., None]
    places = jnp.clip(places, 0, n[..., None] - 1)
    left = jnp.floor(places)
    share = places - left
    both = jnp.stack([left, jnp.minimum(left + 1, n[..., None] - 1)], -1), jnp.stack([1 - share, share], -1) / samples
    shape = (*low.shape, cells, 2 * samples)
    return both[0].reshape(shape).astype(jnp.int32), both[1].reshape(shape)


def _check(maps: Sequence[Array], boxes: Array, sampling_ratio: int, level: Array | None) -> None:
    shapes = [tuple(m.shape) for m in maps]
    if not shapes or any(len(s) != 4 or (s[0], s[3]) != (shapes[0][0], shapes[0][3]) or 0 in s for s in shapes):
        raise InputError(f"features of shapes {shapes}: must be [B, H, W, C], not empty, with the same B and C")
    check_floating("roi_align", **{f"features[{i}]": m for i, m in enumerate(maps)})
    shape = tuple(jnp.shape(boxes))
    if len(shape) != 3 or (shape[0], shape[2]) != (shapes[0][0], 4):
        raise InputError(f"boxes of shape {shape}: must be [{shapes[0][0]}, N, 4], as many rows as the features")
    check_whole("sampling_ratio", sampling_ratio, 1)
    if level is None and len(maps) > 1:
        raise InputError(f"level=None: must say which of the {len(maps)} maps each box is sampled from, int [B, N]")
    if level is not None and (level.shape != shape[:2] or not jnp.issubdtype(level.dtype, jnp.integer)):
        raise InputError(f"level {level.dtype}{list(level.shape)}: must be integers {list(shape[:2])}")


def _one_box(x: Array, y: Array, down: Array, z: Array, right: Array) -> Array:
    """Sample `[P, C]` for one box, `[h, w, C]`: each tap takes whole pixels, so channels stay contiguous."""
    total = jnp.zeros((y.shape[0], z.shape[0], x.shape[-1]), jnp.float32)
    for i, j in np.ndindex(y.shape[-1], z.shape[-1]):
        weight = down[:, None, i] * right[None, :, j]
        total += x[y[:, None, i] + z[None, :, j]] * weight[..., None]
    return total.astype(x.dtype)


def _each_box(mapping: Any, x: Array, *taps: Array) -> Array:
    def row(x: Array, *taps: Array) -> Array:
        return mapping(lambda some: _one_box(x, *some))(taps)

    return mapping(lambda some: row(*some))((x, *taps))


def _in_turn(function: Any) -> Any:
    return lambda some: lax.map(function, some)


def _add_box(total: Array, dy: Array, y: Array, down: Array, z: Array, right: Array) -> Array:
    """Add `[..., h, w, C]` to the pixels `[P, C]` that it was sampled from."""
    places = y[..., :, None, :, None] + z[..., None, :, None, :]  # [..., h, w, taps, taps]
    weight = down[..., :, None, :, None] * right[..., None, :, None, :]
    return total.at[places].add(dy[..., None, None, :] * weight[..., None])


def _nothing(dy: Array, pixels: int) -> Array:
    return jnp.zeros((pixels, dy.shape[-1]), jnp.float32)


def _scatter(dy: Array, *taps: Array, pixels: int) -> Array:
    rows = jax.vmap(lambda dy, *taps: _add_box(_nothing(dy, pixels), dy, *taps))
    return rows(dy, *taps).astype(dy.dtype)


def _scatter_in_turn(dy: Array, *taps: Array, pixels: int) -> Array:
    def row(some: tuple[Array, ...]) -> Array:
        return lax.scan(lambda total, box: (_add_box(total, *box), None), _nothing(some[0], pixels), some)[0]

    return lax.map(row, (dy, *taps)).astype(dy.dtype)


def _fold(operation: Any, arrays: Sequence[Any], axes: Sequence[int | None], **static: Any) -> Any:
    return fold_rows(operation, arrays, axes, rows=range(len(arrays)), **static)


SAMPLE = primitive(
    "roi_align",
    lambda x, *taps: _each_box(jax.vmap, x, *taps),
    lambda x, *taps: _each_box(_in_turn, x, *taps),
    fold=_fold,
)
SCATTER = primitive("roi_align_scatter", _scatter, _scatter_in_turn, fold=_fold)
linear(SAMPLE, {0: lambda ct, x, *taps, mapped: bind(SCATTER, ct, *taps, pixels=x.shape[mapped + 1], mapped=mapped)})
linear(SCATTER, {0: lambda ct, dy, *taps, pixels, mapped: bind(SAMPLE, ct, *taps, mapped=mapped)})


def _whole(boxes: Array, level: Array, *maps: Array, cells: Any, samples: int, aligned: bool) -> Array:
    return _sampled(maps, boxes, jnp.isfinite(boxes).all(-1), level, cells, samples, aligned)


WHOLE = primitive("roi_align_boxes", _whole, _whole)  # traced in `whole_operations` alone
