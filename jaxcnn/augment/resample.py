"""Resampling: affine maps, bilinear or nearest, and crops that are resized one axis at a time.

It uses gathers rather than products with interpolation matrices: XLA fuses them with the weighting, and on a CPU they
are three times as fast.
"""

import math
from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxcnn.core.types import InputError

Array = jax.Array


def places(matrix: Array, h: int, w: int) -> tuple[Array, Array]:
    """Return the source position of each pixel of the result: y and x in pixels, `[B, H, W]` each.

    Args:
        matrix: `[B, 2, 3]`, from (y, x, 1) in the result to (y, x) in the source, in pixels from the centre.
        h: height.
        w: width.

    """
    y, x = jnp.meshgrid(jnp.arange(h) - (h - 1) / 2, jnp.arange(w) - (w - 1) / 2, indexing="ij")

    def part(i, j):
        return matrix[:, i, j, None, None]

    def at(i, n):
        return part(i, 0) * y[None] + part(i, 1) * x[None] + part(i, 2) + (n - 1) / 2

    return at(0, h), at(1, w)


def bilinear(image: Array, matrix: Array) -> Array:
    """Sample `[B, H, W, C]` through an affine map, bilinearly; outside the image it is zero."""
    b, h, w, c = image.shape
    from_y, from_x = places(matrix, h, w)
    padded = jnp.pad(image, ((0, 0), (1, 2), (1, 2), (0, 0)))  # samples outside the image land on this frame
    from_y, from_x = jnp.clip(from_y + 1, 0, h + 1), jnp.clip(from_x + 1, 0, w + 1)
    low_y, low_x = jnp.floor(from_y).astype(jnp.int32), jnp.floor(from_x).astype(jnp.int32)
    part_y, part_x = (from_y - low_y)[..., None], (from_x - low_x)[..., None]
    flat, corner = padded.reshape(b, -1, c), low_y * (w + 3) + low_x

    def pick(offset):
        return jnp.take_along_axis(flat, (corner + offset).reshape(b, -1, 1), 1, mode="clip").reshape(b, h, w, c)

    top = pick(0) * (1 - part_x) + pick(1) * part_x
    bottom = pick(w + 3) * (1 - part_x) + pick(w + 4) * part_x
    return top * (1 - part_y) + bottom * part_y


def stored(fill: float, values: Array) -> Array:
    """Return a fill value in the dtype of these masks; negative values wrap in unsigned ones, so -1 is 255 in uint8.

    Raises:
        InputError: the dtype cannot hold it.

    """
    dtype = values.dtype
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.asarray(fill, dtype)
    boolean = jnp.issubdtype(dtype, jnp.bool_)
    low, high = (0, 1) if boolean else (int(jnp.iinfo(dtype).min), int(jnp.iinfo(dtype).max))
    held = fill + high + 1 if fill < 0 == low and not boolean else fill
    if not low <= held <= high or held != int(held):
        raise InputError(f"fill={fill}: out of range for masks of {dtype}, {low} to {high}; use another value or dtype")
    return jnp.asarray(int(held), dtype)


def nearest(values: Array, matrix: Array, fill: float = 0) -> Array:
    """Sample the nearest values of `[B, H, W, K]` through an affine map.

    Args:
        values: `[B, H, W, K]`.
        matrix: `[B, 2, 3]`, as in `places`.
        fill: value outside the image.

    """
    b, h, w, k = values.shape
    y, x = (jnp.floor(at + 0.5).astype(jnp.int32) for at in places(matrix, h, w))
    inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
    index = (jnp.clip(y, 0, h - 1) * w + jnp.clip(x, 0, w - 1)).reshape(b, -1, 1)
    taken = jnp.take_along_axis(values.reshape(b, -1, k), index, 1, mode="clip").reshape(values.shape)
    return jnp.where(inside[..., None], taken, stored(fill, values))


def move_boxes(boxes: Array, matrix: Array, h: int, w: int) -> Array:
    """Move boxes through an affine map and return the upright boxes around them.

    Args:
        boxes: `[B, N, 4]`, yxyx in 0..1.
        matrix: `[B, 2, 3]`, as in `places`.
        h: height of the image.
        w: width of the image.

    """
    size = jnp.array([h, w], jnp.float32)
    corners = boxes[..., jnp.array([[0, 1], [0, 3], [2, 1], [2, 3]])]  # [B, N, 4, 2]
    moved = (corners - 0.5) * size[None, None, None] - matrix[:, None, None, :, 2]
    a, b, c, d = (matrix[:, i, j, None, None] for i in (0, 1) for j in (0, 1))
    y, x = moved[..., 0], moved[..., 1]
    back = jnp.stack([d * y - b * x, a * x - c * y], -1) / (a * d - b * c)[..., None]
    back = back / size[None, None, None] + 0.5
    return jnp.concatenate([back.min(2), back.max(2)], -1)


def resize(image: Array, first: tuple[Array, Array], length: tuple[Array, Array], size: tuple[int, int]) -> Array:
    """Crop a rectangle from each image and resize it: bilinear, with antialiasing when it shrinks, as torchvision does.

    Args:
        image: `[B, H, W, C]`.
        first: top and left of the rectangles in pixels, whole numbers as floats `[B]`.
        length: height and width of the rectangles, in the same form.
        size: height and width of the result.

    """
    columns = _resize_axis(image, 2, first[1], length[1], size[1])  # rows are contiguous in memory, so they go first
    return _resize_axis(columns, 1, first[0], length[0], size[0])


def resize_nearest(
    values: Array, first: tuple[Array, Array], length: tuple[Array, Array], size: tuple[int, int]
) -> Array:
    """Do the same as `resize`, with the nearest values."""
    for axis in (1, 2):
        at = jnp.floor(first[axis - 1][:, None] + _steps(length[axis - 1], size[axis - 1])).astype(jnp.int32)
        values = take(values, at, axis)
    return values


def _steps(length: Array, out: int) -> Array:
    """Return the centres of `out` equal parts of lengths `[B]`, `[B, out]`."""
    return (jnp.arange(out) + 0.5)[None] * (length / out)[:, None]


def take(x: Array, at: Array, axis: int) -> Array:
    """Take rows or columns `at` `[B, out]` of `[B, H, W, C]`."""
    return jax.vmap(lambda x, at: jnp.take(x, at, axis - 1, mode="clip"))(x, at)


def _resize_axis(x: Array, axis: int, first: Array, length: Array, out: int) -> Array:
    reach = jnp.maximum(length / out, 1)[:, None]  # half-width of the triangle filter of each result pixel
    centre = first[:, None] + _steps(length, out) - 0.5
    ends = first[:, None], (first + length)[:, None]
    return blend(x, axis, centre, reach, ends, max(x.shape[axis] / out, 1))


def blend(
    x: Array, axis: int, centre: Array, reach: Array, ends: tuple[Any, Any], most: float, move: Array | int = 0
) -> Array:
    """Return each row or column of the result as a weighted mean of those around a place, with a triangle filter.

    Args:
        x: `[B, H, W, C]`.
        axis: 1 for rows, 2 for columns.
        centre: place of each row or column of the result among those of `x`, `[B, out]`.
        reach: half-width of the filter, `[B, 1]`, at least 1.
        ends: first row or column that counts, and the one after the last, which broadcast against `[B, out]`.
        most: largest possible reach.
        move: is added to a place before it is read, `[B, out]`.

    Returns:
        The result, NaN where nothing counts.

    """
    low = jnp.floor(centre - reach) + 1
    total, weights = 0.0, 0.0
    for tap in range(math.ceil(2 * most)):
        at = low + tap
        inside = (at >= ends[0]) & (at < ends[1])
        weight = jnp.where(inside, jnp.maximum(1 - jnp.abs(at - centre) / reach, 0), 0)  # [B, out]
        weights = weights + weight
        total = total + take(x, at.astype(jnp.int32) + move, axis) * _along(weight, axis)
    return total / _along(cast(Array, weights), axis)


def rescale(
    image: Array, first: tuple[Array, Array], length: tuple[Array, Array], fill: Array, most: float = 1.0
) -> Array:
    """Resize a rectangle of each image to the size of the image, as `resize` does; it may reach beyond the border.

    Args:
        image: `[B, H, W, C]`.
        first: top and left of the rectangles in pixels, `[B]`.
        length: height and width of the rectangles, in the same form.
        fill: pixels beyond the border, which broadcast against the image.
        most: largest length of a rectangle relative to the image.

    """
    out, outside = image, jnp.zeros((1, 1, 1, 1), bool)
    for axis in (2, 1):
        n = image.shape[axis]
        step = (length[axis - 1] / n)[:, None]
        centre = first[axis - 1][:, None] + _steps(length[axis - 1], n) - 0.5
        outside = outside | _along((centre < -0.5) | (centre > n - 0.5), axis)
        centre = jnp.clip(centre, 0, n - 1)  # half a pixel beyond the border is the border
        out = blend(out, axis, centre, jnp.maximum(step, 1), (0, n), max(most, 1.0))
    return jnp.where(outside, fill, out)


def rescale_nearest(values: Array, first: tuple[Array, Array], length: tuple[Array, Array], fill: float = 0) -> Array:
    """Do the same as `rescale`, with the nearest values."""
    out, outside = values, jnp.zeros((1, 1, 1, 1), bool)
    for axis in (1, 2):
        n = values.shape[axis]
        at = jnp.floor(first[axis - 1][:, None] + _steps(length[axis - 1], n)).astype(jnp.int32)
        outside = outside | _along((at < 0) | (at >= n), axis)
        out = take(out, at, axis)
    return jnp.where(outside, stored(fill, values), out)


def _along(weight: Array, axis: int) -> Array:
    return weight[:, :, None, None] if axis == 1 else weight[:, None, :, None]
