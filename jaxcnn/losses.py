"""Losses that optax lacks in this form: values per example; the task sums them with their weights."""

import jax
import jax.numpy as jnp
import optax

Array = jax.Array


def cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """Softmax cross-entropy for class indices or for probabilities.

    Args:
        logits: `[..., K]`.
        labels: int `[...]` in 0..K-1, or float `[..., K]` that sum to one (mixup, distillation).
        label_smoothing: share spread evenly over all classes, in [0, 1] (Szegedy et al., 2015, arXiv:1512.00567).

    Returns:
        `[...]`, natural-log units.

    """
    logits = _wide(logits)
    if jnp.issubdtype(labels.dtype, jnp.integer) and not label_smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        labels = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32)
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(labels, label_smoothing))


def binary_cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """Sigmoid cross-entropy, averaged over the last axis.

    Args:
        logits: `[..., K]`, one independent yes-or-no question each.
        labels: `[..., K]`, in 0..1.
        label_smoothing: how far labels are pulled towards one half, in [0, 1].

    Returns:
        `[...]`, natural-log units.

    """
    labels = labels.astype(jnp.float32) * (1 - label_smoothing) + 0.5 * label_smoothing
    return optax.sigmoid_binary_cross_entropy(_wide(logits), labels).mean(-1)


def _wide(logits: Array) -> Array:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
