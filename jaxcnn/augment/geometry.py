"""Spatial transforms: shifts and crops, flips, affine maps, and resized crops."""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp

from jaxcnn.augment import resample
from jaxcnn.augment.core import (
    ATTEMPTS,
    Range,
    Transform,
    as_float,
    check_aspect,
    height_width,
    on_field,
    pixel_axes,
    rectangles,
    spatial_axes,
    to_size,
    uniform,
)
from jaxcnn.augment.spatial import FOLLOW, SpatialTargets, check, transform_spatial
from jaxcnn.core.collectives import draw
from jaxcnn.core.types import Batch, InputError, align, check_numbers, check_whole, whole_numbers

Array = jax.Array
Border = Literal["zero", "reflect", "edge"]
MODES = {"zero": "constant", "reflect": "reflect", "edge": "edge"}  # NumPy's names


def shift(pixels: int, *, follow: SpatialTargets = FOLLOW, field: str = "image") -> Transform:
    """Move each image by up to `pixels` whole pixels along every spatial axis, and fill with zeros.

    Args:
        pixels: largest movement either way.
        follow: how masks and boxes follow.
        field: the entry of the batch that holds the pixels.

    Returns:
        A transform of `image` `[B, *spatial, C]`: a series, an image or a volume; see `pad_crop`.

    """
    return pad_crop(pixels, follow=follow, field=field)


def pad_crop(
    pixels: int,
    border: Border = "zero",
    *,
    size: int | tuple[int, ...] | None = None,
    follow: SpatialTargets = FOLLOW,
    field: str = "image",
) -> Transform:
    """Pad each image on every side and crop a window at a random position.

    Args:
        pixels: width of the padding.
        border: `"zero"`; `"reflect"`, the mirrored image without a second copy of its edge; or `"edge"`. Masks are
            padded in the same way, with `follow.fill` for zero. Mirrored objects get no boxes.
        size: size of the window; None for the size of the image.
        follow: how masks and boxes follow.
        field: the entry of the batch that holds the pixels.

    Returns:
        A transform of `image` `[B, *spatial, C]`, a series `[B, T, C]`, an image, or a volume; it keeps the dtype.

    Raises:
        InputError: negative `pixels`, an unknown border, a window larger than the padded image, or three axes that look
            like grey images without channels (uint8, or T equal to C).

    """
    check_whole("pixels", pixels, 0)
    if border not in MODES:
        raise InputError(f"border={border!r}: must be one of {', '.join(MODES)}")
    check(follow)

    def change(key: Array, batch: Batch) -> Batch:
        b, spatial = batch["image"].shape[0], spatial_axes(batch["image"])
        window = _window(size, spatial)
        room = [n + 2 * pixels - m for n, m in zip(spatial, window, strict=True)]
        if min(room) < 0:
            raise InputError(f"size={size}: larger than the image of {tuple(spatial)} padded by {pixels} pixels")
        if border == "reflect" and pixels >= min(spatial):
            raise InputError(f'pixels={pixels}: must be less than each side of {tuple(spatial)} with border="reflect"')
        start = draw(lambda k, s: jax.random.randint(k, s, 0, jnp.array([room]) + 1), key, (b, len(spatial)))

        def cut(x: Array, fill: float = 0) -> Array:
            extra = {"constant_values": resample.stored(fill, x)} if border == "zero" else {}
            padded = jnp.pad(x, ((0, 0), *(((pixels, pixels),) * len(spatial)), (0, 0)), MODES[border], **extra)
            return jax.vmap(lambda x, at: jax.lax.dynamic_slice(x, (*at, 0), (*window, x.shape[-1])))(padded, start)

        def boxes(boxes: Array) -> Array:
            move, old, new = (
                jnp.tile(x, 2)[:, None] for x in (pixels - start, jnp.array([spatial]), jnp.array([window]))
            )
            return (boxes * old + move) / new

        return transform_spatial(batch, cut, lambda mask: cut(mask, follow.fill), boxes, follow.visible)

    return on_field(change, field)


def flip(key: Array, batch: Batch, *, field: str = "image") -> Batch:
    """Flip each image left to right with probability one half.

    Args:
        key: random key.
        batch: `image` is `[B, H, W, C]` or a volume `[B, D, H, W, C]`, which flips as a whole. Other ranks, such as
            audio, are refused.
        field: the entry of the batch that holds the pixels.

    """
    return on_field(functools.partial(_flip, axis=2), field)(key, batch)


def flip_vertical(key: Array, batch: Batch, *, field: str = "image") -> Batch:
    """Flip each image upside down with probability one half; `image` as in `flip`."""
    return on_field(functools.partial(_flip, axis=1), field)(key, batch)


def affine(
    *,
    degrees: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
    shift: float = 0.0,
    follow: SpatialTargets = FOLLOW,
    field: str = "image",
) -> Transform:
    """Rotate, scale, shear and move each image by random amounts, in one bilinear resampling that fills with zeros.

    Args:
        degrees: largest angle, either way.
        scale: largest relative change of size; 0.1 draws one factor per axis from 0.9 to 1.1.
        shear: largest shear, as the tangent of an angle.
        shift: largest movement, as a share of height and width.
        follow: how masks and boxes follow.
        field: the entry of the batch that holds the pixels.

    Returns:
        A transform of `image` `[B, H, W, C]`, uint8 0..255 or float 0..1, to float 0..1.

    Raises:
        InputError: a negative amount, or a scale of 1 or more.

    """
    check_numbers(degrees=degrees, scale=scale, shear=shear, shift=shift)
    if not (all(amount >= 0 for amount in (degrees, scale, shear, shift)) and scale < 1):
        raise InputError(
            f"affine(degrees={degrees}, scale={scale}, shear={shear}, shift={shift}): none may be negative, and scale "
            "must be below 1"
        )
    amounts = jnp.array([math.radians(degrees), scale, scale, shear, shift, shift])
    check(follow)

    def change(key: Array, batch: Batch) -> Batch:
        h, w = height_width(batch["image"])
        drawn = amounts[None] * draw(
            lambda k, s: jax.random.uniform(k, s, minval=-1, maxval=1), key, (batch["image"].shape[0], 6)
        )
        matrix = _matrix(drawn, h, w)
        return transform_spatial(
            batch,
            lambda image: resample.bilinear(as_float(image), matrix),
            lambda mask: resample.nearest(mask, matrix, follow.fill),
            lambda boxes: resample.move_boxes(boxes, matrix, h, w),
            follow.visible,
        )

    return on_field(change, field)


def random_resized_crop(
    size: int | tuple[int, int],
    *,
    scale: Range = (0.08, 1.0),
    ratio: Range = (3 / 4, 4 / 3),
    follow: SpatialTargets = FOLLOW,
    field: str = "image",
) -> Transform:
    """Crop a rectangle of random area and aspect ratio from each image and resize it.

    As in torchvision's `RandomResizedCrop`, an image gets ten attempts at a rectangle that fits, and otherwise the
    largest central one with an allowed ratio. Resizing is bilinear, with antialiasing when the crop shrinks.

    Reference: Szegedy et al., 2014, arXiv:1409.4842.

    Args:
        size: height and width of the result.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width over height.
        follow: how masks and boxes follow.
        field: the entry of the batch that holds the pixels.

    Returns:
        A transform of `image` `[B, H, W, C]`, uint8 0..255 or float 0..1, to `[B, *size, C]` float 0..1.

    Raises:
        InputError: a size below 1, or an invalid range.

    """
    size = to_size(size)
    check_aspect(scale, ratio)
    check(follow)

    def change(key: Array, batch: Batch) -> Batch:
        h, w = height_width(batch["image"])
        drawn = draw(uniform, key, (batch["image"].shape[0], 2 * ATTEMPTS + 2))

        def fits(wide, high):
            return (wide > 0) & (wide <= w) & (high > 0) & (high <= h)

        wide, high, found = rectangles(drawn[:, :-2], h * w, scale, ratio, fits)
        whole_w, whole_h = min(w, max(round(h * ratio[1]), 1)), min(h, max(round(w / ratio[0]), 1))
        wide, high = jnp.where(found, wide, whole_w), jnp.where(found, high, whole_h)
        top = jnp.where(found, jnp.floor(drawn[:, -2] * (h - high + 1)), (h - whole_h) // 2)
        left = jnp.where(found, jnp.floor(drawn[:, -1] * (w - wide + 1)), (w - whole_w) // 2)
        first, length = (top, left), (high, wide)

        def boxes(boxes: Array) -> Array:
            start, cut = (jnp.tile(jnp.stack(pair, -1), 2)[:, None] for pair in (first, length))  # [B, 1, 4]
            return (boxes * jnp.array([h, w, h, w])[None, None] - start) / cut

        return transform_spatial(
            batch,
            lambda image: resample.resize(as_float(image), first, length, size),
            lambda mask: resample.resize_nearest(mask, first, length, size),
            boxes,
            follow.visible,
        )

    return on_field(change, field)


def mirror_boxes(boxes: Array, axis: int) -> Array:
    """Mirror boxes `[B, N, 4]` along an axis: 1 flips upside down, 2 flips left to right."""
    y0, x0, y1, x1 = jnp.moveaxis(boxes, -1, 0)
    return jnp.stack([1 - y1, x0, 1 - y0, x1] if axis == 1 else [y0, 1 - x1, y1, 1 - x0], -1)


def _flip(key: Array, batch: Batch, axis: int) -> Batch:
    deep = pixel_axes(batch["image"]) - 2  # number of axes before the height
    mirrored = draw(lambda k, s: jax.random.bernoulli(k, 0.5, s), key, (batch["image"].shape[0], 1, 1, 1))

    def pixels(x):
        return jnp.where(align(mirrored, x), jnp.flip(x, deep + axis), x)

    return transform_spatial(
        batch, pixels, pixels, lambda boxes: jnp.where(mirrored[..., 0], mirror_boxes(boxes, axis), boxes)
    )


def _window(size: int | tuple[int, ...] | None, spatial: tuple[int, ...]) -> tuple[int, ...]:
    return spatial if size is None else whole_numbers("size", size, len(spatial))


def _matrix(drawn: Array, h: int, w: int) -> Array:
    """Return `[B, 2, 3]`, from result positions to source positions, in pixels from the centre; `drawn` is `[B, 6]`."""
    angle, grow_y, grow_x, shear, move_y, move_x = drawn.T
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turn_y, turn_x = jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)
    from_y, from_x = turn_y / (1 + grow_y)[:, None], turn_x / (1 + grow_x)[:, None]
    linear = jnp.stack([from_y, from_x + shear[:, None] * turn_y], 1)  # [B, 2, 2]
    move = jnp.stack([move_y * h, move_x * w], -1)
    return jnp.concatenate([linear, -(linear * move[:, None]).sum(-1, keepdims=True)], -1)
