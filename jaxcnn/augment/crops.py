"""Changes of scale for detection: resizing by a random factor, and crops that keep a box."""

import math

import jax
import jax.numpy as jnp

from jaxcnn.augment import resample
from jaxcnn.augment.core import (
    Range,
    Transform,
    as_float,
    check_aspect,
    check_range,
    height_width,
    on_field,
    to_size,
    uniform,
)
from jaxcnn.augment.erase import Value, check_probability, check_value, fill_value
from jaxcnn.augment.spatial import FOLLOW, SpatialTargets, check, check_boxes, transform_spatial
from jaxcnn.core.collectives import draw
from jaxcnn.core.types import Batch, InputError
from jaxcnn.ops import boxes as box_ops

Array = jax.Array
Rectangle = tuple[tuple[Array, Array], tuple[Array, Array]]  # top and left, height and width, [B] each
TRIALS = 40  # rectangles that are drawn for each image, of which the first good one is taken
OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)


def scale_jitter(
    scale: Range = (0.5, 2.0), *, value: Value = 0.0, follow: SpatialTargets = FOLLOW, field: str = "image"
) -> Transform:
    """Resize each image by a random factor, and crop or pad the result to the old size.

    A larger image is cropped at a random place, and a smaller one lies at a random place of the frame. Resizing is
    bilinear, with antialiasing where it shrinks; on a CPU, time grows as the smallest scale falls.

    Args:
        scale: smallest and largest factor, from 0.05 to 20, drawn uniformly for each image; (0.8, 1.25) and (0.1, 2.0)
            are the paper's.
        value: of pixels beyond the border, in 0..1, one number or one per channel.
        follow: how masks and boxes follow.
        field: the entry of the batch that holds the pixels.

    Returns:
        A transform of `image` `[B, H, W, C]`, uint8 0..255 or float 0..1, to float 0..1.

    Raises:
        InputError: an invalid range or value.

    Reference: Ghiasi et al., 2020, arXiv:2012.07177.

    """
    check_range("scale", scale, 0.05, 20)
    check_value(value)
    check(follow)

    def change(key: Array, batch: Batch) -> Batch:
        image = batch["image"]
        sizes = height_width(image)
        drawn = draw(uniform, key, (image.shape[0], 3))
        factor = scale[0] + drawn[:, 0] * (scale[1] - scale[0])
        high, wide = (n / factor for n in sizes)
        first = (drawn[:, 1] * (sizes[0] - high), drawn[:, 2] * (sizes[1] - wide))  # beyond the border where it shrinks
        filling = fill_value(value, jax.eval_shape(as_float, image))
        return transform_spatial(
            batch,
            lambda image: resample.rescale(as_float(image), first, (high, wide), filling, 1 / scale[0]),
            lambda mask: resample.rescale_nearest(mask, first, (high, wide), follow.fill),
            lambda boxes: _relative(boxes, (first, (high, wide)), sizes),
            follow.visible,
        )

    return on_field(change, field)


def box_crop(
    size: int | tuple[int, int] | None = None,
    *,
    scale: Range = (0.1, 1.0),
    ratio: Range = (0.5, 2.0),
    overlaps: tuple[float, ...] = OVERLAPS,
    probability: float = 6 / 7,
    follow: SpatialTargets = FOLLOW,
    field: str = "image",
) -> Transform:
    """Crop a random rectangle that keeps at least one box from each image and resize it, as SSD samples patches.

    For each image it draws one of the overlaps, and then rectangles until one of them has that overlap with some box
    whose centre is inside. If none of 40 rectangles will do, the whole image is used. Boxes whose centre is outside are
    removed. Crowds are not boxes to keep, but what is left of them stays. An image without boxes gets any rectangle.

    Args:
        size: height and width of the result; None for the size of the image.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width over height.
        overlaps: least intersection over union of the rectangle and a box, 0..1; one of them is drawn for each image.
        probability: share of the images that are cropped, 0..1; of the others, the whole is resized.
        follow: how masks and boxes follow.
        field: the entry of the batch that holds the pixels.

    Returns:
        A transform of `image` `[B, H, W, C]`, uint8 0..255 or float 0..1, to `[B, *size, C]` float 0..1.

    Raises:
        InputError: a size below 1, or an invalid range, overlap or probability.

    Reference: Liu et al., 2015, arXiv:1512.02325.

    """
    out = None if size is None else to_size(size)
    check_aspect(scale, ratio)
    check(follow)
    check_probability(probability)
    if not overlaps or not all(0 <= n <= 1 for n in overlaps):
        raise InputError(f"overlaps={overlaps}: must be one or more shares in 0..1")

    def change(key: Array, batch: Batch) -> Batch:
        sizes = height_width(batch["image"])
        if "boxes" in batch:
            check_boxes(batch)
        chosen, trials = (draw(uniform, k, s) for k, s in zip(jax.random.split(key), _shapes(batch), strict=True))
        rectangles = _draw_rectangles(trials, sizes, scale, ratio)  # [B, TRIALS, 4]
        wanted = jnp.asarray(overlaps)[(chosen[:, 0] * len(overlaps)).astype(jnp.int32)]
        whole = jnp.broadcast_to(jnp.array([0.0, 0, 1, 1]), (*chosen.shape[:1], 4))
        taken = jnp.where((chosen[:, 1] < probability)[:, None], _first_good(rectangles, wanted, batch), whole)
        y0, x0, y1, x1 = (taken[:, i] * sizes[i % 2] for i in range(4))
        first, length = (jnp.round(y0), jnp.round(x0)), (jnp.round(y1 - y0), jnp.round(x1 - x0))
        return transform_spatial(
            _without_far_boxes(batch, taken),
            lambda image: resample.resize(as_float(image), first, length, out or sizes),
            lambda mask: resample.resize_nearest(mask, first, length, out or sizes),
            lambda boxes: _relative(boxes, (first, length), sizes),
            follow.visible,
        )

    return on_field(change, field)


def _shapes(batch: Batch) -> tuple[tuple[int, ...], ...]:
    rows = batch["image"].shape[0]
    return (rows, 2), (rows, TRIALS, 4)


def _relative(boxes: Array, rectangle: Rectangle, sizes: tuple[int, int]) -> Array:
    """Return boxes `[B, N, 4]`, shares of the image, as shares of a rectangle in pixels."""
    start, length = (jnp.tile(jnp.stack(pair, -1), 2)[:, None] for pair in rectangle)  # [B, 1, 4]
    return (boxes * jnp.array([*sizes, *sizes], jnp.float32)[None, None] - start) / length


def _draw_rectangles(drawn: Array, sizes: tuple[int, int], scale: Range, ratio: Range) -> Array:
    """Return rectangles of whole pixels as shares of the image, `[B, TRIALS, 4]`; NaN where one does not fit."""
    h, w = sizes
    area = h * w * (scale[0] + drawn[..., 0] * (scale[1] - scale[0]))
    aspect = jnp.exp(math.log(ratio[0]) + drawn[..., 1] * (math.log(ratio[1]) - math.log(ratio[0])))
    wide, high = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    fits = (wide >= 1) & (wide <= w) & (high >= 1) & (high <= h)
    y, x = jnp.floor(drawn[..., 2] * (h - high + 1)), jnp.floor(drawn[..., 3] * (w - wide + 1))
    places = jnp.stack([y / h, x / w, (y + high) / h, (x + wide) / w], -1)
    return jnp.where(fits[..., None], places, jnp.nan)


def _inside(boxes: Array, rectangles: Array) -> Array:
    """Return whether the centres of boxes `[B, N, 4]` are in rectangles `[B, R, 4]`, `[B, R, N]`."""
    y, x = ((boxes[:, None, :, i] + boxes[:, None, :, i + 2]) / 2 for i in (0, 1))
    y0, x0, y1, x1 = (rectangles[:, :, None, i] for i in range(4))
    return (y > y0) & (y < y1) & (x > x0) & (x < x1)


def _first_good(rectangles: Array, wanted: Array, batch: Batch) -> Array:
    """Return the first rectangle of each image that keeps a box with the overlap that is wanted, `[B, 4]`."""
    good = ~jnp.isnan(rectangles[..., 0])  # [B, R]
    if "boxes" in batch:
        boxes = batch["boxes"]
        there = box_ops.area(boxes) > 0
        there &= batch["box_mask"] > 0 if "box_mask" in batch else True
        there &= ~(batch["box_crowd"] > 0) if "box_crowd" in batch else True
        near = box_ops.iou(rectangles, boxes) >= wanted[:, None, None]
        kept = (near & _inside(boxes, rectangles) & there[:, None]).any(-1)
        good &= kept | ~there.any(-1)[:, None]
    first = jnp.take_along_axis(rectangles, good.argmax(1)[:, None, None], 1)[:, 0]
    return jnp.where(good.any(1)[:, None], first, jnp.array([[0.0, 0, 1, 1]]))


def _without_far_boxes(batch: Batch, rectangles: Array) -> Batch:
    """Return the batch with 0 in `"box_mask"` for boxes whose centre is outside the rectangle of their image.

    Crowds stay, because what is left of them must not count as background.
    """
    if "boxes" not in batch:
        return batch
    boxes = batch["boxes"]
    mask = jnp.asarray(batch["box_mask"]) if "box_mask" in batch else jnp.ones(boxes.shape[:2], jnp.float32)
    kept = _inside(boxes, rectangles[:, None])[:, 0]
    kept |= batch["box_crowd"] > 0 if "box_crowd" in batch else False
    return {**batch, "box_mask": jnp.where(kept, mask, jnp.zeros_like(mask))}
