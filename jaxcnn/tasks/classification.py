"""Classification: one of K classes, one of two classes from a single logit, or several labels per image or text."""

import functools
import numbers
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import losses, metrics
from jaxcnn.core.types import Batch, InputError, Mean, Metric, Task, is_integer
from jaxcnn.tasks import figures, pixels, targets
from jaxcnn.tasks.fields import fields
from jaxcnn.tasks.model import from_model
from jaxcnn.tasks.weighting import check_class_weights

Array = jax.Array
Head = Literal["softmax", "sigmoid", "multilabel"]
Loss = Literal["cross_entropy", "binary_cross_entropy"]
HEADS = ("softmax", "sigmoid", "multilabel")


def classification(
    model: Any,
    *,
    head: Head = "softmax",
    label_smoothing: float = 0.0,
    focal: float = 0.0,
    class_weights: Sequence[float] | None = None,
    logit_adjustment: Sequence[float] | None = None,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    size: tuple[int, int] | None = None,
    resize: int | None = None,
    interpolation: str = "bilinear",
    auxiliary: float = 0.0,
    ignore_label: int | None = None,
    loss: Loss = "cross_entropy",
    target_threshold: float | None = None,
    dims: int = 2,
    field: str = "image",
    also: Sequence[str] = (),
) -> Task:
    """Make a task that assigns images to classes, or rows of another kind.

    Args:
        model: a Linen module from `[B, H, W, C]` to logits, with an attribute `num_classes`; with another `field`, from
            what that entry holds.
        head: how the logits answer. `"softmax"`: logits `[B, K]`; labels `[B]` from 0 to K - 1, or probabilities
            `[B, K]`. `"sigmoid"`: logits `[B, 1]`; labels `[B]` that are 0, 1 or the probability of class 1, or
            probabilities of both classes `[B, 2]`. `"multilabel"`: logits and labels `[B, K]`. Labels `[B]` may be
            integers, bools or whole floats, and may have the shape `[B, 1]`.
        label_smoothing: share of the label that is spread over all classes, in [0, 1).
        focal: gamma of the focal loss, at least 0. It gives less weight to rows that are already right; 0 is
            cross-entropy.
        class_weights: weight of each class; the loss becomes a weighted mean (`"softmax"` and `"sigmoid"` only).
        logit_adjustment: what the loss adds to the logit of each class, such as `protocol.logit_adjustment` returns:
            with the logarithms of the classes' shares, predictions suit classes that are equally frequent (Menon et
            al., 2020, arXiv:2007.07314; `"softmax"` and `"sigmoid"` only).
        mean: mean of the training pixels, in 0..1: one number or one per channel. It is saved with the run.
        std: standard deviation of the training pixels, in the same form.
        size: height and width to which images are resized on the device; None keeps theirs.
        resize: length of the shorter side before `size` is cropped from the centre; see `prepare`.
        interpolation: `"bilinear"` or `"bicubic"`.
        auxiliary: weight of each auxiliary loss, for a model made with `aux=True`: 0.3 in GoogLeNet, 0.4 in Inception
            v3.
        ignore_label: label of rows that have none, such as -1 or 255. These rows do not count in the loss or the
            metrics, but batch normalisation still sees their images. With `"multilabel"` it marks single unknown
            answers.
        loss: of the `"softmax"` head: `"cross_entropy"`, or `"binary_cross_entropy"`, which asks of each class whether
            the image shows it; it suits mixed images (Wightman et al., 2021, arXiv:2110.00476).
        target_threshold: with `"binary_cross_entropy"`, the share of a class in a mixed label above which the image
            counts as showing it, in [0, 1); None keeps the shares.
        dims: number of spatial axes of the images; 3 for volumes `[B, D, H, W, C]` and for videos, whose first axis is
            time.
        field: the entry of the batch that the model gets. `"image"` is scaled, resized and normalised; another, such as
            `"text"` or `"audio"`, reaches the model as it is, and the options for pixels do not apply.
        also: further entries that the model gets as keyword arguments of the same names, such as `("length",)`.

    Returns:
        A `Task` whose outputs are logits, with the metrics `loss`, `count`, `accuracy`, `confusion` (not for
        `"multilabel"`) and, for a softmax over six or more classes, `top_5`. Called with arrays, and in its `check`,
        the task refuses labels that do not fit the head and float images outside 0..1. A compiled program cannot
        refuse: there, such labels make the loss NaN and such images make their predictions NaN.

    Raises:
        InputError: an unknown head, or a value outside its range.

    """
    if not isinstance(getattr(model, "num_classes", None), numbers.Integral):
        kind = type(model).__name__
        raise InputError(f"model={kind}: has no num_classes, the number of its logits; give the module such a field")
    classes = 2 if head == "sigmoid" else model.num_classes
    _check(model, head, label_smoothing, class_weights, classes, auxiliary)
    shift = _shift(logit_adjustment, head, loss, classes)
    if not 0 <= focal < float("inf"):
        raise InputError(f"focal={focal}: must be at least 0")
    _check_loss(loss, head, target_threshold)
    wanted = _head(head, model.num_classes, classes, ignore_label)
    weights = None if class_weights is None else jnp.asarray(class_weights, jnp.float32)

    def criterion(logits: Array, batch: Batch) -> tuple[Array, Array]:
        label = batch["label"]
        logits = logits if shift is None else logits + shift
        if loss == "binary_cross_entropy":
            shares = label if label.ndim == 2 else jax.nn.one_hot(label, classes)
            shown = shares if target_threshold is None else (shares > target_threshold).astype(jnp.float32)
            values = losses.binary_cross_entropy(logits, shown, label_smoothing, focal)
        elif head == "softmax":
            values = losses.cross_entropy(logits, label, label_smoothing, focal)
        elif "answer_known" in batch:
            values = losses.binary_cross_entropy(logits[..., None], label[..., None], label_smoothing, focal)
            return values, batch["answer_known"] / classes
        else:
            values = losses.binary_cross_entropy(logits, _answers(label, head), label_smoothing, focal)
        if weights is None:
            return values, jnp.ones_like(values)
        mixed = label.ndim == 2 and label.shape[1] == len(weights)  # each class has its share of the weight
        return values, (label * weights[None]).sum(-1) if mixed else weights[metrics.true_class(batch)]

    measured: dict[str, Metric] = {"accuracy": _multilabel_accuracy}
    if head != "multilabel":
        measured = {"accuracy": metrics.accuracy, "confusion": metrics.confusion(classes)}
    if head == "softmax" and classes > 5:
        measured["top_5"] = metrics.top_k(5)
    how = {"mean": mean, "std": std, "size": size, "resize": resize, "interpolation": interpolation, "dims": dims}
    given = fields(field, also, how)
    meant, check = functools.partial(targets.canonical, wanted), functools.partial(_check_rows, wanted)
    task = from_model(
        model, criterion, measured, given.inputs, auxiliary, targets=meant, check=check, keywords=given.keywords
    )
    task.metrics["loss"].field = field  # pyright: ignore[reportFunctionMemberAccess] (read by attacks)
    # read by methods that use this loss for their own logits or labels (`continual.heads`, `consolidation.fisher`)
    task.metrics["loss"].smoothed = label_smoothing > 0  # pyright: ignore[reportFunctionMemberAccess]
    task.metrics["loss"].adjusted = shift is not None  # pyright: ignore[reportFunctionMemberAccess]
    shown = {"headline": ("loss", "accuracy"), "shares": ("accuracy",)}
    return given.strict(
        task._replace(**shown, figures={"confusion_matrix": figures.confusion} if "confusion" in measured else {})
    )


def _check_rows(head: targets.Head, rows: Batch) -> None:
    pixels.check_image(rows)
    if "label" in rows and pixels.concrete(rows["label"]):
        targets.check(head, rows)


def _answers(label: Array, head: str) -> Array:
    """Labels as one answer per logit, `[B, K]`; from the probabilities of two classes, that of class 1."""
    if head == "multilabel":
        return label
    return label[:, None] if label.ndim == 1 else label[:, 1:]


def _multilabel_accuracy(logits: Array, batch: Batch) -> Mean:
    """Share of right answers among those that are known."""
    if "answer_known" not in batch:
        return metrics.multilabel_accuracy(logits, batch)
    right, unsound = (logits > 0) == (batch["label"] > 0.5), jnp.isnan(logits) | jnp.isnan(batch["label"])
    return metrics.mean(jnp.where(unsound, jnp.nan, right.astype(jnp.float32)), batch, batch["answer_known"])


_multilabel_accuracy.several = True  # pyright: ignore[reportFunctionMemberAccess] (see `check_one_label`)


def check_one_label(task: Task, method: str) -> None:
    """Raise `InputError` for a task that is no classification with one label per row, for a method that reads it."""
    accuracy = task.metrics.get("accuracy")
    if accuracy is None or getattr(accuracy, "vectors", False):
        raise InputError(f"{method}: the task has no accuracy of classes; use a task of tasks.classification")
    if getattr(accuracy, "several", False):
        raise InputError(f"{method}: the task has several labels per row; use head='softmax' or 'sigmoid'")


def probabilities(logits: Array, head: Head = "softmax") -> Array:
    """Turn logits `[B, K]` into probabilities `[B, K]`; one sigmoid logit `[B, 1]` gives both classes, `[B, 2]`."""
    if head == "softmax":
        return jax.nn.softmax(logits, -1)
    p = jax.nn.sigmoid(logits)
    return jnp.concatenate([1 - p, p], -1) if head == "sigmoid" else p


def _check(
    model: Any, head: str, label_smoothing: float, class_weights: Sequence[float] | None, classes: int, auxiliary: float
) -> None:
    if head not in HEADS:
        raise InputError(f"head={head!r}: must be one of {', '.join(HEADS)}")
    if head == "sigmoid" and model.num_classes != 1:
        raise InputError(
            f'num_classes={model.num_classes}: the "sigmoid" head needs num_classes=1, one logit that decides between '
            'two classes; use head="softmax" for one logit per class'
        )
    if head == "softmax" and model.num_classes < 2:
        raise InputError(
            f'num_classes={model.num_classes}: "softmax" needs at least two logits; use head="sigmoid" for two classes '
            "with one logit"
        )
    if auxiliary and not getattr(model, "aux", False):
        raise InputError(
            f"auxiliary={auxiliary}: {type(model).__name__} has no auxiliary heads; build it with aux=True, or use 0"
        )
    if not 0 <= label_smoothing < 1:
        raise InputError(f"label_smoothing={label_smoothing}: must be at least 0 and below 1")
    if class_weights is not None and head == "multilabel":
        raise InputError(f"class_weights={class_weights}: does not work with several labels per row; use None")
    check_class_weights(class_weights, classes)


def _shift(logit_adjustment: Sequence[float] | None, head: str, loss: str, classes: int) -> Array | None:
    """Return what is added to logits `[B, K]` as `[1, K]`; for one logit, the difference of both classes."""
    if logit_adjustment is None:
        return None
    if head == "multilabel" or loss != "cross_entropy":
        raise InputError(
            f"logit_adjustment={logit_adjustment}: needs one label per row and loss='cross_entropy'; use None"
        )
    try:
        values = np.asarray(logit_adjustment, np.float32)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (classes,) or not np.isfinite(values).all():
        raise InputError(f"logit_adjustment={logit_adjustment}: must be {classes} finite numbers")
    return jnp.asarray(values[1:] - values[:1] if head == "sigmoid" else values)[None]


def _check_loss(loss: str, head: str, target_threshold: float | None) -> None:
    if loss not in ("cross_entropy", "binary_cross_entropy"):
        raise InputError(f"loss={loss!r}: must be 'cross_entropy' or 'binary_cross_entropy'")
    if loss == "binary_cross_entropy" and head != "softmax":
        raise InputError(f"loss={loss!r}: head={head!r} has this loss already; leave it out")
    if target_threshold is not None and not (loss == "binary_cross_entropy" and 0 <= target_threshold < 1):
        raise InputError(
            f"target_threshold={target_threshold}: must be at least 0 and below 1, with loss='binary_cross_entropy'"
        )


def _head(kind: str, logits: int, classes: int, ignore: int | None) -> targets.Head:
    if ignore is not None and not is_integer(ignore):
        raise InputError(f"ignore_label={ignore!r}: must be an integer, such as -1 or 255, or None")
    last = 1 if kind == "multilabel" else classes - 1
    if ignore is not None and 0 <= ignore <= last:
        raise InputError(
            f"ignore_label={ignore}: is one of the labels 0 to {last}; mark rows without a label by another number, "
            "such as -1"
        )
    return targets.Head(kind, logits if kind == "multilabel" else classes, None if ignore is None else int(ignore))
