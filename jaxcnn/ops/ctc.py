"""Decoding of connectionist temporal classification (CTC): from logits per column to a string of symbols.

Reference: Graves et al., Connectionist Temporal Classification, 2006, doi:10.1145/1143844.1143891. A column shows the
blank, which is logit 0, or one of K symbols. A string is what is left of a path through the columns when repeated
symbols become one and blanks are dropped. Shapes are static, so both decoders can be compiled.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcnn.core.types import InputError, check_whole

Array = jax.Array
END = -1  # in place of a symbol, after the end of a string
NEVER = -1e30  # log-probability of what cannot be; -inf would give NaN where two of them are added


class Decoded(NamedTuple):
    """Strings and their log-probabilities.

    Attributes:
        symbols: int32 `[B, L]` in 0..K-1, -1 after the end of a string.
        log_probability: float32 `[B]`; NaN where a logit of the row is not a number.

    """

    symbols: Array
    log_probability: Array


def ctc_greedy(logits: Array) -> Decoded:
    """Return the string of the most probable path: the best symbol of each column.

    Args:
        logits: `[B, T, 1 + K]`, the blank first.

    Returns:
        Strings of up to T symbols, and the log-probability of the path, not of the string.

    Raises:
        InputError: the logits have another rank, or no symbol.

    """
    shares = _shares(logits)
    best = shares.argmax(-1).astype(jnp.int32)  # [B, T]
    before = jnp.pad(best[:, :-1], ((0, 0), (1, 0)))
    kept = (best > 0) & (best != before)
    place = jnp.where(kept, jnp.cumsum(kept, 1) - 1, best.shape[1])  # past the end, where nothing is written
    row = jnp.arange(len(best))[:, None]
    symbols = jnp.full(best.shape, END, jnp.int32).at[row, place].set(best - 1, mode="drop")
    return Decoded(symbols, shares.max(-1).sum(-1))


def ctc_beam(logits: Array, beams: int = 10, *, longest: int | None = None) -> Decoded:
    """Return the most probable string that a prefix beam search finds: it adds up the paths of each string.

    With as many beams as there are strings, it finds the most probable one.

    Args:
        logits: `[B, T, 1 + K]`, the blank first.
        beams: prefixes that are kept after each column, at least 1.
        longest: most symbols of a string; None for T.

    Returns:
        Strings of up to `longest` symbols, and their log-probability, of which paths through prefixes that were dropped
        are missing.

    Raises:
        InputError: the logits have another rank, or no symbol; or a number is out of range.

    Reference:
        Hannun et al., First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent DNNs,
        2014, arXiv:1408.2873, algorithm 1, without a language model.

    """
    shares = _shares(logits)
    longest = shares.shape[1] if longest is None else longest
    check_whole("beams", beams, 1)
    check_whole("longest", longest, 1)
    return Decoded(*jax.vmap(lambda one: _search(one, beams, longest))(shares))


def _shares(logits: Array) -> Array:
    """Return log-probabilities `[B, T, 1 + K]`, float32; NaN for all of a row with a NaN."""
    if logits.ndim != 3 or logits.shape[-1] < 2:
        raise InputError(f"logits of shape {tuple(logits.shape)}: must be [B, T, 1 + K], the blank and K symbols")
    return jax.nn.log_softmax(logits.astype(jnp.float32), -1)


def _search(shares: Array, beams: int, longest: int) -> tuple[Array, Array]:
    """Search the best string of one row, `[T, 1 + K]`; prefixes are `[W, longest]`."""
    symbols = shares.shape[-1] - 1
    unsound = jnp.isnan(shares).any()
    shares = jnp.maximum(jnp.where(unsound, 0, shares), NEVER)
    start = (
        jnp.full((beams, longest), END, jnp.int32),
        jnp.zeros(beams, jnp.int32),
        jnp.full(beams, NEVER).at[0].set(0.0),  # of paths that end with a blank
        jnp.full(beams, NEVER),  # of paths that end with the last symbol
    )
    rows, place = jnp.arange(beams), jnp.arange(longest)

    def column(carry: tuple[Array, ...], share: Array) -> tuple[tuple[Array, ...], None]:
        prefix, length, blank, symbol = carry
        whole = jnp.logaddexp(blank, symbol)
        last = jnp.where(length > 0, prefix[rows, jnp.maximum(length - 1, 0)], END)
        # a symbol after itself needs a blank between
        repeated = last[:, None] == jnp.arange(symbols)[None]
        longer = jnp.where(repeated, blank[:, None], whole[:, None]) + share[None, 1:]
        longer = jnp.where((length < longest)[:, None], longer, NEVER)
        # prefix j may be prefix i and one more symbol: then both lead to the same string
        same = (prefix[:, None] == prefix[None]) | (place[None, None] >= length[:, None, None])
        follows = same.all(-1) & (length[None] == length[:, None] + 1)  # [i, j]
        gained = jnp.where(follows, longer[:, jnp.maximum(last, 0)], NEVER)
        stays = jnp.where(length > 0, symbol + share[1:][jnp.maximum(last, 0)], NEVER)
        stays = jnp.logaddexp(stays, jax.nn.logsumexp(gained, 0))
        taken = (follows[:, :, None] & (last[None, :, None] == jnp.arange(symbols)[None, None])).any(1)
        longer = jnp.where(taken, NEVER, longer)
        ended = whole + share[0]
        score = jnp.concatenate([jnp.logaddexp(ended, stays), longer.ravel()])
        _, chosen = jax.lax.top_k(score, beams)
        kept, parent = chosen < beams, jnp.where(chosen < beams, chosen, (chosen - beams) // symbols)
        added = jnp.where(kept, END, (chosen - beams) % symbols)
        prefix, length = prefix[parent], length[parent]
        prefix = jnp.where(~kept[:, None] & (place[None] == length[:, None]), added[:, None], prefix)
        new = longer.ravel()[jnp.maximum(chosen - beams, 0)]
        here = jnp.minimum(chosen, beams - 1)
        blank, symbol = jnp.where(kept, ended[here], NEVER), jnp.where(kept, stays[here], new)
        return (prefix, length + ~kept, jnp.maximum(blank, NEVER), jnp.maximum(symbol, NEVER)), None

    (prefix, _, blank, symbol), _ = jax.lax.scan(column, start, shares)
    total = jnp.logaddexp(blank, symbol)
    best = total.argmax()
    found = jnp.where(unsound, END, prefix[best])
    return found, jnp.where(unsound, jnp.nan, total[best])
