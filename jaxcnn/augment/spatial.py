"""How masks and boxes follow the pixels through spatial transforms."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcnn.core.types import Batch, InputError

Array = jax.Array
ROUNDING = 1e-6  # share of a box that may be left inside by rounding where it has moved out completely


class SpatialTargets(NamedTuple):
    """How the spatial targets of a batch follow its pixels.

    These entries follow:

    - `"mask"` `[B, H, W]` or `[B, H, W, K]`, and `"label"` if it has one of these shapes. Beside volumes
      `[B, D, H, W, C]` they have a depth axis, and beside a series they are `[B, T]`, and such a label must
      be integers, because floats are labels of whole rows. Masks take the nearest value.
    - `"boxes"` `[B, N, 4]`, yxyx in 0..1, beside images, with `"box_mask"` `[B, N]`: 1 for a box, 0 for padding. If
      `"box_mask"` is absent, every box with an area counts, and the transform adds the mask. A transformed box is the
      smallest upright box around the old one, clipped at the border. A removed box becomes zeros, with 0 in
      `"box_mask"`. Boxes keep their places, so `"box_label"` and `"box_crowd"` stay as they are; `mosaic`, which brings
      boxes of several images together, moves every entry `"box_..."` `[B, N, ...]` with them.

    Attributes:
        fill: mask value where no source pixel exists: 0, or a class that the loss ignores; -1 is 255 in uint8.
        visible: share of a box's area, in 0..1, that must stay inside the image; otherwise the box is removed.

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
    """Return the names of the entries with a value per pixel, without the image."""
    if "pixel_weight" in batch:
        raise InputError(
            "pixel_weight: does not follow the pixels of an augmented image; leave it out, or the spatial augmentation"
        )
    shape = tuple(batch["image"].shape[:-1])

    def fits(name):
        return batch[name].ndim <= len(shape) + 1 and tuple(batch[name].shape[: len(shape)]) == shape

    if "mask" in batch and not fits("mask"):
        raise InputError(
            f"mask shape {tuple(batch['mask'].shape)}: must be {shape}, like the image, or that and channels"
        )
    # beside [B, T, C], float labels [B, K] are probabilities, even if K == T, and integers [B, T] are classes of steps
    dense = "label" in batch and fits("label")
    dense = dense and (len(shape) > 2 or not jnp.issubdtype(batch["label"].dtype, jnp.floating))
    return ["mask"] * ("mask" in batch) + ["label"] * dense


def check_target(batch: Batch) -> None:
    """Refuse a target per pixel, which would not move with the image."""
    shape = tuple(batch["image"].shape[:-1])
    if "target" in batch and len(shape) > 2 and tuple(batch["target"].shape[: len(shape)]) == shape:
        raise InputError(
            "target: has a value per pixel, which does not follow the pixels of an augmented image; name it 'mask'"
        )


def transform_spatial(
    batch: Batch,
    image: Callable[[Array], Array],
    mask: Callable[[Array], Array],
    boxes: Callable[[Array], Array],
    visible: float = 0.0,
) -> Batch:
    """Apply a spatial transform to every entry of a batch that it concerns.

    Args:
        batch: the batch.
        image: transform of `[B, *spatial, C]`.
        mask: the same for values that must not be blended, `[B, *spatial, K]`.
        boxes: the same for `[B, N, 4]`, yxyx relative to the image; results may leave 0..1.
        visible: as in `SpatialTargets`.

    Raises:
        InputError: a mask or boxes whose shape does not fit the image.

    """
    check_target(batch)
    out = {**batch, "image": image(batch["image"])}
    for name in maps(batch):
        values = batch[name]
        deep = values.ndim == batch["image"].ndim
        out[name] = mask(values) if deep else mask(values[..., None])[..., 0]
    if "boxes" in batch:
        check_boxes(batch)
        out |= clipped(batch, boxes(batch["boxes"]), visible)
    return out


def check_boxes(batch: Batch) -> None:
    """Refuse boxes whose shape does not fit the image, and boxes in pixels."""
    if batch["boxes"].ndim != 3 or batch["boxes"].shape[-1] != 4 or batch["image"].ndim != 4:
        raise InputError(f"boxes shape {tuple(batch['boxes'].shape)}: must be [B, N, 4] beside an image [B, H, W, C]")
    _check_unit(batch["boxes"])


def _check_unit(boxes: Array) -> None:
    """Refuse boxes in pixels, where their values are known: cut to 0..1, they would all be gone."""
    if isinstance(boxes, Tracer):
        return
    low, high = (float(end.reduce(boxes, axis=None, initial=0)) for end in (np.fmin, np.fmax))  # padding may be NaN
    if not (-1 <= low and high <= 2):  # a box may hang over the border
        raise InputError(
            f"boxes from {low:g} to {high:g}: must be shares of the image, yxyx in 0..1; divide them by its height and "
            "width"
        )


def clipped(batch: Batch, boxes: Array, visible: float, window: Array | None = None) -> dict[str, Array]:
    """Clip moved boxes, and unset `"box_mask"` where too little is left.

    Args:
        batch: with the boxes before they moved, and their mask.
        boxes: `[B, N, 4]`, after they moved.
        visible: as in `SpatialTargets`.
        window: part of the image that each box is clipped to, which broadcasts against the boxes; None for all of it.

    Returns:
        `"boxes"` and `"box_mask"`.

    """
    row_mask = batch["box_mask"] if "box_mask" in batch else jnp.ones(boxes.shape[:2], jnp.float32)
    low, high = (0, 1) if window is None else (jnp.tile(part, 2) for part in jnp.split(window, 2, -1))
    inside = jnp.clip(boxes, low, high)
    large_enough = (area(boxes) > 0) & (area(inside) >= max(visible, ROUNDING) * area(boxes))
    kept = (row_mask > 0) & (area(batch["boxes"]) > 0) & large_enough
    return {"boxes": jnp.where(kept[..., None], inside, 0), "box_mask": kept.astype(row_mask.dtype)}


def area(boxes: Array) -> Array:
    """Return areas `[B, N]`, 0 for a box whose corners are in the wrong order."""
    return jnp.maximum(boxes[..., 2] - boxes[..., 0], 0) * jnp.maximum(boxes[..., 3] - boxes[..., 1], 0)
