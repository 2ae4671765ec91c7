"""Image classification: one of K classes, one of two (a single logit), or several labels at once."""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcnn import losses, metrics
from jaxcnn.tasks.model import from_model, prepare
from jaxcnn.types import Batch, InputError, Task

Array = jax.Array
Head = Literal["softmax", "sigmoid", "multilabel"]
HEADS = ("softmax", "sigmoid", "multilabel")


def classification(
    model: Any,
    *,
    head: Head = "softmax",
    label_smoothing: float = 0.0,
    focal: float = 0.0,
    class_weights: Sequence[float] | None = None,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    size: tuple[int, int] | None = None,
    resize: int | None = None,
    interpolation: str = "bilinear",
    auxiliary: float = 0.0,
) -> Task:
    """Learn labels of images.

    Args:
        model: a Linen module from `[B, H, W, C]` to logits, with an attribute `num_classes`.
        head: `"softmax"`: logits `[B, K]`, labels int `[B]` or probabilities `[B, K]`; `"sigmoid"`: logits `[B, 1]`, labels
            int `[B]` of 0 and 1; `"multilabel"`: logits and labels `[B, K]`.
        label_smoothing: share of the label spread over all classes, in [0, 1).
        focal: gamma of the focal loss, which leaves rows that are right already to themselves; at least 0, and 0 for cross-entropy.
        class_weights: weight of each class in the loss, which is then a weighted mean (`"softmax"` and `"sigmoid"`).
        mean: of the training pixels in 0..1, kept with the run.
        std: likewise, the standard deviation.
        size: height and width that images are resized to on the device.
        resize: what the shorter side is brought to before `size` is cut from the middle, see `prepare`.
        interpolation: `"bilinear"` or `"bicubic"`.
        auxiliary: weight of the loss of each auxiliary head of a model that has them (`aux=True`): 0.3 in GoogLeNet, 0.4 in Inception v3.

    Returns:
        A `Task` whose outputs are logits, with the metrics `loss`, `count`, `accuracy`, `confusion` and, from six classes on, `top_5`.

    Raises:
        InputError: an unknown head, or a value outside its range.

    """
    classes = 2 if head == "sigmoid" else model.num_classes
    _check(model, head, label_smoothing, class_weights, classes, auxiliary)
    if not 0 <= focal < float("inf"):
        raise InputError(f"focal={focal}: must be at least 0")
    weights = None if class_weights is None else jnp.asarray(class_weights, jnp.float32)

    def criterion(logits: Array, batch: Batch) -> tuple[Array, Array]:
        label = batch["label"]
        if head == "softmax":
            values = losses.cross_entropy(logits, label, label_smoothing, focal)
        else:
            answers = label[:, None] if head == "sigmoid" else label
            values = losses.binary_cross_entropy(logits, answers, label_smoothing, focal)
        return values, jnp.ones_like(values) if weights is None else weights[metrics.true_class(batch)]

    measured = {"accuracy": metrics.multilabel_accuracy}
    if head != "multilabel":
        measured = {"accuracy": metrics.accuracy, "confusion": metrics.confusion(classes)}
    if head == "softmax" and classes > 5:
        measured["top_5"] = metrics.top_k(5)
    pixels = functools.partial(prepare, mean=mean, std=std, size=size, resize=resize, interpolation=interpolation)
    return from_model(model, criterion, measured, lambda batch: pixels(batch["image"]), auxiliary)


def probabilities(logits: Array, head: Head = "softmax") -> Array:
    """Logits `[B, K]` to probabilities `[B, K]`; one sigmoid logit `[B, 1]` to both classes, `[B, 2]`."""
    if head == "softmax":
        return jax.nn.softmax(logits, -1)
    p = jax.nn.sigmoid(logits)
    return jnp.concatenate([1 - p, p], -1) if head == "sigmoid" else p


def _check(model: Any, head: str, label_smoothing: float, class_weights: Sequence[float] | None, classes: int, auxiliary: float) -> None:
    if head not in HEADS:
        raise InputError(f"head={head!r}: must be one of {', '.join(HEADS)}")
    if head == "sigmoid" and model.num_classes != 1:
        raise InputError(
            f'num_classes={model.num_classes}: the "sigmoid" head decides between two classes with one logit, so num_classes must be 1'
        )
    if auxiliary and not getattr(model, "aux", False):
        raise InputError(f"auxiliary={auxiliary}: {type(model).__name__} has no auxiliary heads; make it with aux=True if it can")
    if not 0 <= label_smoothing < 1:
        raise InputError(f"label_smoothing={label_smoothing}: must be at least 0 and below 1")
    if class_weights is not None and (head == "multilabel" or len(class_weights) != classes or min(class_weights) < 0):
        raise InputError(f"class_weights={class_weights}: needs {classes} numbers that are not negative, and one label a row")
