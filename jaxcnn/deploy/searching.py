"""Exact searches in an index, on the device: the nearest entries, verification, identification, near duplicates.

Scores are similarities: cosines, or negative Euclidean distances. They are computed in float32 at the device's highest
precision, in blocks, so that memory does not grow with the index beyond the vectors themselves.
"""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.deploy.embed import Embedder, embed_files, images_in
from jaxcnn.deploy.index import Index, check_width, enrol, unit_rows

Array = jax.Array
BLOCK = 2**24  # values of one block of scores or differences
QUERIES = 256  # queries of one block
MOST_PAIRS = 10**6  # near duplicates of one answer


class Match(NamedTuple):
    """An entry of an index and its score."""

    name: str
    file: str
    score: float


class Verified(NamedTuple):
    """Whether a vector belongs to a name, and the best score among the name's entries."""

    accepted: bool
    score: float


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
    rows = unit_rows(queries, index.measure)
    check_width(index, rows)
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
    _check_threshold(threshold, index.measure)
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
    if threshold is not None:
        _check_threshold(threshold, index.measure)
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
    _check_threshold(threshold, index.measure)
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


def _check_threshold(threshold: float, measure: str) -> None:
    """Refuse a threshold that no score, or every score, reaches."""
    if measure == "cosine" and not -1 <= threshold <= 1:
        raise InputError(f"threshold={threshold}: must be a cosine, from -1 to 1")
    if measure != "cosine" and not -np.inf < threshold <= 0:
        raise InputError(f"threshold={threshold}: must be minus a distance, at most 0")


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
