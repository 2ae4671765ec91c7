"""Mosaic: parts of four images in one, for detection and segmentation (Bochkovskiy et al., 2020, arXiv:2004.10934).

Deviates from the paper's code, which joins whole images on a larger canvas with gray gaps and then resizes it: here, a
part shows a random crop that fills it, and parts side by side are cropped at the same height. Rows and columns are then
resampled one after another, once for all four images.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcnn.augment import resample
from jaxcnn.augment.core import Range, Transform, as_float, check_range, height_width, mixing, on_field, uniform
from jaxcnn.augment.erase import check_probability
from jaxcnn.augment.spatial import FOLLOW, SpatialTargets, area, check, check_boxes, check_target, clipped, maps
from jaxcnn.core.collectives import draw, previous
from jaxcnn.core.types import Batch, InputError, align, check_whole, row_mask

Array = jax.Array
MOST = 2.0  # how many times smaller an image may become


class Axis(NamedTuple):
    """How an axis of the results is made of two sources, in pixels, `[B]` each."""

    cut: Array  # first pixel of the second part
    first: tuple[Array, Array]  # where each part begins in its source
    zoom: Array  # pixels of a source for one of the result


def mosaic(
    *,
    centre: Range = (0.25, 0.75),
    probability: float = 1.0,
    max_boxes: int | None = None,
    follow: SpatialTargets = FOLLOW,
    field: str = "image",
) -> Transform:
    """Divide each image into four parts at a random point, and show a random crop of another image in each.

    The four are the image itself and the three rows before it in the global batch. They are all drawn at the same
    scale, between one half and one. A row stays as it is if one of the four is padding. Boxes are clipped at the border
    of their part, and every entry `"box_..."` `[B, N, ...]` follows them. An entry with one value per image, such as
    `"sample_weight"`, stays that of the first part, the upper left one.

    Args:
        centre: smallest and largest share of height and width at which the image is divided.
        probability: share of the images that become a mosaic, 0..1.
        max_boxes: boxes that are kept per image, the largest visible ones first; None for as many as there are, N.
        follow: how masks and boxes follow.
        field: the entry of the batch that holds the pixels.

    Returns:
        A transform of `image` `[B, H, W, C]`, uint8 0..255 or float 0..1, to float 0..1, and of boxes to
        `[B, max_boxes, 4]`.

    Raises:
        InputError: an invalid range or number, or a batch with a label per image.

    Reference: Bochkovskiy et al., 2020, arXiv:2004.10934.

    """
    check_range("centre", centre, 0.25, 0.75)
    check_probability(probability)
    check(follow)
    if max_boxes is not None:
        check_whole("max_boxes", max_boxes, 1)

    def change(key: Array, batch: Batch) -> Batch:
        check_target(batch)
        sizes, dense = height_width(batch["image"]), maps(batch)
        if "label" in batch and "label" not in dense:
            raise InputError("mosaic: four images cannot share a label [B]; leave it out of the batch, or the mosaic")
        if "target" in batch and "target" not in dense:
            raise InputError("mosaic: four images cannot share a target [B]; leave the mosaic out")
        if "boxes" in batch:
            check_boxes(batch)
        drawn = draw(uniform, key, (batch["image"].shape[0], 8))
        axes = _drawn(drawn, sizes, centre)
        follows = [name for name in batch if name in ("image", "boxes", *dense) or _of_boxes(name, batch)]
        rows: list[dict[str, Array]] = [{name: jnp.asarray(batch[name]) for name in follows}]
        rows[0] |= {"row_mask": row_mask(batch), "image": as_float(rows[0]["image"])}
        for _ in range(3):
            rows.append(previous(rows[-1]))
        mixed = functools.reduce(jnp.logical_and, (row["row_mask"] > 0 for row in rows)) & (drawn[:, 7] < probability)
        out = dict(batch)
        for name in ("image", *dense):
            join = _blended if name == "image" else _nearest
            a, b, c, d = (_deep(row[name], batch) for row in rows)
            joined = join(a, b, c, d, *axes).reshape(rows[0][name].shape)
            out[name] = jnp.where(align(mixed, joined), joined, rows[0][name])
        return out | _boxes(rows, axes, mixed, sizes, max_boxes, follow.visible) if "boxes" in batch else out

    return on_field(mixing(change), field)


def _of_boxes(name: str, batch: Batch) -> bool:
    return name.startswith("box_") and "boxes" in batch and batch[name].shape[:2] == batch["boxes"].shape[:2]


def _deep(x: Array, batch: Batch) -> Array:
    return x if x.ndim == batch["image"].ndim else x[..., None]


def _drawn(drawn: Array, sizes: tuple[int, int], centre: Range) -> tuple[Axis, Axis]:
    """Turn seven numbers in 0..1 for each row into how height and width are divided."""
    cuts = [jnp.round((centre[0] + drawn[:, i] * (centre[1] - centre[0])) * n) for i, n in enumerate(sizes)]
    longest = [jnp.maximum(cut, n - cut) / n for cut, n in zip(cuts, sizes, strict=True)]  # all parts have to be filled
    zoom = 1 + drawn[:, 2] * (jnp.minimum(1 / jnp.maximum(*longest), MOST) - 1)

    def axis(i: int) -> Axis:
        cut, n, places = cuts[i], sizes[i], drawn[:, 3 + 2 * i : 5 + 2 * i]
        return Axis(cut, (places[:, 0] * (n - cut * zoom), places[:, 1] * (n - (n - cut) * zoom)), zoom)

    return axis(0), axis(1)


def _sources(axis: Axis, n: int) -> tuple[Array, Array]:
    """Return the place in its source of each row or column of the result, and of which part it is, `[B, n]`."""
    at = jnp.arange(n, dtype=jnp.float32)[None]
    second = at >= axis.cut[:, None]
    begin = jnp.where(second, axis.first[1][:, None], axis.first[0][:, None])
    at = at - jnp.where(second, axis.cut[:, None], 0)
    return begin + (at + 0.5) * axis.zoom[:, None] - 0.5, second.astype(jnp.int32)


def _blended(a: Array, b: Array, c: Array, d: Array, down: Axis, right: Axis) -> Array:
    """Join `[B, H, W, C]`, upper left, upper right, lower left and lower right, bilinearly with antialiasing."""

    def along(two: tuple[Array, Array], number: int, axis: Axis) -> Array:
        n = two[0].shape[number]
        place, part = _sources(axis, n)
        reach = axis.zoom[:, None]
        return resample.blend(jnp.concatenate(two, number), number, place.clip(0, n - 1), reach, (0, n), MOST, part * n)

    return along((along((a, b), 2, right), along((c, d), 2, right)), 1, down)


def _nearest(a: Array, b: Array, c: Array, d: Array, down: Axis, right: Axis) -> Array:
    """Do the same with the nearest values."""

    def along(two: tuple[Array, Array], number: int, axis: Axis) -> Array:
        n = two[0].shape[number]
        place, part = _sources(axis, n)
        index = jnp.floor(place + 0.5).clip(0, n - 1).astype(jnp.int32) + part * n
        return resample.take(jnp.concatenate(two, number), index, number)

    return along((along((a, b), 2, right), along((c, d), 2, right)), 1, down)


def _boxes(
    rows: list[dict[str, Array]],
    axes: tuple[Axis, Axis],
    mixed: Array,
    sizes: tuple[int, int],
    max_boxes: int | None,
    visible: float,
) -> dict[str, Array]:
    """Move the boxes of the four images, clip them at their parts, and keep the largest."""
    parts = [_moved(row, axes, (i // 2, i % 2), sizes, visible) for i, row in enumerate(rows)]
    own = clipped(rows[0], rows[0]["boxes"], 0)
    for i, part in enumerate(parts):  # a row that is not mixed has its own boxes alone
        alone = own if i == 0 else jax.tree.map(jnp.zeros_like, own)
        parts[i] = {name: jnp.where(align(mixed, x), x, alone[name]) for name, x in part.items()}
    names = [name for name in rows[0] if name.startswith("box") and name not in ("boxes", "box_mask")]
    joined = {name: jnp.concatenate([row[name] for row in rows], 1) for name in names}
    joined |= {name: jnp.concatenate([part[name] for part in parts], 1) for name in ("boxes", "box_mask")}
    count = rows[0]["boxes"].shape[1] if max_boxes is None else max_boxes
    if (missing := count - joined["boxes"].shape[1]) > 0:
        joined = {name: jnp.pad(x, ((0, 0), (0, missing), *((0, 0),) * (x.ndim - 2))) for name, x in joined.items()}
    order = jnp.argsort(-jnp.where(joined["box_mask"] > 0, area(joined["boxes"]), -1), axis=1)[:, :count]
    return {name: jnp.take_along_axis(x, align(order, x), 1) for name, x in joined.items()}


def _moved(
    row: dict[str, Array], axes: tuple[Axis, Axis], part: tuple[int, int], sizes: tuple[int, int], visible: float
) -> dict[str, Array]:
    """Return boxes and mask of one of the four images, where its part shows them."""
    shift, window = [], []
    for axis, second, n in zip(axes, part, sizes, strict=True):
        begin = axis.cut if second else jnp.zeros_like(axis.cut)
        shift.append((begin - axis.first[second] / axis.zoom) / n)
        window.append((begin / n, jnp.ones_like(begin) if second else axis.cut / n))
    move, (low, high) = jnp.stack(shift * 2, -1), zip(*window, strict=True)
    boxes = row["boxes"] / axes[0].zoom[:, None, None] + move[:, None]
    return clipped(row, boxes, visible, jnp.stack([*low, *high], -1)[:, None])
