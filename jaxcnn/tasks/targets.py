"""Checks of labels against a head: what each form means, and which values are refused.

Labels may be integers, whole floats, bools, a column `[N, 1]`, or probabilities. `canonical` brings every form to the
one that losses and metrics read, inside a compiled step. `check` refuses invalid labels on the host, before the first
step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcnn.core.types import Batch, InputError, align, row_mask

Array = jax.Array
TOLERANCE = 1e-2  # of probabilities, which may be in bfloat16


class Head(NamedTuple):
    """How a model reads labels.

    Attributes:
        kind: `"softmax"`, `"sigmoid"` or `"multilabel"`.
        classes: number of classes; 2 for one sigmoid logit.
        ignore: label of rows (multilabel: of single answers) that do not count, or None.

    """

    kind: str
    classes: int
    ignore: int | None = None


def canonical(head: Head, batch: Batch) -> tuple[Batch, Array]:
    """Bring the labels of a batch into the form that losses and metrics read.

    Args:
        head: how the model reads labels.
        batch: with `"label"` in any form that `check` accepts.

    Returns:
        The batch and bool `[B]`, true for rows whose label is invalid: a compiled program cannot refuse these rows, and
        must not read them as some other class. In the batch, `"label"` is int32 `[B]` or float32 `[B, K]` (K = 2 for a
        single logit), and `"row_mask"` is 0 where a row is ignored or its label is invalid. If single answers may be
        ignored, the batch also has `"answer_known"` `[B, K]`.

    Raises:
        InputError: the batch has no labels, or their dtype or shape does not fit the head, or (unless traced) a value
            is invalid.

    """
    if "label" not in batch:
        raise InputError(f"the batch has no 'label', only {', '.join(sorted(batch))}; name the labels 'label'")
    if not any(isinstance(batch.get(name), Tracer) for name in ("label", "row_mask")):
        check(head, batch)
    form, label = _form(head, batch["label"]), jnp.asarray(batch["label"])
    _as_many(batch, label)
    if form == "answers":
        return _answers(head, batch, label)
    label = _wide(label[:, 0] if label.ndim == 2 and label.shape[1] == 1 else label)
    known = row_mask(batch) > 0
    if head.ignore is not None and label.ndim == 2:  # mixup turns a missing label into a row of zeros
        known &= (label != 0).any(-1)
    elif head.ignore is not None and not (head.ignore < 0 and jnp.issubdtype(label.dtype, jnp.unsignedinteger)):
        known &= label != head.ignore
    if form == "class":
        good = _whole(label, head.classes)
        label = jnp.where(known & good, label, 0).astype(jnp.int32)
    else:
        label = label.astype(jnp.float32)
        label = jnp.stack([1 - label, label], -1) if label.ndim == 1 else label  # the probability of class 1
        good = (label >= -TOLERANCE).all(-1) & (jnp.abs(label.sum(-1) - 1) <= TOLERANCE)
        label = jnp.where((known & good)[:, None], label, 0)
    return {**batch, "label": label, "row_mask": row_mask(batch) * (known & good)}, known & ~good


def _wide(label: Array) -> Array:
    """Widen narrow integers, so that labels compare with any number of classes and with -1 (uint8 has no -1)."""
    narrow = label.dtype.itemsize < 4 and not jnp.issubdtype(label.dtype, jnp.floating)
    return label.astype(jnp.int32) if narrow else label


def _whole(label: Array, classes: int) -> Array:
    """Whether labels `[B]` are whole numbers from 0 to `classes` - 1; a cast to int would hide those that are not."""
    return (label >= 0) & (label < classes) & (label == jnp.round(label))


def _answers(head: Head, batch: Batch, label: Array) -> tuple[Batch, Array]:
    label = align(label.astype(jnp.float32), jnp.zeros((1, 1)))  # with one class, labels may be [B]
    asked = jnp.broadcast_to(row_mask(batch)[:, None] > 0, label.shape)
    if head.ignore is not None:
        asked &= label != head.ignore
        batch = {**batch, "answer_known": asked}
    bad = (asked & ~((label >= -TOLERANCE) & (label <= 1 + TOLERANCE))).any(-1)
    label = jnp.where(asked & ~bad[:, None], label, 0)
    return {**batch, "label": label, "row_mask": row_mask(batch) * (asked.any(-1) & ~bad)}, bad


def _as_many(batch: Batch, label: Array) -> None:
    for name, x in batch.items():
        if jnp.shape(x)[:1] != label.shape[:1]:
            raise InputError(
                f"{name!r} has shape {jnp.shape(x)} but there are {label.shape[0]} labels: "
                "every array must have one row per label"
            )


def _form(head: Head, label: Any) -> str:
    """Classify an array of labels by shape and dtype alone: `"class"`, `"probabilities"` or `"answers"`.

    Raises:
        InputError: the labels do not fit the head.

    """
    label, k = label if hasattr(label, "dtype") else np.asarray(label), head.classes
    shape, dtype = tuple(label.shape), np.dtype(label.dtype)
    floating = jnp.issubdtype(dtype, jnp.floating)
    if not (floating or jnp.issubdtype(dtype, jnp.integer) or dtype.kind == "b"):
        fix = "cast them with label.astype('int32')"
        if dtype.kind in "OSU":
            fix = "number them with np.unique(label, return_inverse=True)[1]"
        raise InputError(f"labels of dtype {dtype}: must be whole numbers from 0 to {k - 1}; {fix}")
    if head.kind == "multilabel":
        if shape[1:] == (k,) or (k == 1 and len(shape) == 1):
            return "answers"
        one = '; for one class per row use head="softmax"' if len(shape) == 1 else ""
        raise InputError(
            f"labels of shape {shape}: head 'multilabel' with {k} classes needs [N, {k}], each 0 to 1{one}"
        )
    if len(shape) == 1 or shape[1:] == (1,):
        if floating and head.kind == "sigmoid":
            return "probabilities"
        if floating and k - 1 > 2 ** (jnp.finfo(dtype).nmant + 1):
            raise InputError(f"labels of dtype {dtype}: cannot hold every number from 0 to {k - 1}; cast them to int32")
        return "class"
    if shape[1:] == (k,) and len(shape) == 2:
        return "probabilities"
    several = '; for several labels per row use head="multilabel"' if len(shape) == 2 and head.kind == "softmax" else ""
    raise InputError(
        f"labels of shape {shape}: head {head.kind!r} needs [N] from 0 to {k - 1}, or probabilities [N, {k}]{several}"
    )


def check(head: Head, rows: Batch) -> None:
    """Refuse labels that do not fit a head, on the host.

    Args:
        head: how the model reads labels.
        rows: dict from name to array `[N, ...]`, with `"label"`; rows whose `"row_mask"` is 0 may hold anything.

    Raises:
        InputError: the dtype, the shape or a value does not fit.

    """
    form, label, k = _form(head, rows["label"]), np.asarray(rows["label"]), head.classes
    if "row_mask" in rows:
        label = label[np.asarray(rows["row_mask"]) > 0]
    if label.dtype.kind not in "biuf":  # bfloat16
        label = label.astype(np.float32)
    if head.ignore is not None:
        whole = form != "probabilities" or label.ndim == 1
        label = label[label != head.ignore if whole else (label != 0).any(-1)]
    if not label.size:
        return
    if label.dtype.kind == "f" and not np.isfinite(label).all():
        raise InputError(
            f"label {label[~np.isfinite(label)][0]}: must be a finite number; leave out rows without a label"
        )
    if form == "probabilities" and label.ndim == 2 and label.shape[1] == k:
        _check_probabilities(head, label)
    elif form == "class":
        _check_classes(head, label)
    elif label.min() < (0 if label.dtype.kind in "iu" else -TOLERANCE) or label.max() > 1 + TOLERANCE:
        raise InputError(_range(head, label, "must be 0 or 1, or between them"))


def _check_classes(head: Head, label: np.ndarray) -> None:
    if label.dtype.kind == "f" and (label != np.round(label)).any():
        raise InputError(
            f"label {label[label != np.round(label)][0]}: labels [N] must be whole numbers from 0 to {head.classes - 1}"
        )
    if label.dtype != bool and (label.min() < 0 or label.max() >= head.classes):
        raise InputError(_range(head, label, f"with {head.classes} classes they must be 0 to {head.classes - 1}"))


def _check_probabilities(head: Head, label: np.ndarray) -> None:
    sums = label.sum(-1, dtype=np.float64)
    if label.min() < -TOLERANCE or np.abs(sums - 1).max() > TOLERANCE:
        worst = int(label.min(-1).argmin() if label.min() < -TOLERANCE else np.abs(sums - 1).argmax())
        shown = f"has {label[worst].min():g}" if label.min() < -TOLERANCE else f"sums to {sums[worst]:g}"
        several = '; for several labels per row use head="multilabel"' if head.kind == "softmax" else ""
        raise InputError(
            f"labels [N, {head.classes}]: row {worst} {shown}; probabilities must not be negative and must sum to 1"
            f"{several}"
        )


def _range(head: Head, label: np.ndarray, must: str) -> str:
    """State the range of the labels, the required range, and the likely fix."""
    low, high, k = label.min(), label.max(), head.classes
    top = 1 if head.kind == "multilabel" else k - 1
    outside = np.unique(label[(label < 0) | (label > top)])
    if head.kind != "multilabel" and low == 1 and high == k:
        fix = "subtract 1"
    elif top == 1 and set(np.unique(label)) == {-1, 1}:
        fix = "use (label + 1) // 2"
    elif len(outside) == 1 and outside[0] == round(outside[0]) and low != high:
        fix = f"use ignore_label={int(outside[0])} if it marks rows without a label, or leave those rows out"
    else:
        fix = "map them to 0 and 1"
        if top > 1:
            fix = "number the classes from 0 with np.unique(label, return_inverse=True)[1]"
    return f"labels are {low:g} to {high:g}, {must}: {fix}"
