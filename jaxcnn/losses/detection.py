"""Detection losses: one value per element or box, which the caller masks and adds up for each image.

Where padding may hold NaN, replace it before the loss as well as after it: a gradient times 0 is NaN as well.
"""

import jax
import jax.numpy as jnp

from jaxcnn.core.types import InputError, check_numbers
from jaxcnn.losses.classification import ROUNDING
from jaxcnn.ops import boxes as box_ops

Array = jax.Array


def sigmoid_focal_loss(logits: Array, labels: Array, alpha: float | None = 0.25, gamma: float = 2.0) -> Array:
    """Sigmoid cross-entropy in which elements that are already right count less.

    Args:
        logits: `[...]`, usually `[B, N, K]`, one independent yes-or-no question per element.
        labels: the same shape, in 0..1; between them, both terms count in proportion.
        alpha: weight of the label 1, in 0..1; the label 0 has `1 - alpha`. None: both have 1.
        gamma: at least 0; an element is weighted by `(1 - p) ** gamma`, where p is the probability of its label.

    Returns:
        `[...]`, in nats; NaN where a label is out of range.

    Raises:
        InputError: the labels have the wrong shape, or a value is out of range.

    Reference: Lin et al., 2017, arXiv:1708.02002.

    """
    check_numbers(gamma=gamma)
    if alpha is not None:
        check_numbers(alpha=alpha)
    if (alpha is not None and not 0 <= alpha <= 1) or not 0 <= gamma < float("inf"):
        raise InputError(f"alpha={alpha}, gamma={gamma}: must be in 0..1 (or None), and at least 0")
    logits, labels = _alike("logits", logits, "labels", labels)
    good = (labels >= -ROUNDING) & (labels <= 1 + ROUNDING)
    labels = jnp.where(good, labels, 0)
    yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    weights = (1, 1) if alpha is None else (alpha, 1 - alpha)
    right = weights[0] * labels * jnp.exp(gamma * no) * yes
    wrong = weights[1] * (1 - labels) * jnp.exp(gamma * yes) * no
    return jnp.where(good, -(right + wrong), jnp.nan)


def smooth_l1(outputs: Array, targets: Array, beta: float = 1.0) -> Array:
    """Absolute error less `beta / 2`, and below `beta` a parabola that continues it; `beta` times it is Huber's loss.

    Args:
        outputs: `[...]`, such as deltas `[B, N, 4]`.
        targets: the same shape.
        beta: error above which the loss is linear, at least 0; 0 is the absolute error.

    Returns:
        `[...]`, the value of each element; sum over the last axis for that of a box.

    Raises:
        InputError: the targets have the wrong shape, or `beta` is out of range.

    Reference: Girshick, 2015, arXiv:1504.08083.

    """
    check_numbers(beta=beta)
    if not 0 <= beta < float("inf"):
        raise InputError(f"beta={beta}: must be at least 0")
    outputs, targets = _alike("outputs", outputs, "targets", targets)
    error = jnp.abs(outputs - targets)
    if beta == 0:
        return error
    near = jnp.minimum(error, beta)  # squares of large errors overflow
    return jnp.where(error < beta, near**2 / (2 * beta), error - beta / 2)


def box_loss(outputs: Array, targets: Array, kind: box_ops.Kind = "giou") -> Array:
    """One minus the overlap of predicted and true boxes.

    Args:
        outputs: `[..., 4]`, yxyx.
        targets: the same shape, in the same unit.
        kind: `"iou"`, `"giou"` or `"diou"`, as in `ops.boxes.paired_iou`; the first has no gradient where boxes do not
            meet.

    Returns:
        `[...]`, the value of each box, in 0..1, and 0..2 for the other kinds.

    Raises:
        InputError: the targets have the wrong shape, or the kind is unknown.

    """
    outputs, targets = _alike("outputs", outputs, "targets", targets)
    return 1 - box_ops.paired_iou(outputs, targets, kind)


def _alike(name: str, a: Array, other: str, b: Array) -> tuple[Array, Array]:
    """Return both as floats of 32 bits or more; refuse shapes that would broadcast."""
    a, b = jnp.asarray(a), jnp.asarray(b)
    if a.shape != b.shape:
        raise InputError(f"{other} of shape {b.shape}: must have the shape {a.shape} of the {name}")
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    return a.astype(dtype), b.astype(dtype)
