"""Masks and boxes follow the pixels: which entries of a batch have places, and what becomes of them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcnn.core.types import Batch, InputError

Array = jax.Array


class SpatialTargets(NamedTuple):
    """How the rest of a batch follows its pixels.

    Entries that follow: `"mask"` `[B, H, W]` or `[B, H, W, K]`, and `"label"` where it is one of these; both likewise beside volumes
    `[B, D, H, W, C]`, and a mask `[B, T]` beside series; `"boxes"` `[B, N, 4]`, yxyx in 0..1, beside images, with `"box_mask"`
    `[B, N]`, 1 a box and 0 padding (absent: every box with an area is one; every change adds it).
    Masks take the nearest value. Boxes become the smallest upright box around what was theirs, cut at the border; one that is
    gone becomes zeros, with 0 in `"box_mask"`.

    Attributes:
        fill: what comes into a mask where pixels come in: 0, or a class that the loss leaves out.
        visible: share of a box's area that must be left inside, else the box is gone; in 0..1.

    """

    fill: float = 0
    visible: float = 0.1


FOLLOW = SpatialTargets()


def check(follow: SpatialTargets) -> SpatialTargets:
    """Refuse a share outside 0..1."""
    if not 0 <= follow.visible <= 1:
        raise InputError(f"visible={follow.visible}: must be a share in 0..1")
    return follow


def maps(batch: Batch) -> list[str]:
    """Names of the entries with a value for every pixel, the image aside."""
    shape = tuple(batch["image"].shape[:-1])

    def fits(name):
        return batch[name].ndim <= len(shape) + 1 and tuple(batch[name].shape[: len(shape)]) == shape

    if "mask" in batch and not fits("mask"):
        raise InputError(
            f"mask shape {tuple(batch['mask'].shape)}: must begin with {shape}, as the image does, and may have channels"
        )
    # a label [B, K] beside [B, T, C] is probabilities, even where K == T
    dense = "label" in batch and len(shape) > 2 and fits("label")
    return ["mask"] * ("mask" in batch) + ["label"] * dense


def transform_spatial(
    batch: Batch,
    image: Callable[[Array], Array],
    mask: Callable[[Array], Array],
    boxes: Callable[[Array], Array],
    visible: float = 0.0,
) -> Batch:
    """Change everything in a batch that has places.

    Args:
        batch: the batch.
        image: change of `[B, *spatial, C]`.
        mask: the same of values that must not be blended, `[B, *spatial, K]`.
        boxes: the same of `[B, N, 4]`, yxyx in shares of the image; may leave 0..1.
        visible: as in `SpatialTargets`.

    """
    out = {**batch, "image": image(batch["image"])}
    for name in maps(batch):
        values = batch[name]
        deep = values.ndim == batch["image"].ndim
        out[name] = mask(values) if deep else mask(values[..., None])[..., 0]
    if "boxes" in batch:
        if batch["boxes"].ndim != 3 or batch["boxes"].shape[-1] != 4 or batch["image"].ndim != 4:
            raise InputError(
                f"boxes shape {tuple(batch['boxes'].shape)}: must be [B, N, 4] beside an image [B, H, W, C]"
            )
        out |= _clipped(batch, boxes(batch["boxes"]), visible)
    return out


def _clipped(batch: Batch, boxes: Array, visible: float) -> Batch:
    """Cut boxes at the border, and mark those of which too little is left."""
    row_mask = batch["box_mask"] if "box_mask" in batch else jnp.ones(boxes.shape[:2], jnp.float32)
    inside = jnp.clip(boxes, 0, 1)
    kept = (
        (row_mask > 0) & (_area(batch["boxes"]) > 0) & (_area(inside) > 0) & (_area(inside) >= visible * _area(boxes))
    )
    return {"boxes": jnp.where(kept[..., None], inside, 0), "box_mask": kept.astype(row_mask.dtype)}


def _area(boxes: Array) -> Array:
    """Areas `[B, N]`, 0 for a box whose corners are in the wrong order."""
    return jnp.maximum(boxes[..., 2] - boxes[..., 0], 0) * jnp.maximum(boxes[..., 3] - boxes[..., 1], 0)
