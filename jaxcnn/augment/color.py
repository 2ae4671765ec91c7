"""Colour transforms by torchvision's formulas for float images, with an individual strength per row."""

import functools
import math
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.augment.core import (
    Range,
    Transform,
    as_float,
    check_range,
    each_row,
    height_width,
    on_field,
    sometimes,
)
from jaxcnn.core.collectives import draw
from jaxcnn.core.types import Batch, InputError

Array = jax.Array


def color_jitter(
    brightness: float | Range = 0.0,
    contrast: float | Range = 0.0,
    saturation: float | Range = 0.0,
    hue: float | Range = 0.0,
    field: str = "image",
) -> Transform:
    """Change brightness, contrast, saturation and hue of each image by random factors, in random order.

    This is torchvision's `ColorJitter` with one draw per image: brightness blends with black, contrast with the mean
    grey, saturation with the grey image. Every result is clipped to 0..1.

    Args:
        brightness: 0.4 draws factors from 0.6 to 1.4, never below 0; or (smallest, largest).
        contrast: same form as `brightness`.
        saturation: same form as `brightness`; images with one channel are unchanged.
        hue: 0.1 rotates hues by up to a tenth of the colour circle either way, at most 0.5; or (smallest, largest) in
            -0.5..0.5. Images with one channel are unchanged.
        field: the entry of the batch that holds the pixels.

    Returns:
        A transform of `image` `[B, H, W, 1 or 3]`, uint8 0..255 or float 0..1, to float 0..1.

    Raises:
        InputError: a strength is out of range, or the image does not have 1 or 3 channels.

    """
    named = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    ranges = [_range(name, value, 1.0, 0.0) for name, value in named.items()] + [_range("hue", hue, 0.0, -0.5, 0.5)]
    used = [op for op, (low, high) in enumerate(ranges) if not low == high == (0.0 if op == 3 else 1.0)]
    low, high = jnp.array(ranges).T

    def change(key: Array, batch: Batch) -> Batch:
        check_channels(batch["image"])
        drawn = draw(jax.random.uniform, key, (batch["image"].shape[0], 8))
        amounts = low[None] + drawn[:, :4] * (high - low)[None]
        order = jnp.argsort(drawn[:, 4 : 4 + len(used)])
        return {**batch, "image": each_row(functools.partial(_adjusted, used), batch["image"], order, amounts)}

    return on_field(change, field)


def grayscale(probability: float = 0.2, field: str = "image") -> Transform:
    """Take the colour from each image with a probability; the number of channels stays.

    Args:
        probability: in [0, 1].
        field: the entry of the batch that holds the pixels.

    Returns:
        A transform of `image` `[B, H, W, 1 or 3]`, uint8 0..255 or float 0..1, to float 0..1.

    Raises:
        InputError: the probability is out of range, or the image does not have 1 or 3 channels.

    """

    def change(key: Array, batch: Batch) -> Batch:
        del key
        image = batch["image"]
        check_channels(image)
        if image.shape[-1] == 1:
            return batch
        grey = 0.2989 * image[..., :1] + 0.587 * image[..., 1:2] + 0.114 * image[..., 2:]
        return {**batch, "image": jnp.broadcast_to(grey, image.shape)}

    return sometimes(change, probability, field)


def planes(change: Callable[[Array, Array], Array], image: Array, amount: Array) -> Array:
    """Apply a transform of `[C, H, W]`, as those below, to `[H, W, C]`; on a CPU this layout is three times as fast."""
    return jnp.moveaxis(change(jnp.moveaxis(image, -1, 0), amount), 0, -1)


def luminance(image: Array) -> Array:
    """Convert `[C, H, W]` to grey `[1, H, W]`."""
    return image if image.shape[0] == 1 else 0.2989 * image[:1] + 0.587 * image[1:2] + 0.114 * image[2:]


def blend(image: Array, other: Array | float, share: Array) -> Array:
    """Mix `share` of an image with the rest of another, clipped to 0..1; shares above 1 extrapolate."""
    return jnp.clip(image * share + other * (1 - share), 0, 1)


def brighten(image: Array, factor: Array) -> Array:
    """Scale the brightness of `[C, H, W]` in 0..1 by `factor`; 0 is black."""
    return blend(image, 0.0, factor)


def contrast(image: Array, factor: Array) -> Array:
    """Scale the contrast of `[C, H, W]` in 0..1 by `factor`; 0 is its mean grey."""
    return blend(image, luminance(image).mean(), factor)


def saturate(image: Array, factor: Array) -> Array:
    """Scale the saturation of `[C, H, W]` in 0..1 by `factor`; 0 is grey."""
    return blend(image, luminance(image), factor) if image.shape[0] == 3 else image


def turn_hue(image: Array, turns: Array) -> Array:
    """Rotate the hue of RGB `[3, H, W]` in 0..1 by `turns` of the colour circle: HSV and back in one formula."""
    if image.shape[0] == 1:
        return image
    r, g, b = image[:1], image[1:2], image[2:]
    top, bottom = jnp.maximum(jnp.maximum(r, g), b), jnp.minimum(jnp.minimum(r, g), b)
    chroma = top - bottom
    scale = 1 / jnp.where(chroma > 0, chroma, 1)
    not_red = jnp.where(top == g, 2 + (b - r) * scale, 4 + (r - g) * scale)
    sector = jnp.where(top == r, (g - b) * scale, not_red)  # -1..5
    k = sector + 6 * turns + jnp.array([5.0, 3.0, 1.0])[:, None, None]
    k = k - 6 * jnp.floor(k / 6)  # XLA's remainder calls a function per pixel
    return top - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)


def check_channels(image: Array) -> None:
    """Refuse images that are neither grey nor RGB."""
    height_width(image)
    if image.shape[-1] not in (1, 3):
        raise InputError(f"image shape {tuple(image.shape)}: colour transforms need 1 or 3 channels")


CHANGES = (brighten, contrast, saturate, turn_hue)


def _adjusted(used: list[int], image: Array, order: Array, amounts: Array) -> Array:
    """Apply the transforms in `used` to one image; `order` gives the sequence, as indices into `used`."""
    branches = [lambda x, op=op: CHANGES[op](x, amounts[op]) for op in used]

    def step(x, place):
        return (jax.lax.switch(place, branches, x), None)

    return planes(lambda x, order: jax.lax.scan(step, x, order)[0], as_float(image), order) if used else as_float(image)


def _range(name: str, value: float | Range, centre: float, least: float, most: float = math.inf) -> Range:
    """Return the smallest and largest factor, given both or their distance from the centre."""
    if isinstance(value, int | float | np.floating | np.integer):
        if not 0 <= value <= most:
            bound = f", at most {most:g}" if most < math.inf else ""
            raise InputError(f"{name}={value}: must be at least 0{bound}; or (smallest, largest)")
        value = (max(centre - float(value), least), centre + float(value))
    check_range(name, cast(Range, value), least, most)
    smallest, largest = cast(Range, value)
    return float(smallest), float(largest)
