"""Sequences: read a string of symbols from the columns of an image, or from the steps of sound or of a series."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import losses, metrics
from jaxcnn.core.types import Batch, InputError, Task, is_integer, row_mask
from jaxcnn.losses.sequences import columns_needed, well_formed
from jaxcnn.ops import Decoded, ctc_beam, ctc_greedy
from jaxcnn.tasks import pixels
from jaxcnn.tasks.fields import entry, fields
from jaxcnn.tasks.model import from_model
from jaxcnn.tasks.weighting import check_weights

Array = jax.Array
CERTAIN = 1e5  # distance of logits in columns after the end, where nothing but the blank is possible


def sequence(
    model: Any,
    *,
    allow_empty: bool = False,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    size: tuple[int, int] | None = None,
    resize: int | None = None,
    interpolation: str = "bilinear",
    field: str = "image",
    also: Sequence[str] = (),
) -> Task:
    """Make a task that reads strings of symbols from left to right, without knowing where they are (CTC).

    A batch holds the strings under `"symbols"`: int `[B, L]`, symbols in 0..K-1, then -1 after the end. If the model
    also gets `"length"` `[B]`, columns of the output beyond that share of the input can only be blank.

    Args:
        model: a network from images to logits `[B, T, 1 + K]`, the blank first, with `num_classes` K, such as
            `models.text_line`.
        allow_empty: whether rows may have no symbols at all. By default they are refused, because they are more often
            rows without a label than images of nothing.
        mean: mean of the training pixels, in 0..1: one number or one per channel. It is saved with the run.
        std: standard deviation of the training pixels, in the same form.
        size: height and width to which images are resized on the device; None keeps theirs.
        resize: length of the shorter side before `size` is cropped from the centre; see `prepare`.
        interpolation: `"bilinear"` or `"bicubic"`.
        field: the entry of the batch that the model gets, see `classification`.
        also: further entries that the model gets as keyword arguments, such as `("length",)`.

    Returns:
        A `Task` whose outputs are logits `[B, T, 1 + K]`, with the metrics `loss` (nats per string), `count`,
        `exact_match` and `character_error_rate`, both of the best symbol in each column. It monitors the lowest
        `character_error_rate`. It refuses strings with other symbols, without symbols, or with more than the columns
        can show; in a compiled program, these make the loss NaN. `decoded` turns the outputs into strings.

    Raises:
        InputError: the model has no number of symbols, or a value is outside its range.

    Reference:
        Graves et al., Connectionist Temporal Classification, 2006, doi:10.1145/1143844.1143891.

    """
    found: Any = getattr(model, "num_classes", None)
    if not is_integer(found) or found < 1:
        raise InputError(f"num_classes={found}: must be at least 1, the number of symbols without the blank")
    symbols, end = int(found), functools.partial(_ended, field, "length" in also)

    def criterion(outputs: Array, batch: Batch) -> tuple[Array, Array]:
        if outputs.ndim != 3 or outputs.shape[-1] != symbols + 1:
            raise InputError(
                f"outputs of shape {tuple(outputs.shape)}: must be [B, T, {symbols + 1}], a blank and {symbols} symbols"
            )
        values = losses.ctc(end(outputs, batch), batch["symbols"])
        fits = columns_needed(batch["symbols"]) <= _columns(field, "length" in also, outputs, batch)
        return jnp.where(fits, values, jnp.nan), jnp.ones_like(values)

    measured = {
        "exact_match": lambda outputs, batch: metrics.exact_match()(end(outputs, batch), batch),
        "character_error_rate": lambda outputs, batch: metrics.character_error_rate()(end(outputs, batch), batch),
    }
    how = {"mean": mean, "std": std, "size": size, "resize": resize, "interpolation": interpolation, "dims": 2}
    given = fields(field, also, how)
    meant = functools.partial(_canonical, symbols, allow_empty)
    made = from_model(model, criterion, measured, given.inputs, targets=meant, keywords=given.keywords)

    @functools.wraps(made.predict)
    def predict(variables: Any, batch: Batch) -> Array:
        return end(made.predict(variables, batch), batch)

    @functools.cache
    def columns(rows: tuple[tuple[str, tuple[int, ...], str], ...]) -> int:
        batch = {name: jax.ShapeDtypeStruct((1, *shape), dtype) for name, shape, dtype in rows}
        variables = jax.eval_shape(made.init, jax.random.key(0), batch)
        return jax.eval_shape(made.predict, variables, batch).shape[1]

    def check(rows: Batch) -> None:
        check_weights("sample_weight", rows)
        if field == "image":
            pixels.check_image(rows)
        if not (pixels.concrete(rows.get("symbols", 0)) and pixels.concrete(rows.get("row_mask", 1.0))):
            return
        given = tuple((name, np.shape(rows[name])[1:], str(rows[name].dtype)) for name in (field, *also))
        count = columns(given)
        length = np.asarray(rows["length"]) if "length" in also else None
        available = count if length is None else _share(length, count, _steps(field, rows))
        _check_strings(symbols, allow_empty, available, rows)

    shown: dict[str, Any] = {
        "headline": ("loss", "exact_match"), "monitor": ("character_error_rate", "min"), "shares": ("exact_match",),
    }  # fmt: skip
    return given.strict(made._replace(predict=predict, check=check, **shown))


def decoded(logits: Array, beams: int = 1) -> Decoded:
    """Turn logits `[B, T, 1 + K]` into strings: `symbols` `[B, T]`, -1 after the end, and `log_probability` `[B]`.

    Args:
        logits: outputs of a sequence task.
        beams: beams of the search of `ops.ctc_beam`; 1 reads the best symbol of each column.

    """
    return ctc_greedy(logits) if beams == 1 else ctc_beam(logits, beams)


def _steps(field: str, batch: Batch) -> int:
    """Return the steps of the input that become columns: the width of images, the length of anything else."""
    return np.shape(entry(batch, field))[2 if field == "image" else 1]


def _share(length: Any, columns: int, steps: int) -> Any:
    """Return how many columns show something, where `length` of the steps do, rounded up."""
    return -(-length * columns // steps)


def _columns(field: str, ends: bool, outputs: Array, batch: Batch) -> Array | int:
    count = outputs.shape[1]
    return _share(entry(batch, "length").astype(jnp.int32), count, _steps(field, batch)) if ends else count


def _ended(field: str, ends: bool, outputs: Array, batch: Batch) -> Array:
    """Leave nothing but the blank in the columns after the end of a row, which changes neither loss nor reading."""
    if not ends:
        return outputs
    after = jnp.arange(outputs.shape[1])[None] >= jnp.asarray(_columns(field, ends, outputs, batch))[:, None]
    blank = jnp.where(jnp.arange(outputs.shape[-1]) == 0, 0.0, -CERTAIN)
    return jnp.where(after[..., None], blank[None, None], outputs)


def _strings(batch: Batch) -> Any:
    """Return the strings of a batch; refuse other shapes and types."""
    if "symbols" not in batch:
        raise InputError(f"the batch has no 'symbols', only {', '.join(sorted(batch))}; name the strings 'symbols'")
    found = batch["symbols"] if hasattr(batch["symbols"], "dtype") else np.asarray(batch["symbols"])
    if found.ndim != 2 or not jnp.issubdtype(found.dtype, jnp.integer):
        raise InputError(
            f"'symbols' of shape {tuple(found.shape)}, {found.dtype}: must be integers [N, L], a number per symbol and "
            "-1 after the end"
        )
    return found


def _canonical(count: int, empty: bool, batch: Batch) -> tuple[Batch, Array]:
    """Bring strings to int32; rows with an invalid string get no symbol, and are named."""
    found = jnp.asarray(_strings(batch)).astype(jnp.int32)
    known = row_mask(batch) > 0
    good = well_formed(found, count) & (empty | (found >= 0).any(1))
    kept = jnp.where((good & known)[:, None], found, -1)
    return {**batch, "symbols": kept, "row_mask": row_mask(batch) * good}, known & ~good


def _check_strings(count: int, empty: bool, columns: Any, rows: Batch) -> None:
    """Refuse strings that the task cannot learn, on the host."""
    found, kept = np.asarray(_strings(rows)).astype(np.int64), np.asarray(row_mask(rows)) > 0
    wrong = kept[:, None] & ((found < -1) | (found >= count))
    if wrong.any():
        row, place = np.argwhere(wrong)[0]
        raise InputError(
            f"'symbols' of row {row} has {found[row, place]}: symbols are 0 to {count - 1}, and -1 after the end"
        )
    late = kept & ((found[:, 1:] >= 0) & (found[:, :-1] < 0)).any(1)
    if late.any():
        raise InputError(f"'symbols' of row {late.argmax()} goes on after a -1: -1 marks the end; move it there")
    none = kept & (found < 0).all(1)
    if none.any() and not empty:
        raise InputError(
            f"'symbols' of row {none.argmax()} is empty: leave the row out, or give allow_empty=True if nothing is "
            "written there"
        )
    doubled = (found[:, 1:] == found[:, :-1]) & (found[:, 1:] >= 0)
    needed = (found >= 0).sum(1) + doubled.sum(1)
    long = kept & (needed > columns)
    if long.any():
        row = long.argmax()
        there = np.broadcast_to(columns, needed.shape)[row]
        raise InputError(
            f"'symbols' of row {row} needs {needed[row]} columns, one per symbol and one between equal symbols, but "
            f"the model has {there}; give wider images, or a model that pools less"
        )
