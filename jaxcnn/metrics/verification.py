"""How well vectors tell identities apart: pairs (ROC, EER, TAR at FAR), identification and retrieval, on the host.

All values are exact; scores may tie. Scores are similarities: cosines, or negative distances.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxcnn.core.types import InputError
from jaxcnn.metrics.curves import Roc, roc_auc, roc_curve

Measure = Literal["cosine", "euclidean"]
MEASURES = ("cosine", "euclidean")
MOST_PAIRS = 2**27  # whose scores are in memory at the same time
AT_ONCE = 2**24  # scores of one block of queries


class Verification(NamedTuple):
    """Scores of pairs against whether they are of one identity.

    Attributes:
        roc: the curve, with every threshold.
        auc: the area under it.
        eer: the equal error rate.
        tar: the true acceptance rate at each false acceptance rate that was asked for, and its threshold.

    """

    roc: Roc
    auc: float
    eer: float
    tar: dict[float, tuple[float, float]]


def pair_scores(
    embeddings: np.ndarray, labels: np.ndarray, measure: Measure = "cosine"
) -> tuple[np.ndarray, np.ndarray]:
    """Compare every row with every later row.

    Args:
        embeddings: `[N, D]`, of any length for `"cosine"`.
        labels: `[N]`, the identities.
        measure: `"cosine"`, or `"euclidean"` for negative distances.

    Returns:
        Scores `[N * (N - 1) / 2]` and whether the two are of one identity, bool of the same shape.

    Raises:
        InputError: a shape or a value is wrong, or there are too many pairs.

    """
    rows, labels = _vectors("embeddings", embeddings, measure), _labels(labels, len(embeddings))
    count = len(rows)
    if count * (count - 1) // 2 > MOST_PAIRS:
        raise InputError(f"{count:,} embeddings: more than {MOST_PAIRS:,} pairs; draw fewer rows")
    first, second = np.triu_indices(count, 1)
    scores = np.concatenate([_block(rows[i : i + 1], rows[i + 1 :], measure)[0] for i in range(count - 1)] or [[]])
    return np.asarray(scores, np.float64), labels[first] == labels[second]


def verification(scores: np.ndarray, same: np.ndarray, far: Sequence[float] = (1e-1, 1e-2, 1e-3)) -> Verification:
    """Measure how well scores of pairs tell pairs of one identity from pairs of two.

    Args:
        scores: `[N]`, higher for the same identity.
        same: `[N]`, 1 for pairs of one identity, 0 for pairs of two.
        far: false acceptance rates, in 0..1.

    Returns:
        A `Verification`; values are NaN without pairs of both kinds.

    Raises:
        InputError: as `roc_curve`, or a rate is outside 0..1.

    """
    roc = roc_curve(scores, same)
    return Verification(roc, float(roc_auc(scores, same)), _eer(roc), {rate: _tar(roc, rate) for rate in far})


def equal_error_rate(scores: np.ndarray, same: np.ndarray) -> float:
    """Rate at which false acceptances and false rejections are equally frequent, on the straight lines of the ROC.

    Arguments and errors are those of `verification`. NaN without pairs of both kinds.
    """
    return _eer(roc_curve(scores, same))


def tar_at_far(scores: np.ndarray, same: np.ndarray, far: float) -> tuple[float, float]:
    """Highest share of accepted pairs of one identity at which at most `far` of the other pairs are accepted.

    Args:
        scores: `[N]`, higher for the same identity.
        same: `[N]`, 1 for pairs of one identity.
        far: false acceptance rate, in 0..1.

    Returns:
        The share, and the threshold that a score must reach; it is infinite where nothing may be accepted.

    Raises:
        InputError: as `roc_curve`, or the rate is outside 0..1.

    """
    return _tar(roc_curve(scores, same), far)


def identification(
    gallery: np.ndarray, gallery_labels: np.ndarray, probes: np.ndarray, probe_labels: np.ndarray,
    ranks: Sequence[int] = (1, 5), measure: Measure = "cosine",
) -> dict[str, float]:  # fmt: skip
    """Measure closed-set identification: each probe is of an identity in the gallery.

    The score of an identity is that of its most similar gallery row. An identity that ties with the right one counts
    before it, so that equal scores never flatter.

    Args:
        gallery: `[G, D]`, rows whose identity is known.
        gallery_labels: `[G]`.
        probes: `[P, D]`, rows to identify.
        probe_labels: `[P]`.
        ranks: numbers of best identities, at least 1.
        measure: see `pair_scores`.

    Returns:
        `rank_1` and so on, the share of probes whose identity is among the best `k`, and `count`, the probes.

    Raises:
        InputError: a shape or value is wrong, or a probe's identity is not in the gallery.

    """
    known, found = _vectors("gallery", gallery, measure), _vectors("probes", probes, measure)
    people, place = np.unique(_labels(gallery_labels, len(known)), return_inverse=True)
    true, ranks = _labels(probe_labels, len(found)), _ranks(ranks)
    missing = ~np.isin(true, people)
    if missing.any():
        raise InputError(f"probe label {true[missing][0]}: not in the gallery; leave out such probes, or enrol them")
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(people)))
    rank = []
    for part, scores in _blocks(found, known[order], measure):
        each = np.maximum.reduceat(scores, starts, axis=1)  # [p, people]
        own = np.searchsorted(people, true[part])[:, None]
        rank.append((each >= np.take_along_axis(each, own, 1)).sum(1))
    place_of_true = np.concatenate(rank)
    return {**{f"rank_{k}": float((place_of_true <= k).mean()) for k in ranks}, "count": len(found)}


def retrieval(
    embeddings: np.ndarray, labels: np.ndarray, *, gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None, ranks: Sequence[int] = (1, 5, 10), measure: Measure = "cosine",
) -> dict[str, float]:  # fmt: skip
    """Measure a search: of each query, which of the most similar rows are of its class.

    Args:
        embeddings: queries `[N, D]`.
        labels: `[N]`.
        gallery: rows to search `[G, D]`; None for the queries themselves, of which each finds all others.
        gallery_labels: `[G]`.
        ranks: numbers of best rows, at least 1.
        measure: see `pair_scores`.

    Returns:
        `recall_at_1` and so on, the share of queries with a row of their class among the best `k`; `map`, the mean of
        the queries' average precision, as scikit-learn computes it; `count`, the queries that have a row of their
        class: the others are left out. Rows that tie with the first right one count before it.

    Raises:
        InputError: a shape or value is wrong.

    """
    rows, label, ranks = _vectors("embeddings", embeddings, measure), _labels(labels, len(embeddings)), _ranks(ranks)
    if (gallery is None) != (gallery_labels is None):
        raise InputError("gallery and gallery_labels: give both, or neither")
    alone = gallery is None
    known = rows if gallery is None else _vectors("gallery", gallery, measure)
    kinds = label if gallery is None else _labels(gallery_labels, len(known))
    first, precision = [], []
    for part, scores in _blocks(rows, known, measure):
        right = label[part][:, None] == kinds[None]
        if alone:
            own = np.arange(part.start, part.start + len(scores))
            right[np.arange(len(scores)), own], scores[np.arange(len(scores)), own] = False, -np.inf
        for score, is_right in zip(scores, right, strict=True):
            if is_right.any():
                best = score[is_right].max()
                first.append(1 + (score[~is_right] >= best).sum())
                precision.append(_average_precision(score, is_right))
    hits = np.array(first)
    values = {f"recall_at_{k}": float((hits <= k).mean()) if len(hits) else float("nan") for k in ranks}
    return {**values, "map": float(np.mean(precision)) if precision else float("nan"), "count": len(hits)}


def _average_precision(scores: np.ndarray, right: np.ndarray) -> float:
    """Average precision of one query; rows of equal scores count together, as in scikit-learn."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order]) != 0), len(order) - 1)
    hits = np.cumsum(right[order])[ends]
    return float((np.diff(hits, prepend=0) * hits / (ends + 1)).sum() / hits[-1])


def _eer(roc: Roc) -> float:
    gap = roc.fpr - (1 - roc.tpr)  # rises from -1 to 1
    if np.isnan(gap).any():
        return float("nan")
    i = int(np.argmax(gap >= 0))
    before, after = gap[i - 1], gap[i]
    share = -before / (after - before)
    return float(roc.fpr[i - 1] + share * (roc.fpr[i] - roc.fpr[i - 1]))


def _tar(roc: Roc, far: float) -> tuple[float, float]:
    if not 0 <= far <= 1:
        raise InputError(f"far={far}: must be in 0..1")
    if np.isnan(roc.fpr).any() or np.isnan(roc.tpr).any():
        return float("nan"), float("nan")
    i = int(np.searchsorted(roc.fpr, far, "right")) - 1  # both rates rise along the curve
    return float(roc.tpr[i]), float(roc.thresholds[i])


def _blocks(queries: np.ndarray, known: np.ndarray, measure: str) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield blocks of queries with their scores against all rows."""
    if queries.shape[1] != known.shape[1]:
        raise InputError(f"vectors of {queries.shape[1]} and {known.shape[1]} numbers: must be of the same network")
    width = max(AT_ONCE // len(known), 1)
    for start in range(0, len(queries), width):
        part = slice(start, start + width)
        yield part, _block(queries[part], known, measure)


def _block(a: np.ndarray, b: np.ndarray, measure: str) -> np.ndarray:
    if measure == "cosine":
        return np.einsum("id,jd->ij", a, b)  # equal rows get equal scores, which a blocked product does not ensure
    return np.stack([-np.sqrt(np.square(row - b).sum(-1)) for row in a])


def _vectors(name: str, x: np.ndarray, measure: str) -> np.ndarray:
    """Return vectors in float64, of length 1 for cosines."""
    if measure not in MEASURES:
        raise InputError(f"measure={measure!r}: must be one of {', '.join(MEASURES)}")
    x = np.asarray(x)
    if x.ndim != 2 or not len(x) or x.dtype.kind not in "fiub":
        raise InputError(f"{name} of shape {x.shape}, {x.dtype}: must be numbers [N, D], at least one row")
    x = x.astype(np.float64)
    if not np.isfinite(x).all():
        raise InputError(
            f"{name}: {int((~np.isfinite(x).all(1)).sum())} of {len(x)} rows are not finite; check the network"
        )
    if measure == "cosine":
        x = x / np.maximum(np.sqrt(np.square(x).sum(-1, keepdims=True)), 1e-30)
    return x


def _labels(labels: np.ndarray | None, count: int) -> np.ndarray:
    found = np.asarray(labels)
    if found.shape != (count,):
        raise InputError(f"labels of shape {found.shape}: must be {(count,)}, one per row")
    return found


def _ranks(ranks: Sequence[int]) -> tuple[int, ...]:
    if not ranks or min(ranks) < 1:
        raise InputError(f"ranks={tuple(ranks)}: must be at least 1")
    return tuple(ranks)
