"""The loss of connectionist temporal classification (CTC): which string a row of columns shows, not where."""

import jax
import jax.numpy as jnp
import optax

from jaxcnn.core.types import InputError

Array = jax.Array


def ctc(logits: Array, symbols: Array) -> Array:
    """Negative log-probability of each string, added up over all paths through the columns that give it.

    Args:
        logits: `[B, T, 1 + K]`, the blank first.
        symbols: int `[B, L]`, symbols in 0..K-1, then -1 after the end of a string.

    Returns:
        `[B]`, in nats. NaN where a symbol is not one of 0..K-1, where a symbol follows the end, and where the string
        does not fit: it needs a column per symbol, and one more between two equal symbols.

    Raises:
        InputError: the shapes do not fit, or the symbols are not integers.

    Reference:
        Graves et al., Connectionist Temporal Classification, 2006, doi:10.1145/1143844.1143891.

    """
    fitting = logits.ndim == 3 and symbols.ndim == 2 and len(logits) == len(symbols) and logits.shape[-1] > 1
    if not fitting or not jnp.issubdtype(symbols.dtype, jnp.integer):
        raise InputError(
            f"logits of shape {tuple(logits.shape)}, symbols of shape {tuple(symbols.shape)}, {symbols.dtype}: must be "
            "[B, T, 1 + K], the blank and K symbols, and integers [B, L]"
        )
    after = symbols == -1
    sound = well_formed(symbols, logits.shape[-1] - 1) & (columns_needed(symbols) <= logits.shape[1])
    number = jnp.where(after | ~sound[:, None], 0, symbols + 1)
    padding = [jnp.zeros(logits.shape[:2], jnp.float32), after.astype(jnp.float32)]
    values = optax.ctc_loss(logits.astype(jnp.float32), padding[0], number, padding[1], blank_id=0)
    return jnp.where(sound, values, jnp.nan)


def well_formed(symbols: Array, count: int) -> Array:
    """Whether all of `[B, L]` are symbols in 0..count-1, and then -1, `[B]`."""
    known = (symbols >= 0) & (symbols < count)
    return (known | (symbols == -1)).all(1) & (symbols[:, 1:] < 0).all(1, where=symbols[:, :-1] < 0)


def columns_needed(symbols: Array) -> Array:
    """Count the columns that a string needs: one per symbol, and a blank between equal symbols, `[B]`."""
    doubled = (symbols[:, 1:] == symbols[:, :-1]) & (symbols[:, 1:] >= 0)
    return (symbols >= 0).sum(1) + doubled.sum(1)
