"""Rows on which an exported program is checked: those of the run, or random ones that its inputs allow."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.deploy.program import Program, why
from jaxcnn.runs import rows_to_measure
from jaxcnn.runs.load import TrainedRun

MOST_RANDOM = 16
TOKENS = 2  # random integers are at most this, so that any vocabulary has them


def rows_for(
    loaded: Any, made: Program, rows: int | Mapping[str, Any], data: str | None = None, data_dir: str | None = None
) -> tuple[dict[str, np.ndarray], str]:
    """Return rows for a check, and where they are from.

    Args:
        loaded: result of `load_run`, or a program, which has no data.
        made: the program.
        rows: how many, or the rows themselves.
        data: place of the data, as in `rows_to_measure`; None for where the run read them.
        data_dir: folder with prepared TFDS sets.

    Raises:
        InputError: the rows lack an input, are none or of different numbers, or the data of a given place cannot be
            read.

    """
    if not isinstance(rows, int):
        if lacking := [name for name in made.inputs if name not in rows]:
            raise InputError(f"rows: have no {lacking[0]!r}; the program reads {', '.join(made.inputs)}")
        given = {name: np.asarray(rows[name]) for name in (*made.inputs, "label") if name in rows}
        counts = {name: len(x) if x.ndim else 0 for name, x in given.items()}
        if min(counts.values()) < 1 or len(set(counts.values())) > 1:
            shown = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
            raise InputError(f"rows: {shown}; must be as many, at least one")
        return given, "given rows"
    told = data is not None or data_dir is not None
    if told and not isinstance(loaded, TrainedRun):
        raise InputError(f"data={visible(data or data_dir)}: a program has no data of its own; give rows")
    source = "random rows"
    if isinstance(loaded, TrainedRun):
        try:
            return _of_run(loaded, made, rows, data, data_dir)
        except (InputError, OSError, AttributeError, KeyError) as error:
            if told:
                if isinstance(error, InputError):
                    raise
                raise InputError(f"data={visible(data or data_dir)}: cannot be read ({why(error)})") from error
            source = f"random rows, since the run's data cannot be read ({why(error).split(';')[0]})"
    entries = loaded.config["build"] if isinstance(loaded, TrainedRun) else None
    shapes = dict(made.inputs)
    if entries and "image" in entries:
        shapes["image"] = jax.ShapeDtypeStruct(tuple(entries["image"]["shape"]), entries["image"]["dtype"])
    return random_rows(shapes, min(rows, MOST_RANDOM)), source


def _of_run(loaded: Any, made: Program, count: int, data: str | None, data_dir: str | None) -> Any:
    found = rows_to_measure(loaded.config, data, data_dir=data_dir)
    drawn = np.random.default_rng(0).permutation(found.data.size)[:count]  # the first ones may be of one class
    taken = found.data.take(np.sort(drawn))
    read = next(iter(taken.once(taken.size))).at(0)
    wanted = (*made.inputs, *(["label"] if "label" in read else []))
    return {name: np.asarray(read[name])[: taken.size] for name in wanted}, f"{found.name}, {found.part}"


def random_rows(shapes: Mapping[str, Any], count: int) -> dict[str, np.ndarray]:
    """Return random rows of these inputs, each with values that it allows.

    Args:
        shapes: shape of a row and dtype by name. `"length"` is from 1 to the steps of the other inputs, and `"present"`
            0 or 1, with a 1 in each row; other integers are small, as any vocabulary has them.
        count: number of rows.

    """
    long = [x.shape[0] for name, x in shapes.items() if name not in ("image", "length", "present") and x.shape]
    if not long and "image" in shapes and len(shapes["image"].shape) > 1:
        long = [shapes["image"].shape[1]]  # the width, along which lines of text are read
    return {name: _random(x, count, name, min(long, default=1)) for name, x in shapes.items()}


def _random(row: Any, count: int, name: str, steps: int) -> np.ndarray:
    made, shape, dtype = np.random.default_rng(0), (count, *row.shape), np.dtype(row.dtype)
    if name == "length":
        return made.integers(1, steps, shape, endpoint=True).astype(dtype)
    if name == "present":
        found = made.integers(0, 2, shape)
        found[np.arange(count), np.arange(count) % shape[-1]] = 1
        return found.astype(dtype)
    if dtype == np.uint8:
        return made.integers(0, 256, shape, dtype)
    if dtype == np.bool_:
        return made.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        return made.integers(1, TOKENS, shape, endpoint=True).astype(dtype)
    return made.random(shape, np.float32).astype(dtype)
