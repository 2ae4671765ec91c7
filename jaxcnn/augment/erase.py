"""Transforms that erase rectangles or single pixels; labels, masks and boxes stay as they are."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.augment.core import (
    ATTEMPTS,
    Range,
    Transform,
    check_aspect,
    check_range,
    height_width,
    on_field,
    pixel_axes,
    rectangles,
    uniform,
)
from jaxcnn.core.collectives import draw
from jaxcnn.core.types import Batch, InputError, check_numbers, check_whole

Array = jax.Array
Value = float | Sequence[float]


def cutout(pixels: int, *, value: Value = 0.0, field: str = "image") -> Transform:
    """Erase a square at a random position in each image (DeVries and Taylor, 2017, arXiv:1708.04552).

    The centre lies anywhere in the image, and the square is clipped at the border.

    Args:
        pixels: side of the square.
        value: fill value in 0..1, one number or one per channel; the mean of the training pixels is usual.
        field: the entry of the batch that holds the pixels.

    Returns:
        A transform of `image` `[B, H, W, C]`, uint8 or float; it keeps the dtype.

    Raises:
        InputError: a negative side, a value outside 0..1, or values for a different number of channels.

    """
    check_whole("pixels", pixels, 0)
    check_value(value)

    def change(key: Array, batch: Batch) -> Batch:
        h, w = height_width(batch["image"])
        drawn = draw(uniform, key, (batch["image"].shape[0], 2))
        top, left = (jnp.floor(drawn[:, i] * n) - pixels // 2 for i, n in enumerate((h, w)))
        square = inside(top, left, pixels, pixels, h, w)
        return {**batch, "image": jnp.where(square, fill_value(value, batch["image"]), batch["image"])}

    return on_field(change, field)


def erase(
    *,
    probability: float = 0.5,
    scale: Range = (0.02, 0.33),
    ratio: Range = (0.3, 3.3),
    value: Value | None = 0.0,
    field: str = "image",
) -> Transform:
    """Erase a random rectangle of some images: random erasing (Zhong et al., 2017, arXiv:1708.04896).

    As in torchvision's `RandomErasing`, an image gets ten attempts at a rectangle smaller than itself, and stays
    unchanged if all fail.

    Args:
        probability: share of the images that lose a rectangle.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest height over width.
        value: fill value in 0..1, one number or one per channel; None for uniform noise.
        field: the entry of the batch that holds the pixels.

    Returns:
        A transform of `image` `[B, H, W, C]`, uint8 or float; it keeps the dtype.

    Raises:
        InputError: a probability or value outside 0..1, an invalid range, or values for a different number of channels.

    """
    check_probability(probability)
    check_aspect(scale, ratio)
    check_value(value)

    def change(key: Array, batch: Batch) -> Batch:
        image = batch["image"]
        h, w = height_width(image)
        drawn = draw(uniform, key, (image.shape[0], 2 * ATTEMPTS + 3))
        high, wide, found = rectangles(drawn[:, :-3], h * w, scale, ratio, lambda high, wide: (high < h) & (wide < w))
        top, left = jnp.floor(drawn[:, -2] * (h - high + 1)), jnp.floor(drawn[:, -1] * (w - wide + 1))
        chosen = (found & (drawn[:, -3] < probability))[:, None, None, None]
        fill = _noise(key, image) if value is None else fill_value(value, image)
        return {**batch, "image": jnp.where(chosen & inside(top, left, high, wide, h, w), fill, image)}

    return on_field(change, field)


def pixel_dropout(
    *, probability: float = 0.5, share: Range = (0.0, 0.9), value: Value = 0.0, field: str = "image"
) -> Transform:
    """Erase random single pixels of some images, in all channels; the share of erased pixels is drawn per image.

    A network that never saw holes responds to their edges rather than to the missing pixels. When explanations are
    measured by deletion, random pixels then seem to matter most (Hooker et al., 2018, arXiv:1806.10758). Training with
    this transform makes such measurements meaningful.

    Args:
        probability: share of the images that lose pixels.
        share: smallest and largest share of the pixels that such an image loses.
        value: fill value in 0..1, one number or one per channel.
        field: the entry of the batch that holds the pixels.

    Returns:
        A transform of `image` `[B, H, W, C]` or `[B, D, H, W, C]`, uint8 or float; it keeps the dtype.

    Raises:
        InputError: a probability, share or value outside 0..1, an invalid range, or values for a different number of
            channels.

    """
    check_probability(probability)
    check_range("share", share, 0, 1)
    check_value(value)

    def change(key: Array, batch: Batch) -> Batch:
        image, axes = batch["image"], pixel_axes(batch["image"])
        drawn = draw(uniform, key, (image.shape[0], 2))
        lost = jnp.where(drawn[:, 0] < probability, share[0] + (share[1] - share[0]) * drawn[:, 1], 0)
        chosen = draw(uniform, jax.random.fold_in(key, 1), image.shape[:-1]) < lost.reshape(-1, *(1,) * axes)
        return {**batch, "image": jnp.where(chosen[..., None], fill_value(value, image), image)}

    return on_field(change, field)


def inside(top: Array, left: Array, high: Array | float, wide: Array | float, h: int, w: int) -> Array:
    """Whether each pixel lies in the rectangle of its row, `[B, H, W, 1]`.

    Args:
        top: first row of pixels, `[B]`.
        left: first column of pixels, `[B]`.
        high: height in pixels, `[B]` or one number.
        wide: width in pixels, `[B]` or one number.
        h: height of the image.
        w: width of the image.

    """

    def column(v):
        return jnp.broadcast_to(v, top.shape)[:, None]

    y, x = jnp.arange(h)[None], jnp.arange(w)[None]
    rows = (y >= column(top)) & (y < column(top + high))
    columns = (x >= column(left)) & (x < column(left + wide))
    return (rows[:, :, None] & columns[:, None])[..., None]


def check_probability(probability: float) -> None:
    """Refuse a probability outside 0..1."""
    check_numbers(probability=probability)
    if not 0 <= probability <= 1:
        raise InputError(f"probability={probability}: must be in 0..1")


def check_value(value: Value | None) -> None:
    """Refuse a fill value outside 0..1."""
    if value is not None and not all(0 <= v <= 1 for v in np.asarray(value, np.float64).ravel().tolist()):
        raise InputError(f"value={value}: must be in 0..1, also for uint8 images")


def fill_value(value: Value, image: Any) -> Array:
    """Return a value in 0..1 as pixels that broadcast against an image of this shape and dtype."""
    fill = jnp.atleast_1d(jnp.asarray(value, jnp.float32))
    if fill.shape not in ((1,), image.shape[-1:]):
        raise InputError(f"value={value}: must be one number, or one for each of the {image.shape[-1]} channels")
    return jax.lax.broadcast_to_rank(_as(fill, image), image.ndim)


def _noise(key: Array, image: Array) -> Array:
    return _as(draw(uniform, jax.random.fold_in(key, 1), image.shape), image)


def _as(values: Array, image: Any) -> Array:
    """Convert values in 0..1 to the scale and dtype of the image."""
    return jnp.round(values * 255).astype(jnp.uint8) if image.dtype == jnp.uint8 else values.astype(image.dtype)
