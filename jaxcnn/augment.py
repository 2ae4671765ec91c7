"""Augmentation on the device: functions `(key, batch) -> batch`, for whole batches and drawn per global row."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcnn.axis import draw
from jaxcnn.types import Batch, InputError

Array = jax.Array
Change = Callable[[Array, Batch], Batch]


def compose(*changes: Change) -> Change:
    """Apply several changes in turn, each with a key of its own."""

    def change(key: Array, batch: Batch) -> Batch:
        for i, one in enumerate(changes):
            batch = one(jax.random.fold_in(key, i), batch)
        return batch

    return change


def shift(pixels: int) -> Change:
    """Move each image by up to `pixels` whole pixels along every spatial axis; what comes in is zero. `image` `[B, *spatial, C]`."""
    if pixels < 0:
        raise InputError(f"pixels={pixels}: must be at least 0")

    def change(key: Array, batch: Batch) -> Batch:
        image = batch["image"]
        spatial = image.shape[1:-1]
        start = draw(lambda k, s: jax.random.randint(k, s, 0, 2 * pixels + 1), key, (image.shape[0], len(spatial)))
        padded = jnp.pad(image, ((0, 0), *(((pixels, pixels),) * len(spatial)), (0, 0)))
        moved = jax.vmap(lambda x, at: jax.lax.dynamic_slice(x, (*at, 0), (*spatial, x.shape[-1])))(padded, start)
        return {**batch, "image": moved}

    return change


def flip(key: Array, batch: Batch) -> Batch:
    """Mirror each image left to right with probability one half. `image` `[B, H, W, C]`."""
    image = batch["image"]
    mirrored = draw(lambda k, s: jax.random.bernoulli(k, 0.5, s), key, (image.shape[0], 1, 1, 1))
    return {**batch, "image": jnp.where(mirrored, image[:, :, ::-1], image)}


def affine(*, degrees: float = 0.0, scale: float = 0.0, shear: float = 0.0, shift: float = 0.0) -> Change:
    """Rotate, scale, shear and move each image by random amounts in one bilinear resampling; what comes in is zero.

    Args:
        degrees: largest angle, either way.
        scale: largest relative change of size; 0.1 draws factors from 0.9 to 1.1, one for each axis.
        shear: largest slant, as the tangent of an angle.
        shift: largest movement as a share of height and width.

    Returns:
        A change of `image` `[B, H, W, C]`, uint8 0..255 or float 0..1, to float32 0..1.

    Raises:
        InputError: a negative amount, or a scale of 1 or more.

    """
    if not (all(amount >= 0 for amount in (degrees, scale, shear, shift)) and scale < 1):
        raise InputError(f"affine(degrees={degrees}, scale={scale}, shear={shear}, shift={shift}): must not be negative, scale below 1")
    amounts = jnp.array([math.radians(degrees), scale, scale, shear, shift, shift])

    def change(key: Array, batch: Batch) -> Batch:
        image = batch["image"]
        image = image.astype(jnp.float32) / 255 if image.dtype == jnp.uint8 else image
        drawn = amounts[None] * draw(lambda k, s: jax.random.uniform(k, s, minval=-1, maxval=1), key, (image.shape[0], 6))
        return {**batch, "image": _resample(image, *drawn.T)}

    return change


def _resample(image: Array, angle: Array, grow_y: Array, grow_x: Array, shear: Array, move_y: Array, move_x: Array) -> Array:
    """Bilinear samples of `[B, H, W, C]` at the inverse transform of every pixel, about the centre."""
    b, h, w, c = image.shape
    y, x = jnp.meshgrid(jnp.arange(h) - (h - 1) / 2, jnp.arange(w) - (w - 1) / 2, indexing="ij")
    per_image = lambda v: v[:, None, None]  # noqa: E731
    cos, sin = per_image(jnp.cos(angle)), per_image(jnp.sin(angle))
    y, x = y[None] - per_image(move_y) * h, x[None] - per_image(move_x) * w  # [B, H, W]
    y, x = cos * y - sin * x, sin * y + cos * x
    from_y = y / (1 + per_image(grow_y)) + (h - 1) / 2
    from_x = x / (1 + per_image(grow_x)) + per_image(shear) * y + (w - 1) / 2
    padded = jnp.pad(image, ((0, 0), (1, 2), (1, 2), (0, 0)))  # a frame of zeros: samples outside land on it
    from_y, from_x = jnp.clip(from_y + 1, 0, h + 1), jnp.clip(from_x + 1, 0, w + 1)
    low_y, low_x = jnp.floor(from_y).astype(jnp.int32), jnp.floor(from_x).astype(jnp.int32)
    part_y, part_x = (from_y - low_y)[..., None], (from_x - low_x)[..., None]
    flat, corner = padded.reshape(b, -1, c), low_y * (w + 3) + low_x
    pick = lambda offset: jnp.take_along_axis(flat, (corner + offset).reshape(b, -1, 1), 1, mode="clip").reshape(b, h, w, c)  # noqa: E731
    top = pick(0) * (1 - part_x) + pick(1) * part_x
    bottom = pick(w + 3) * (1 - part_x) + pick(w + 4) * part_x
    return top * (1 - part_y) + bottom * part_y
