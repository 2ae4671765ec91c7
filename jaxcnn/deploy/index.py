"""An index of vectors with names, in a file of its own, and exact searches in it on the device.

Scores are similarities: cosines, or negative Euclidean distances. They are computed in float32 at the device's highest
precision, in blocks, so that memory does not grow with the index beyond the vectors themselves.
"""

import functools
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from jaxcnn.core import files
from jaxcnn.core.schema import fitted
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.deploy.embed import Embedder, embed_files, images_in
from jaxcnn.weights import tensors

Array = jax.Array
Measure = Literal["cosine", "euclidean"]
MEASURES = ("cosine", "euclidean")
FORMAT, KEY = 1, "jaxcnn_index"
MOST_VALUES = 2**31  # numbers of an index: 8 GiB
MOST_NAMES = 2**25  # bytes of the names in a file
BLOCK = 2**24  # values of one block of scores or differences
QUERIES = 256  # queries of one block
MOST_PAIRS = 10**6  # near duplicates of one answer
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


class Match(NamedTuple):
    """An entry of an index and its score."""

    name: str
    file: str
    score: float


class Verified(NamedTuple):
    """Whether a vector belongs to a name, and the best score among the name's entries."""

    accepted: bool
    score: float


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
        InputError: a shape or a value is wrong, or the index is of another run.

    """
    if index is not None:
        check_run(index, run)
        measure, run = index.measure, index.run or run
    if measure not in MEASURES:
        raise InputError(f"measure={measure!r}: must be one of {', '.join(MEASURES)}")
    rows = _rows(vectors, measure)
    places = [""] * len(rows) if files is None else list(files)
    if not len(names) == len(places) == len(rows):
        raise InputError(f"{len(rows)} vectors, {len(names)} names, {len(places)} files: must be as many")
    if index is None:
        return Index(rows, tuple(names), tuple(places), measure, run)
    _check_width(index, rows)
    return Index(np.concatenate([index.vectors, rows]), (*index.names, *names), (*index.files, *places), measure, run)


def check_run(index: Index, run: str) -> None:
    """Refuse vectors of another run: distances between different networks mean nothing.

    Raises:
        InputError: both runs are known, and they differ.

    """
    if index.run and run and index.run != run:
        raise InputError(
            f"the index is of another run ({visible(index.run)[:12]}..., not {run[:12]}...); make it with this one"
        )


def search(index: Index, queries: Any, k: int = 5) -> list[list[Match]]:
    """Find the most similar entries, exactly; of equal scores, the earlier entry comes first.

    Args:
        index: the index.
        queries: `[Q, D]`.
        k: entries per query, from 1 to those of the index.

    Returns:
        For each query its `k` matches, the best first.

    Raises:
        InputError: `k` is out of range, or a shape or value is wrong.

    """
    scores, places = nearest(index, queries, k)
    return [
        [Match(index.names[i], index.files[i], float(s)) for s, i in zip(row, at, strict=True)]
        for row, at in zip(scores, places.tolist(), strict=True)
    ]


def nearest(index: Index, queries: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scores `[Q, k]` and row numbers `[Q, k]` of the most similar entries; see `search`."""
    count = len(index.vectors)
    if not 1 <= k <= count:
        raise InputError(f"k={k}: must be from 1 to the {count:,} vectors of the index")
    rows = _rows(queries, index.measure)
    _check_width(index, rows)
    known = jnp.asarray(index.vectors)
    width, scores, places = min(QUERIES, len(rows)), [], []
    size = min(_block(width, rows.shape[1], index.measure), count)
    for start in range(0, len(rows), width):
        part = np.zeros((width, rows.shape[1]), np.float32)
        part[: len(rows[start : start + width])] = rows[start : start + width]
        found = _best(known, jnp.asarray(part), k, size, index.measure)
        left = min(width, len(rows) - start)
        scores.append(np.asarray(found[0])[:left])
        places.append(np.asarray(found[1])[:left])
    return np.concatenate(scores), np.concatenate(places)


def verify(index: Index, vector: Any, name: str, threshold: float) -> Verified:
    """Say whether a vector belongs to a name.

    Args:
        index: the index.
        vector: `[D]`.
        name: one of the index's names.
        threshold: lowest score that is accepted; choose it with `metrics.tar_at_far` on other people.

    Raises:
        InputError: the index does not have the name, or a shape or value is wrong.

    """
    kept = [i for i, known in enumerate(index.names) if known == name]
    if not kept:
        raise InputError(f"name={visible(name)!r}: not in the index; enrol it first")
    few = index._replace(
        vectors=index.vectors[kept], names=(name,) * len(kept), files=tuple(index.files[i] for i in kept)
    )
    score = search(few, np.asarray(vector)[None], 1)[0][0].score
    return Verified(score >= threshold, score)


def identify(index: Index, queries: Any, threshold: float | None = None) -> list[Match | None]:
    """Return the most similar entry of each query, or None where its score is below the threshold.

    Args:
        index: the index.
        queries: `[Q, D]`.
        threshold: lowest score that counts; None always answers, also for what the index does not have.

    Raises:
        InputError: a shape or value is wrong.

    """
    best = [row[0] for row in search(index, queries, 1)]
    return [one if threshold is None or one.score >= threshold else None for one in best]


def near_duplicates(
    where: Index | str | os.PathLike, threshold: float, use: Embedder | None = None,
    unreadable: Callable[[str], None] | None = None,
) -> list[tuple[Match, Match]]:  # fmt: skip
    """Find all pairs of entries, or of the images in a folder, whose score reaches a threshold.

    Args:
        where: an index, or a folder of images.
        threshold: lowest score, such as a cosine of 0.98.
        use: how images become vectors, from `embedder`; for a folder.
        unreadable: see `embed_files`.

    Returns:
        Pairs, the most similar first; both have the score of the pair.

    Raises:
        InputError: a folder without `use` or without images, or too many pairs.

    """
    if isinstance(where, Index):
        index = where
    elif use is None:
        raise InputError(f"{visible(where)}: give use=embedder(run), which turns the images of a folder into vectors")
    else:
        vectors, found = embed_files(use, images_in(where), unreadable=unreadable)
        index = enrol(None, vectors, [pathlib.Path(name).name for name in found], files=found, run=use.run)
    pairs: list[tuple[float, int, int]] = []
    known, width = jnp.asarray(index.vectors), min(QUERIES, len(index.vectors))
    size = min(_block(width, index.vectors.shape[1], index.measure), len(index.vectors))
    for start in range(0, len(known), width):
        for begin in range(start - start % size, len(known), size):
            found = np.asarray(_scores(known[start : start + width], known[begin : begin + size], index.measure))
            for i, j in np.argwhere(found >= threshold):
                if start + i < begin + j:
                    pairs.append((float(found[i, j]), start + int(i), begin + int(j)))
            if len(pairs) > MOST_PAIRS:
                raise InputError(f"threshold={threshold}: more than {MOST_PAIRS:,} pairs; give a higher one")
    pairs.sort(key=lambda pair: (-pair[0], *pair[1:]))
    return [
        (Match(index.names[i], index.files[i], score), Match(index.names[j], index.files[j], score))
        for score, i, j in pairs
    ]


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


def _rows(vectors: Any, measure: str) -> np.ndarray:
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


def _check_width(index: Index, rows: np.ndarray) -> None:
    if rows.shape[1] != index.vectors.shape[1]:
        raise InputError(
            f"vectors of {rows.shape[1]} numbers: those of the index have {index.vectors.shape[1]}; use its run"
        )


def _block(queries: int, width: int, measure: str) -> int:
    """Return how many vectors one block compares with `queries`."""
    return max(BLOCK // (queries * (width if measure == "euclidean" else 1)), 1)


def _scores(queries: Array, known: Array, measure: str) -> Array:
    if measure == "cosine":
        return jnp.matmul(queries, known.T, precision=lax.Precision.HIGHEST)
    # differences, not products: near duplicates would lose all digits
    return -jnp.sqrt(jnp.square(queries[:, None] - known[None]).sum(-1))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _best(known: Array, queries: Array, k: int, size: int, measure: str) -> tuple[Array, Array]:
    """Return the best `k` scores and rows of each query, block by block."""
    count = known.shape[0]

    def block(best: tuple[Array, Array], start: Array) -> tuple[tuple[Array, Array], None]:
        begin = jnp.minimum(start, count - size)  # the last block overlaps the one before it
        rows = begin + jnp.arange(size)
        scores = _scores(queries, lax.dynamic_slice_in_dim(known, begin, size), measure)
        scores = jnp.where((rows >= start)[None], scores, -jnp.inf)
        # `top_k` keeps the order of equal scores, and what was found before is earlier in the index
        joined = jnp.concatenate([best[0], scores], 1)
        places = jnp.concatenate([best[1], jnp.broadcast_to(rows[None], scores.shape)], 1)
        top, at = lax.top_k(joined, k)
        return (top, jnp.take_along_axis(places, at, 1)), None

    none = jnp.full((queries.shape[0], k), -jnp.inf), jnp.zeros((queries.shape[0], k), jnp.int32)
    return lax.scan(block, none, jnp.arange(0, count, size))[0]
