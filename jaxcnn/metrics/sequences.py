"""Metrics of strings that are read from columns: exact matches, and the character error rate."""

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxcnn.core.types import Batch, InputError, Mean, Metric, check_whole, row_mask
from jaxcnn.metrics.sums import entry
from jaxcnn.ops.ctc import Decoded, ctc_beam, ctc_greedy

Array = jax.Array


def edit_distance(first: Array, second: Array) -> Array:
    """Fewest symbols to insert, delete or replace to make one string the other (Levenshtein, 1966).

    Args:
        first: int `[B, L]`, -1 after the end of a string.
        second: int `[B, M]`, in the same form.

    Returns:
        int32 `[B]`.

    Raises:
        InputError: the shapes do not fit.

    """
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second):
        raise InputError(f"strings of shapes {tuple(first.shape)}, {tuple(second.shape)}: must be [B, L] and [B, M]")
    for name, x in (("first", first), ("second", second)):
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise InputError(f"{name} of dtype {x.dtype}: must be integers, one per symbol")
        if not isinstance(x, Tracer) and ((x[:, 1:] >= 0) & (x[:, :-1] < 0)).any():
            raise InputError(f"{name}: has a symbol after -1, which marks the end of a string")
    place = jnp.arange(second.shape[1] + 1, dtype=jnp.int32)

    def step(before: Array, symbol: Array) -> tuple[Array, None]:
        wrong = (second != symbol[:, None]).astype(jnp.int32)
        deleted = before + 1
        reached = deleted.at[:, 1:].min(before[:, :-1] + wrong)
        # inserting costs 1 a place: the minimum over all places before, brought to a common origin
        inserted = jax.lax.cummin(reached - place[None], axis=1) + place[None]
        return jnp.where((symbol >= 0)[:, None], inserted, before), None

    start = jnp.broadcast_to(place[None], (len(first), len(place)))
    last, _ = jax.lax.scan(step, start, first.T)
    return jnp.take_along_axis(last, (second >= 0).sum(1)[:, None], 1)[:, 0]


def exact_match(beams: int = 1) -> Metric:
    """Share of the strings that are read without an error; logits `[B, T, 1 + K]`, `"symbols"` `[B, L]`.

    Args:
        beams: beams of the search; 1 reads the best symbol of each column.

    """
    check_beams(beams)

    def metric(logits: Array, batch: Batch) -> Mean:
        found, counts = _read(logits, beams), row_mask(batch) > 0
        right = (edit_distance(found.symbols, entry(batch, "symbols")) == 0).astype(jnp.float32)
        right = jnp.where(jnp.isnan(found.log_probability), jnp.nan, right)
        return Mean(jnp.where(counts, right, 0).sum(), counts.sum(dtype=jnp.float32))

    return metric


def character_error_rate(beams: int = 1) -> Metric:
    """Edit distance between what is read and what is true, divided by the number of true symbols.

    Both are added up over all rows first, so that a long string counts more than a short one. More symbols than there
    are can be wrong, because some may be read that are not there.

    Args:
        beams: as in `exact_match`.

    """
    check_beams(beams)

    def metric(logits: Array, batch: Batch) -> Mean:
        found, counts = _read(logits, beams), row_mask(batch) > 0
        wrong = edit_distance(found.symbols, entry(batch, "symbols")).astype(jnp.float32)
        wrong = jnp.where(jnp.isnan(found.log_probability), jnp.nan, wrong)
        length = (batch["symbols"] >= 0).sum(1)
        return Mean(jnp.where(counts, wrong, 0).sum(), jnp.where(counts, length, 0).sum(dtype=jnp.float32))

    return metric


def check_beams(beams: int) -> None:
    """Refuse fewer than one beam."""
    check_whole("beams", beams)
    if beams < 1:
        raise InputError(f"beams={beams}: must be at least 1")


def _read(logits: Array, beams: int) -> Decoded:
    return ctc_greedy(logits) if beams == 1 else ctc_beam(logits, beams)
