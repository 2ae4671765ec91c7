"""Classification losses that optax lacks in this form; they return one value per example, and the task adds them up.

If a label is out of range, the value of its example is NaN and its gradient is 0.
"""

import jax
import jax.numpy as jnp
import optax

from jaxcnn.core.types import InputError

Array = jax.Array
ROUNDING = 1e-2  # tolerance of mixed labels around 0..1


def cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0, focal: float = 0.0) -> Array:
    """Softmax cross-entropy for class indices or for probabilities.

    Args:
        logits: `[..., K]`.
        labels: int `[...]` in 0..K-1, or float `[..., K]` that sum to one (mixup, distillation).
        label_smoothing: share spread evenly over all classes, in [0, 1] (Szegedy et al., 2015, arXiv:1512.00567).
        focal: gamma of the focal loss, at least 0; each class is weighted by `(1 - p) ** gamma` (Lin et al., 2017,
            arXiv:1708.02002).

    Returns:
        `[...]`, in nats.

    Raises:
        InputError: the labels have the wrong shape, an option is out of range, or there is one logit.

    """
    _check(label_smoothing, focal)
    if logits.shape[-1] == 1:
        raise InputError("one logit: its softmax is 1 whatever it is; use binary_cross_entropy, or two logits")
    logits, whole = _wide(logits), jnp.issubdtype(labels.dtype, jnp.integer)
    _same("labels", labels, logits.shape[:-1] if whole else logits.shape)
    if not whole:
        return _soft_cross_entropy(logits, labels, label_smoothing, focal)
    labels = labels.astype(jnp.promote_types(labels.dtype, jnp.int32))  # uint8 could not be compared with 256
    if label_smoothing or focal:
        values = _soft_cross_entropy(
            logits, jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32), label_smoothing, focal
        )
    else:
        values = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.where((labels >= 0) & (labels < logits.shape[-1]), values, jnp.nan)


def _soft_cross_entropy(logits: Array, labels: Array, label_smoothing: float, focal: float) -> Array:
    shares = (labels.min(-1) >= -ROUNDING) & (labels.sum(-1) <= 1 + ROUNDING)
    labels = jnp.where(shares[..., None], optax.smooth_labels(labels, label_smoothing), jnp.nan)
    if not focal:
        return optax.softmax_cross_entropy(logits, labels)
    log_p = jax.nn.log_softmax(logits)
    missing = jnp.maximum(-jnp.expm1(log_p), 1e-12)  # the gradient of a fractional power at 0 is infinite
    return -(labels * missing**focal * log_p).sum(-1)


def binary_cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0, focal: float = 0.0) -> Array:
    """Sigmoid cross-entropy, averaged over the last axis.

    Args:
        logits: `[..., K]`, one independent yes-or-no question per column.
        labels: `[..., K]`, in 0..1.
        label_smoothing: how far labels are pulled towards one half, in [0, 1].
        focal: gamma of the focal loss, at least 0, as in `cross_entropy`.

    Returns:
        `[...]`, in nats.

    Raises:
        InputError: the labels have the wrong shape, or an option is out of range.

    """
    _check(label_smoothing, focal)
    _same("labels", labels, logits.shape)
    labels = labels.astype(jnp.float32)
    good = (labels >= -ROUNDING) & (labels <= 1 + ROUNDING)
    labels = jnp.where(good, labels, 0) * (1 - label_smoothing) + 0.5 * label_smoothing
    if not focal:
        values = optax.sigmoid_binary_cross_entropy(_wide(logits), labels).mean(-1)
    else:
        yes, no = jax.nn.log_sigmoid(_wide(logits)), jax.nn.log_sigmoid(-_wide(logits))
        values = -(labels * jnp.exp(focal * no) * yes + (1 - labels) * jnp.exp(focal * yes) * no).mean(-1)
    return jnp.where(good.all(-1), values, jnp.nan)


def _check(label_smoothing: float, focal: float) -> None:
    if not 0 <= label_smoothing <= 1 or not 0 <= focal < float("inf"):
        raise InputError(f"label_smoothing={label_smoothing}, focal={focal}: must be in 0..1, and at least 0")


def _same(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Refuse shapes that would broadcast, so that every logit meets every label."""
    if array.shape != shape:
        raise InputError(f"{name} of shape {array.shape}, {array.dtype}: must have shape {shape} for these logits")


def _wide(logits: Array) -> Array:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
