"""Regression losses: one value per example, the mean over its columns."""

import jax
import jax.numpy as jnp
import optax

from jaxcnn.core.types import InputError, check_numbers

Array = jax.Array


def squared_error(outputs: Array, targets: Array) -> Array:
    """Compute the squared error.

    Args:
        outputs: `[B]` or `[B, K]`.
        targets: the same shape.

    Returns:
        `[B]`, the mean over the K columns.

    Raises:
        InputError: the targets have the wrong shape.

    """
    error = _error(outputs, targets)
    return (error**2).mean(-1)


def huber(outputs: Array, targets: Array, delta: float = 1.0) -> Array:
    """Huber's loss (1964, doi:10.1214/aoms/1177703732): half the squared error up to `delta`, and linear beyond.

    Args:
        outputs: `[B]` or `[B, K]`.
        targets: the same shape.
        delta: error above which the loss is linear, above 0.

    Returns:
        `[B]`, the mean over the K columns.

    Raises:
        InputError: the targets have the wrong shape, or `delta` is out of range.

    """
    check_numbers(delta=delta)
    if not 0 < delta < float("inf"):
        raise InputError(f"delta={delta}: must be positive")
    return optax.losses.huber_loss(_error(outputs, targets), delta=delta).mean(-1)


def _error(outputs: Array, targets: Array) -> Array:
    if outputs.shape != targets.shape:
        raise InputError(
            f"outputs of shape {outputs.shape}, targets of shape {targets.shape}: must have the same shape"
        )
    error = outputs.astype(jnp.float32) - targets.astype(jnp.float32)
    return error[:, None] if error.ndim == 1 else error
