"""An index of vectors with names, kept in a file of its own; `searching` finds entries in it."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from jaxcnn.core import files
from jaxcnn.core.schema import fitted
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.weights import tensors

Measure = Literal["cosine", "euclidean"]
MEASURES = ("cosine", "euclidean")
FORMAT, KEY = 1, "jaxcnn_index"
MOST_VALUES = 2**31  # numbers of an index: 8 GiB
MOST_NAMES = 2**25  # bytes of the names in a file
TOLERANCE = 1e-3  # how far the length of a stored unit vector may be from 1


class Index(NamedTuple):
    """Vectors, and what each of them shows.

    Attributes:
        vectors: float32 `[N, D]`, of length 1 for `"cosine"`.
        names: what each shows, such as a person or a class; names may repeat.
        files: where each comes from, or empty texts.
        measure: `"cosine"` or `"euclidean"`.
        run: digest of the run that made the vectors; empty if it is not known.

    """

    vectors: np.ndarray
    names: tuple[str, ...]
    files: tuple[str, ...]
    measure: Measure = "cosine"
    run: str = ""


class _Described(TypedDict):
    format: int
    measure: Measure
    run: str
    names: list[str]
    files: list[str]


def enrol(
    index: Index | None, vectors: Any, names: Sequence[str], *, files: Sequence[str] | None = None,
    run: str = "", measure: Measure = "cosine",
) -> Index:  # fmt: skip
    """Add vectors to an index, or make one.

    Args:
        index: the index to extend; None for a new one.
        vectors: `[N, D]`; for `"cosine"` they are divided by their lengths.
        names: what each shows.
        files: where each comes from.
        run: digest of the run that made them, `Embedder.run`; empty if it is not known.
        measure: of a new index.

    Returns:
        A new `Index`; the old one does not change.

    Raises:
        InputError: a shape or a value is wrong, a name or file is not a string, or the index is of another run.

    """
    names, files = _texts("names", names), None if files is None else _texts("files", files)
    if index is not None:
        check_run(index, run)
        measure, run = index.measure, index.run or run
    if measure not in MEASURES:
        raise InputError(f"measure={measure!r}: must be one of {', '.join(MEASURES)}")
    rows = unit_rows(vectors, measure)
    places = [""] * len(rows) if files is None else list(files)
    if not len(names) == len(places) == len(rows):
        raise InputError(f"{len(rows)} vectors, {len(names)} names, {len(places)} files: must be as many")
    if index is None:
        return Index(rows, tuple(names), tuple(places), measure, run)
    check_width(index, rows)
    return Index(np.concatenate([index.vectors, rows]), (*index.names, *names), (*index.files, *places), measure, run)


def _texts(what: str, values: Any) -> list[str]:
    """Return a list of strings; refuse a single string, which would be split into letters, and other types."""
    if isinstance(values, str):
        raise InputError(f"{what}={visible(values)!r}: must be a list, one for each vector")
    texts = [os.fspath(one) if isinstance(one, os.PathLike) else one for one in values]
    for one in texts:
        if not isinstance(one, str):
            raise InputError(f"{what}: {visible(repr(one))[:80]} is not a string; convert it with str")
    return [str(one) for one in texts]


def check_run(index: Index, run: str) -> None:
    """Refuse vectors of another run: distances between different networks mean nothing.

    Raises:
        InputError: both runs are known, and they differ.

    """
    if index.run and run and index.run != run:
        raise InputError(
            f"the index is of another run ({visible(index.run)[:12]}..., not {run[:12]}...); make it with this one"
        )


def save_index(index: Index, path: str | os.PathLike) -> None:
    """Write an index as a `.safetensors` file, completely or not at all: its vectors, and the rest as JSON metadata.

    Raises:
        InputError: another suffix, names that are too long together, or the file cannot be written.

    """
    from safetensors.numpy import save

    path = _named(path)
    described = {
        "format": FORMAT, "measure": index.measure, "run": index.run, "names": list(index.names),
        "files": list(index.files),
    }  # fmt: skip
    text = json.dumps(described)
    if len(text) > MOST_NAMES:
        raise InputError(
            f"{visible(path)}: names of {len(text):,} bytes; must be {MOST_NAMES:,} at most, use shorter ones"
        )
    data = save({"vectors": np.ascontiguousarray(index.vectors, np.float32)}, {KEY: text})
    try:
        files.write_bytes(path, data)
    except OSError as error:
        raise InputError(
            f"{visible(path)}: cannot be written ({error.strerror or reason(error)}); give another file"
        ) from error


def load_index(path: str | os.PathLike) -> Index:
    """Read an index; nothing in the file is trusted.

    Raises:
        InputError: the file is not there, is damaged, or is no index.

    """
    path = _named(path)
    if not path.exists():
        raise InputError(f"{visible(path)}: no such index; make it with jaxcnn search RUN --add FOLDER --index FILE")
    found, metadata = tensors.read(path, lambda metadata: MOST_VALUES)
    if KEY not in metadata or list(found) != ["vectors"]:
        raise InputError(f"{visible(path)}: holds no index (no {KEY} in it); give a file of jaxcnn search --add")
    where = visible(path)
    described = fitted(_Described, files.parse_json(metadata[KEY], where), f"{where}: damaged index")
    vectors = found["vectors"]
    count = len(described["names"])
    if described["format"] != FORMAT:
        raise InputError(
            f"{where}: format {described['format']} of an index, not {FORMAT}; use the version that wrote it"
        )
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not vectors.size:
        raise InputError(f"{where}: damaged index: vectors of shape {vectors.shape}, {vectors.dtype}; make it again")
    if not count == len(described["files"]) == len(vectors):
        raise InputError(f"{where}: damaged index: {len(vectors)} vectors for {count} names; make it again")
    sound = np.isfinite(vectors).all()
    if sound and described["measure"] == "cosine":
        sound = bool((np.abs(np.sqrt(np.square(vectors).sum(-1)) - 1) <= TOLERANCE).all())
    if not sound:
        raise InputError(f"{where}: damaged index: vectors that are not finite or not of length 1; make it again")
    return Index(vectors, tuple(described["names"]), tuple(described["files"]), described["measure"], described["run"])


def _named(path: str | os.PathLike) -> pathlib.Path:
    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{visible(path)}: an index is a .safetensors file; name it so")
    return path


def unit_rows(vectors: Any, measure: str) -> np.ndarray:
    """Return vectors as float32, of length 1 for cosines."""
    rows = np.asarray(vectors)
    if rows.ndim != 2 or not rows.size or rows.dtype.kind not in "fiu":
        raise InputError(f"vectors of shape {rows.shape}, {rows.dtype}: must be numbers [N, D], at least one row")
    rows = rows.astype(np.float32)
    if not np.isfinite(rows).all():
        raise InputError(f"vectors: {int((~np.isfinite(rows).all(1)).sum())} of {len(rows)} are not finite")
    if measure != "cosine":
        return rows
    length = np.sqrt(np.square(rows.astype(np.float64)).sum(-1, keepdims=True))
    if not length.all():
        raise InputError("vectors: one is 0, which has no direction; leave it out, or use measure='euclidean'")
    return (rows / length).astype(np.float32)


def check_width(index: Index, rows: np.ndarray) -> None:
    """Refuse vectors of another length than those of the index."""
    if rows.shape[1] != index.vectors.shape[1]:
        raise InputError(
            f"vectors of {rows.shape[1]} numbers: those of the index have {index.vectors.shape[1]}; use its run"
        )
