"""Checks of true boxes: which are refused, and the form in which losses and metrics read them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.types import Batch, InputError, align, row_mask
from jaxcnn.tasks.pixels import concrete

Array = jax.Array
KEYS = ("boxes", "box_label", "box_mask", "box_crowd")
ROUNDING = 1e-3  # tolerance around 0..1
MARGIN = 0.5  # wider in a compiled program, where augmentation may have moved boxes; a wrong unit is further off


def canonical(classes: int, batch: Batch) -> tuple[Batch, Array]:
    """Bring the boxes of a batch into the form that losses and metrics read.

    Args:
        classes: number of classes.
        batch: with `"boxes"` and `"box_label"`, as `check` accepts them.

    Returns:
        The batch and bool `[B]`, true for rows with an invalid box, which a compiled program cannot refuse. In the
        batch, `"boxes"` are float32 within 0..1, `"box_label"` int32, `"box_mask"` and `"box_crowd"` 0 or 1; padding is
        zeros. `"row_mask"` is 0 for invalid rows.

    Raises:
        InputError: an array is missing or does not fit, or (unless traced) a value is invalid.

    """
    check(classes, batch)
    boxes, label = jnp.asarray(batch["boxes"], jnp.float32), jnp.asarray(batch["box_label"]).astype(jnp.int32)
    real = jnp.asarray(batch["box_mask"]) > 0 if "box_mask" in batch else jnp.ones(label.shape, bool)
    real &= align(row_mask(batch) > 0, real)
    good = jnp.isfinite(boxes).all(-1) & (boxes[..., 2:] > boxes[..., :2]).all(-1)
    good &= (boxes.min(-1) >= -MARGIN) & (boxes.max(-1) <= 1 + MARGIN) & (label >= 0) & (label < classes)
    bad = (real & ~good).any(-1)
    real &= good
    crowd = real & (jnp.asarray(batch["box_crowd"]) > 0) if "box_crowd" in batch else jnp.zeros(label.shape, bool)
    form = {
        "boxes": jnp.where(real[..., None], boxes.clip(0, 1), 0),
        "box_label": jnp.where(real, label, 0),
        "box_mask": real.astype(jnp.float32),
        "box_crowd": crowd.astype(jnp.float32),
        "row_mask": row_mask(batch) * ~bad,
    }
    return {**batch, **form}, bad


def check(classes: int, rows: Batch) -> None:
    """Refuse boxes and labels that do not fit a detector, on the host; values that are traced are not read.

    Args:
        classes: number of classes.
        rows: dict from name to array: `"boxes"` `[B, N, 4]` yxyx in 0..1, `"box_label"` `[B, N]`, and perhaps
            `"box_mask"` and `"box_crowd"` `[B, N]`; what these or `"row_mask"` mask may be anything.

    Raises:
        InputError: an array is missing, its shape or dtype does not fit, or a value is invalid.

    """
    _check_shapes(rows)
    if not all(concrete(rows[name]) for name in (*KEYS, "row_mask") if name in rows):
        return
    boxes, label = np.asarray(rows["boxes"], np.float32), np.asarray(rows["box_label"])
    real = np.asarray(rows["box_mask"]) > 0 if "box_mask" in rows else np.ones(label.shape, bool)
    real = real & (np.asarray(rows["row_mask"]) > 0)[:, None] if "row_mask" in rows else real
    kept = boxes[real]
    _refuse(real, boxes, ~np.isfinite(kept).all(-1), "must be finite; a box_mask of 0 marks padding")
    unit = "must be shares of the height and width, yxyx in 0..1; jaxcnn.ops.boxes.from_coco and others convert"
    _refuse(real, boxes, (kept < -ROUNDING).any(-1) | (kept > 1 + ROUNDING).any(-1), unit)
    order = "must be (y0, x0, y1, x1), with y0 < y1 and x0 < x1; leave out boxes without an area"
    _refuse(real, boxes, (kept[:, 2:].clip(0, 1) <= kept[:, :2].clip(0, 1)).any(-1), order)
    found = label[real]
    if found.size and (found.min() < 0 or found.max() >= classes):
        fix = "number the classes from 0, without one for the background"
        if found.min() == 1 and found.max() == classes:
            fix = "subtract 1; the background needs no class"
        raise InputError(
            f"'box_label' from {found.min()} to {found.max()}: with {classes} classes they must be 0 to {classes - 1}; "
            f"{fix}"
        )


def _check_shapes(rows: Batch) -> None:
    """Refuse arrays that are missing, or of another shape or kind."""
    for name in ("boxes", "box_label"):
        if name not in rows:
            raise InputError(
                f"the batch has no {name!r}, only {', '.join(sorted(rows))}; a detector learns from 'boxes' [B, N, 4] "
                "and 'box_label' [B, N]"
            )
    shape = tuple(np.shape(rows["boxes"]))
    if len(shape) != 3 or shape[-1] != 4:
        raise InputError(f"'boxes' of shape {shape}: must be [B, N, 4], padded to the same N in every row")
    for name in KEYS[1:]:
        if name in rows and tuple(np.shape(rows[name])) != shape[:2]:
            raise InputError(
                f"{name!r} of shape {tuple(np.shape(rows[name]))}, 'boxes' of shape {shape}: must be {shape[:2]}"
            )
    if not jnp.issubdtype(kind := _dtype(rows["boxes"]), jnp.floating):
        raise InputError(f"'boxes' of dtype {kind}: must be floats, shares of the height and width")
    if not jnp.issubdtype(kind := _dtype(rows["box_label"]), jnp.integer):
        raise InputError(f"'box_label' of dtype {kind}: must be integers, the class of each box")


def _dtype(x: Any) -> Any:
    return x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype


def _refuse(real: np.ndarray, boxes: np.ndarray, bad: Any, fix: str) -> None:
    """Refuse the first of some boxes that count.

    Args:
        real: bool `[B, N]`, which boxes count.
        boxes: `[B, N, 4]`.
        bad: bool `[n]`, which of the n boxes that count are refused.
        fix: what they must be.

    """
    if bad.any():
        row, column = (int(i) for i in np.argwhere(real)[bad.argmax()])
        shown = ", ".join(f"{x:g}" for x in boxes[row, column])
        more = f", and {bad.sum() - 1} more" if bad.sum() > 1 else ""
        raise InputError(f"box {column} of row {row}{more}: ({shown}): {fix}")
