"""Segmentation: a class for each pixel of an image, or of a volume or a series."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import losses, metrics
from jaxcnn.core.types import Batch, InputError, Task, align, is_integer, row_mask
from jaxcnn.tasks import figures, pixels
from jaxcnn.tasks.model import from_model, prepare
from jaxcnn.tasks.weighting import check_class_weights, check_weights

Array = jax.Array
KEYS = ("label", "mask")  # the first of these that a batch has holds the class of each pixel


def segmentation(
    model: Any,
    *,
    ignore_label: int | None = None,
    cross_entropy: float = 1.0,
    dice: float = 0.0,
    beta: float = 0.5,
    focal: float = 0.0,
    class_weights: Sequence[float] | None = None,
    background: bool = True,
    auxiliary: float = 0.0,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
) -> Task:
    """Make a task that assigns each pixel to a class.

    A batch holds the classes under `"label"`, or else under `"mask"`: integers `[B, *spatial]` or `[B, *spatial, 1]`.
    `"pixel_weight"` `[B, *spatial]`, or `[B, 1, ..., 1]` for one weight per image, weights the pixels in the
    cross-entropy, as `losses.boundary_weights` does; spatial augmentations refuse it. The loss of an image is the mean
    over its pixels that count.

    Args:
        model: a Linen module from `[B, *spatial, C]` to logits `[B, *spatial, K]`, with `num_classes` K, such as
            `models.unet`. A field `dims` gives the number of spatial axes, otherwise 2.
        ignore_label: label of pixels without one, such as 255 or -1. They count in no loss and no metric.
        cross_entropy: weight of the cross-entropy of the pixels, at least 0.
        dice: weight of the Dice loss, at least 0.
        beta: weight of pixels that a class lost, against those that it wrongly has, in the Dice loss, in (0, 1); above
            0.5, which is Dice, more of a rare class is found (the Tversky index).
        focal: gamma of the focal loss, at least 0; 0 is cross-entropy.
        class_weights: weight of each class in the cross-entropy, at least 0.
        background: whether class 0 counts in the Dice loss.
        auxiliary: weight of the loss of an auxiliary head, for a model made with `aux=True`, such as `models.fcn`: 0.5
            in torchvision.
        mean: mean of the training pixels, in 0..1: one number or one per channel. It is saved with the run.
        std: standard deviation of the training pixels, in the same form.

    Returns:
        A `Task` whose outputs are logits `[B, *spatial, K]`, with the metrics `loss`, `count`, `accuracy` of the
        pixels, `iou` and `dice` (means over the classes that occur, and `iou_per_class`, `dice_per_class`) and
        `confusion`. It monitors the highest `iou`. It refuses labels that are not classes; in a compiled program, these
        make the loss NaN.

    Raises:
        InputError: a value is outside its range.

    Reference: Milletari et al., 2016, arXiv:1606.04797 (Dice); Salehi et al., 2017, arXiv:1706.05721 (Tversky).

    """
    found: Any = getattr(model, "num_classes", None)
    if not is_integer(found) or found < 2:
        raise InputError(f"num_classes={found}: must be at least 2, one logit per class, the background included")
    classes = int(found)
    _check(classes, ignore_label, cross_entropy, dice, beta, focal, class_weights)
    if not 0 <= auxiliary < np.inf or auxiliary and not getattr(model, "aux", False):
        line = "must be at least 0; if it is not 0, build the model with aux=True"
        raise InputError(f"auxiliary={auxiliary}: {line}, if it can have auxiliary heads")
    weights = None if class_weights is None else jnp.asarray(class_weights, jnp.float32)

    def criterion(logits: Array, batch: Batch) -> tuple[Array, Array]:
        label, known = batch["label"], batch["label"] >= 0
        value, axes = jnp.zeros(label.shape[:1]), tuple(range(1, label.ndim))
        if cross_entropy:
            each = losses.cross_entropy(logits, jnp.maximum(label, 0), focal=focal)
            weight = known * (1.0 if weights is None else weights[jnp.maximum(label, 0)])
            weight = weight * _pixel_weight(batch) if "pixel_weight" in batch else weight
            total = jnp.where(weight > 0, each * weight, 0).sum(axes)
            value += cross_entropy * total / jnp.maximum(weight.sum(axes), 1e-6)
        if dice:
            shape = {"alpha": 1 - beta, "beta": beta, "background": background}
            value += dice * losses.tversky_loss(logits, jnp.maximum(label, 0), known, **shape)
        return value, known.any(axes).astype(jnp.float32)

    made = functools.partial(prepare, mean=mean, std=std, dims=getattr(model, "dims", 2))
    measured = {
        "accuracy": metrics.accuracy,
        "overlap": metrics.overlap(classes),
        "confusion": metrics.confusion(classes),
    }
    meant = functools.partial(_canonical, classes, ignore_label)
    check = functools.partial(_check_rows, classes, ignore_label)
    task = from_model(
        model, criterion, measured, lambda batch: made(batch["image"]), auxiliary, targets=meant, check=check
    )
    shown: dict[str, Any] = {"headline": ("loss", "iou"), "monitor": ("iou", "max")}
    return pixels.strict(task._replace(**shown, figures={"confusion_matrix": figures.confusion}))


def _check(
    classes: int, ignore: int | None, cross_entropy: float, dice: float, beta: float, focal: float, weights: Any
) -> None:
    if ignore is not None and not is_integer(ignore):
        raise InputError(f"ignore_label={ignore!r}: must be an integer, such as 255 or -1, or None")
    if ignore is not None and 0 <= ignore < classes:
        raise InputError(f"ignore_label={ignore}: is one of the classes 0 to {classes - 1}; use another number, as 255")
    if not (0 <= cross_entropy < np.inf and 0 <= dice < np.inf and cross_entropy + dice > 0):
        raise InputError(f"cross_entropy={cross_entropy}, dice={dice}: must be at least 0, and not both 0")
    if not 0 < beta < 1:
        raise InputError(f"beta={beta}: must be above 0 and below 1; 0.5 is Dice")
    if not 0 <= focal < np.inf:
        raise InputError(f"focal={focal}: must be at least 0")
    check_class_weights(weights, classes)


def _labels(batch: Batch) -> tuple[str, Any]:
    """Return the name and the array of the labels, `[B, *spatial]`."""
    name = next((key for key in KEYS if key in batch), None)
    if "image" not in batch:
        raise InputError(f"the batch has no 'image', only {', '.join(sorted(batch))}; name the images so")
    if name is None:
        raise InputError(f"the batch has no 'label' or 'mask', only {', '.join(sorted(batch))}; name the labels so")
    label, image = batch[name], batch["image"]
    if not jnp.issubdtype(label.dtype, jnp.integer) and label.dtype != bool:
        raise InputError(f"{name!r} of dtype {label.dtype}: must be integers, the class of each pixel")
    label = label[..., 0] if label.ndim == image.ndim and label.shape[-1] == 1 else label
    if label.shape != image.shape[:-1]:
        raise InputError(f"{name!r} of shape {label.shape}, images of shape {image.shape}: must have a class per pixel")
    return name, label


def _canonical(classes: int, ignore: int | None, batch: Batch) -> tuple[Batch, Array]:
    """Bring labels to int32 `"label"`, -1 where they do not count; also return which rows have an invalid label."""
    _check_labels(classes, ignore, batch)
    _, label = _labels(batch)
    label = jnp.asarray(label)
    known = align(row_mask(batch) > 0, label)
    if ignore is not None:
        stored = _as_stored(classes, ignore, batch)
        if label.dtype != bool and jnp.iinfo(label.dtype).min <= stored <= jnp.iinfo(label.dtype).max:
            known &= label != jnp.asarray(stored, label.dtype)  # otherwise no pixel has it
    label = label.astype(jnp.int32)
    valid = (label >= 0) & (label < classes)
    bad = (known & ~valid).any(tuple(range(1, label.ndim)))
    return {**batch, "label": jnp.where(known & valid, label, -1)}, bad


def _pixel_weight(batch: Batch) -> Array:
    """Return the weights as `[B, *spatial]`; they may have a last axis of 1, or be one per image."""
    weight, shape = batch["pixel_weight"], batch["label"].shape
    weight = weight[..., 0] if weight.ndim == len(shape) + 1 and weight.shape[-1] == 1 else weight
    if weight.shape not in (shape, (shape[0], *(1 for _ in shape[1:]))):
        raise InputError(f"'pixel_weight' of shape {weight.shape}: must be {shape}, one weight per pixel")
    return jnp.broadcast_to(weight, shape)


def _as_stored(classes: int, ignore: int, batch: Batch) -> int:
    """Return the ignored label as the dtype of the labels holds it: -1 is 255 in uint8."""
    dtype = np.dtype(_labels(batch)[1].dtype)
    if dtype.kind != "u" or ignore >= 0:
        return ignore
    held = ignore + 2 ** (8 * dtype.itemsize)
    if 0 <= held < classes:
        raise InputError(f"ignore_label={ignore}: stands for class {held} in labels of {dtype}; give another number")
    return held


def _check_rows(classes: int, ignore: int | None, rows: Batch) -> None:
    pixels.check_image(rows)
    if any(key in rows for key in KEYS):
        _check_labels(classes, ignore, rows)
    check_weights("pixel_weight", rows)


def _check_labels(classes: int, ignore: int | None, rows: Batch) -> None:
    """Refuse labels that are not classes, unless they are traced."""
    name, label = _labels(rows)
    if not (pixels.concrete(label) and pixels.concrete(rows.get("row_mask", 1.0))):
        return
    label = np.asarray(label)
    kept = np.asarray(row_mask(rows)) > 0
    stored = None if ignore is None else _as_stored(classes, ignore, rows)
    low, high = (int(f(label[kept], initial=0)) for f in (np.min, np.max))
    if low >= 0 and high < classes:
        return
    values = np.unique(label[kept])
    wrong = values[((values < 0) | (values >= classes)) & (values != stored)]
    if len(wrong):
        fix = "give it as ignore_label" if len(wrong) == 1 else "map them to classes, or give one as ignore_label"
        some = ", ".join(map(str, wrong[:5].tolist()))
        raise InputError(f"{name!r} has the values {some}: classes are 0 to {classes - 1}; {fix}")
