"""The quantile loss of forecasts, one value per forecast step."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxcnn.core.types import InputError

Array = jax.Array


def pinball(outputs: Array, targets: Array, quantiles: Sequence[float]) -> Array:
    """Compute the quantile loss (Koenker and Bassett, 1978, doi:10.2307/1913643), also called pinball loss.

    It is `q e` for an error `e = target - output` above 0 and `(q - 1) e` below, so that its expectation is lowest at
    the quantile `q`.

    Args:
        outputs: `[B, ..., Q]`, a value for each quantile.
        targets: `[B, ...]`.
        quantiles: the Q quantiles, each between 0 and 1.

    Returns:
        `[B, ...]`, the mean over the quantiles.

    Raises:
        InputError: the shapes do not fit, or a quantile is out of range.

    """
    check_quantiles(quantiles)
    if outputs.shape != (*targets.shape, len(quantiles)):
        raise InputError(
            f"outputs of shape {outputs.shape}, targets of shape {targets.shape}, {len(quantiles)} quantiles: outputs "
            "must have the shape of the targets and an axis of the quantiles"
        )
    error = targets[..., None].astype(jnp.float32) - outputs.astype(jnp.float32)
    q = jnp.asarray(quantiles, jnp.float32).reshape((1,) * targets.ndim + (-1,))
    return jnp.where(error >= 0, q * error, (q - 1) * error).mean(-1)


def check_quantiles(quantiles: Sequence[float]) -> None:
    """Refuse quantiles that are not between 0 and 1, or not ascending."""
    inside = all(0 < q < 1 for q in quantiles)
    if not quantiles or not inside or any(a >= b for a, b in zip(quantiles, quantiles[1:], strict=False)):
        raise InputError(
            f"quantiles={tuple(quantiles)}: must be between 0 and 1 and ascending, such as (0.1, 0.5, 0.9)"
        )
