"""Pixels at other places: an affine map, bilinear or nearest, and a crop that is resized, one axis at a time.

Gathers, not products with interpolation matrices: XLA fuses them with the weighing, and on a CPU they take a third of the time.
"""

import math
from typing import cast

import jax
import jax.numpy as jnp

Array = jax.Array


def places(matrix: Array, h: int, w: int) -> tuple[Array, Array]:
    """Where each pixel of the result comes from: y and x in pixels, `[B, H, W]` each.

    Args:
        matrix: `[B, 2, 3]`: (y, x, 1) of the result to (y, x) of the source, in pixels from the centre.
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
    """Bilinear samples of `[B, H, W, C]` at the places of an affine map; zeros come in."""
    b, h, w, c = image.shape
    from_y, from_x = places(matrix, h, w)
    padded = jnp.pad(image, ((0, 0), (1, 2), (1, 2), (0, 0)))  # a frame of zeros: samples outside land on it
    from_y, from_x = jnp.clip(from_y + 1, 0, h + 1), jnp.clip(from_x + 1, 0, w + 1)
    low_y, low_x = jnp.floor(from_y).astype(jnp.int32), jnp.floor(from_x).astype(jnp.int32)
    part_y, part_x = (from_y - low_y)[..., None], (from_x - low_x)[..., None]
    flat, corner = padded.reshape(b, -1, c), low_y * (w + 3) + low_x

    def pick(offset):
        return jnp.take_along_axis(flat, (corner + offset).reshape(b, -1, 1), 1, mode="clip").reshape(b, h, w, c)

    top = pick(0) * (1 - part_x) + pick(1) * part_x
    bottom = pick(w + 3) * (1 - part_x) + pick(w + 4) * part_x
    return top * (1 - part_y) + bottom * part_y


def nearest(values: Array, matrix: Array, fill: float = 0) -> Array:
    """Nearest samples of `[B, H, W, K]` at the places of an affine map; `fill` comes in."""
    b, h, w, k = values.shape
    y, x = (jnp.floor(at + 0.5).astype(jnp.int32) for at in places(matrix, h, w))
    inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
    index = (jnp.clip(y, 0, h - 1) * w + jnp.clip(x, 0, w - 1)).reshape(b, -1, 1)
    taken = jnp.take_along_axis(values.reshape(b, -1, k), index, 1, mode="clip").reshape(values.shape)
    return jnp.where(inside[..., None], taken, jnp.asarray(fill, values.dtype))


def move_boxes(boxes: Array, matrix: Array, h: int, w: int) -> Array:
    """Upright boxes `[B, N, 4]` around what an affine map makes of boxes, yxyx in shares of the image; `matrix` as in `places`."""
    size = jnp.array([h, w], jnp.float32)
    corners = boxes[..., jnp.array([[0, 1], [0, 3], [2, 1], [2, 3]])]  # [B, N, 4, 2]
    moved = (corners - 0.5) * size[None, None, None] - matrix[:, None, None, :, 2]
    a, b, c, d = (matrix[:, i, j, None, None] for i in (0, 1) for j in (0, 1))
    y, x = moved[..., 0], moved[..., 1]
    back = jnp.stack([d * y - b * x, a * x - c * y], -1) / (a * d - b * c)[..., None]
    back = back / size[None, None, None] + 0.5
    return jnp.concatenate([back.min(2), back.max(2)], -1)


def resize(image: Array, first: tuple[Array, Array], length: tuple[Array, Array], size: tuple[int, int]) -> Array:
    """Cut a rectangle out of each image and resize it: bilinear, antialiased where it shrinks, as torchvision and Pillow do.

    Args:
        image: `[B, H, W, C]`.
        first: top and left of the rectangles in pixels, whole numbers as floats `[B]`.
        length: height and width of the rectangles, likewise.
        size: height and width of the result.

    """
    columns = _resize_axis(image, 2, first[1], length[1], size[1])  # first along rows, which lie together in memory
    return _resize_axis(columns, 1, first[0], length[0], size[0])


def resize_nearest(
    values: Array, first: tuple[Array, Array], length: tuple[Array, Array], size: tuple[int, int]
) -> Array:
    """As `resize`, with the nearest values."""
    for axis in (1, 2):
        at = jnp.floor(first[axis - 1][:, None] + _steps(length[axis - 1], size[axis - 1])).astype(jnp.int32)
        values = _take(values, at, axis)
    return values


def _steps(length: Array, out: int) -> Array:
    """Centres of `out` equal parts of `[B]` lengths: `[B, out]`."""
    return (jnp.arange(out) + 0.5)[None] * (length / out)[:, None]


def _take(x: Array, at: Array, axis: int) -> Array:
    """Rows or columns `at` `[B, out]` of `[B, H, W, C]`."""
    return jax.vmap(lambda x, at: jnp.take(x, at, axis - 1, mode="clip"))(x, at)


def _resize_axis(x: Array, axis: int, first: Array, length: Array, out: int) -> Array:
    reach = jnp.maximum(length / out, 1)[:, None]  # of the triangle that each pixel of the result is a mean under
    centre = first[:, None] + _steps(length, out) - 0.5
    low = jnp.floor(centre - reach) + 1
    taps = math.ceil(2 * max(x.shape[axis] / out, 1))
    total, weights = 0.0, 0.0
    for tap in range(taps):
        at = low + tap
        inside = (at >= first[:, None]) & (at < (first + length)[:, None])
        weight = jnp.where(inside, jnp.maximum(1 - jnp.abs(at - centre) / reach, 0), 0)  # [B, out]
        weights = weights + weight
        total = total + _take(x, at.astype(jnp.int32), axis) * _along(weight, axis)
    return total / _along(cast(Array, weights), axis)


def _along(weight: Array, axis: int) -> Array:
    return weight[:, :, None, None] if axis == 1 else weight[:, None, :, None]
