"""Membership inference: how well somebody who sees a network's outputs can tell which rows it was trained on.

Scores are higher for rows that look like training rows. `loss_score` needs the attacked network alone, and the scores
of LiRA also networks that somebody trained on random parts of the same kind of rows (shadow networks), with
`membership` for the parts. `measure` says how well scores tell members from others. These are functions on the host.
"""

from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core.types import InputError, check_numbers, check_whole
from jaxcnn.metrics.curves import roc_auc, roc_curve
from jaxcnn.metrics.intervals import bootstrap_interval

LEAST = 1e-6  # least standard deviation of a row's confidence


class Inference(NamedTuple):
    """How well members are told from other rows.

    Attributes:
        auc: area under the ROC curve; 0.5 for scores that tell nothing.
        auc_interval: its 95 % interval, from samples of the rows.
        tpr: share of the members that are found where `fpr` of the others are taken for members.
        fpr: largest share of the others that are taken for members.
        advantage: largest difference of both shares, 0..1.

    """

    auc: float
    auc_interval: tuple[float, float]
    tpr: float
    fpr: float
    advantage: float


def confidence(logits: Any, labels: Any) -> np.ndarray:
    """Return the log-odds of each row's label, which are nearly normal over networks.

    Args:
        logits: `[..., N, K]`.
        labels: `[N]`.

    Returns:
        `[..., N]`, float64.

    Raises:
        InputError: there are fewer than two classes, the numbers of rows differ, or a label is no class.

    Reference: Carlini et al., 2022, arXiv:2112.03570, section 4.

    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if logits.ndim < 2 or logits.shape[-1] < 2 or labels.shape != logits.shape[-2:-1]:
        raise InputError(f"logits {logits.shape}, labels {labels.shape}: must be [..., N, K] with K >= 2, and [N]")
    most = logits.shape[-1] - 1
    if labels.dtype.kind not in "iu" or labels.size and not 0 <= labels.min() <= labels.max() <= most:
        raise InputError(f"labels {labels.dtype}: must be integers from 0 to {most}; leave out rows without a class")
    own = np.take_along_axis(logits, np.broadcast_to(labels, logits.shape[:-1])[..., None], -1)[..., 0]
    others = np.where(np.arange(logits.shape[-1]) == labels[:, None], -np.inf, logits)
    top = others.max(-1)
    certain = np.isneginf(top)  # no other class is possible
    top = np.where(certain, 0, top)
    with np.errstate(divide="ignore"):
        return own - top - np.log(np.exp(others - top[..., None]).sum(-1))


def loss_score(logits: Any, labels: Any) -> np.ndarray:
    """Return the negative cross-entropy of each row: networks have a smaller loss on rows that they have seen.

    Args:
        logits: `[..., N, K]`.
        labels: `[N]`.

    Returns:
        `[..., N]`, at most 0.

    Reference: Yeom et al., 2017, arXiv:1709.01604.

    """
    return -np.logaddexp(0, -confidence(logits, labels))


def membership(networks: int, rows: int, seed: int = 0) -> np.ndarray:
    """Draw the rows of each shadow network, such that each row is in half of the networks.

    Args:
        networks: number of networks, even, at least 2.
        rows: number of rows.
        seed: seed of the draw.

    Returns:
        bool `[networks, rows]`.

    Raises:
        InputError: the number of networks is odd or below 2, or there are no rows.

    """
    for name, value in (("networks", networks), ("rows", rows), ("seed", seed)):
        check_whole(name, value, 0)
    if networks < 2 or networks % 2 or rows < 1:
        raise InputError(f"networks={networks}, rows={rows}: must be even and at least 2, and at least 1")
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(networks)[:, None], (1, rows)), axis=0)
    return order < networks // 2


def lira_offline(target: Any, shadows: Any, inside: Any, *, pooled: bool | None = None) -> np.ndarray:
    """Return the scores of LiRA from networks that have not seen a row: how far its confidence lies above theirs.

    Args:
        target: confidences of the attacked network, `[N]`.
        shadows: confidences of the shadow networks, `[S, N]`.
        inside: whether a row is one of a network's training rows, bool `[S, N]`.
        pooled: whether all rows have one variance, which is better with few networks; None below 64.

    Returns:
        `[N]`, in standard deviations.

    Raises:
        InputError: shapes differ, values are not finite, or a row has fewer than two networks without it.

    Reference: Carlini et al., 2022, arXiv:2112.03570, section 4.

    """
    target, shadows, inside = _checked(target, shadows, inside, (False,))
    mean, deviation = _normal(shadows, ~inside, pooled)
    return (target - mean) / deviation


def lira_online(target: Any, shadows: Any, inside: Any, *, pooled: bool | None = None) -> np.ndarray:
    """Return the scores of LiRA from networks with and without a row: the logarithm of the ratio of likelihoods.

    Args:
        target: confidences of the attacked network, `[N]`.
        shadows: confidences of the shadow networks, `[S, N]`.
        inside: whether a row is one of a network's training rows, bool `[S, N]`.
        pooled: whether all rows have one variance with, and one without the row, which is better with few networks;
            None below 64.

    Returns:
        `[N]`.

    Raises:
        InputError: shapes differ, values are not finite, or a row has fewer than two networks of either kind.

    Reference: Carlini et al., 2022, arXiv:2112.03570, algorithm 1.

    """
    target, shadows, inside = _checked(target, shadows, inside, (False, True))
    return _log_density(target, *_normal(shadows, inside, pooled)) - _log_density(
        target, *_normal(shadows, ~inside, pooled)
    )


def measure(scores: Any, members: Any, *, fpr: float = 1e-3, samples: int = 500, seed: int = 0) -> Inference:
    """Measure how well scores tell members from other rows.

    Args:
        scores: `[N]`, or `[N, T]` for several attacked networks; the interval then is over samples of the rows.
        members: bool of the same shape.
        fpr: largest share of the others that may be taken for members, in 0..1.
        samples: samples of the rows for the interval.
        seed: seed of the samples.

    Raises:
        InputError: shapes differ, a value is out of its range, or there are no members or no others.

    """
    scores, members = np.asarray(scores, np.float64), _mask(members, "members")
    if scores.shape != members.shape or not 1 <= scores.ndim <= 2:
        raise InputError(f"scores {scores.shape}, members {members.shape}: must have one shape, [N] or [N, T]")
    if not np.isfinite(scores).all():
        raise InputError("scores: must be finite")
    if members.all() or not members.any():
        raise InputError(f"members: {int(members.sum())} of {members.size} rows; there must be members and others")
    check_numbers(fpr=fpr)
    if not 0 <= fpr <= 1:
        raise InputError(f"fpr={fpr}: must be in 0..1")

    def area(scores: np.ndarray, members: np.ndarray) -> float:
        return float(roc_auc(scores.ravel(), members.ravel().astype(int)))

    auc = bootstrap_interval(area, scores, members, samples=samples, seed=seed)
    curve = roc_curve(scores.ravel(), members.ravel().astype(int))
    found = curve.tpr[curve.fpr <= fpr]
    return Inference(
        auc.value, (auc.low, auc.high), float(found.max()), fpr, float(np.max(np.subtract(curve.tpr, curve.fpr)))
    )


def highest_tpr(epsilon: float, delta: float, fpr: float) -> float:
    """Return the highest share of members that any attack finds in a network with differential privacy.

    Args:
        epsilon: at least 0.
        delta: in 0..1.
        fpr: share of the others that are taken for members, in 0..1.

    Raises:
        InputError: a value is outside its range.

    Reference: Kairouz et al., 2013, arXiv:1311.0776.

    """
    check_numbers(delta=delta, epsilon=epsilon, fpr=fpr)
    if not (epsilon >= 0 and 0 <= delta <= 1 and 0 <= fpr <= 1):
        raise InputError(f"epsilon={epsilon}, delta={delta}, fpr={fpr}: must be at least 0, in 0..1 and in 0..1")
    if epsilon == np.inf:  # no guarantee
        return 1.0
    first = np.exp(min(epsilon, 700)) * fpr + delta
    second = 1 - np.exp(-epsilon) * (1 - delta - fpr)
    return float(np.clip(min(first, second), 0, 1))


def _checked(
    target: Any, shadows: Any, inside: Any, kinds: tuple[bool, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    target, shadows, inside = np.asarray(target, np.float64), np.asarray(shadows, np.float64), _mask(inside, "inside")
    if target.ndim != 1 or shadows.shape != inside.shape or shadows.shape[1:] != target.shape:
        shapes = f"target {target.shape}, shadows {shadows.shape}, inside {inside.shape}"
        raise InputError(f"{shapes}: must be [N], [S, N] and [S, N]")
    if not (np.isfinite(target).all() and np.isfinite(shadows).all()):
        raise InputError("target, shadows: confidences must be finite")
    for kind in kinds:
        least = int((inside == kind).sum(0).min(initial=2))
        if least < 2:
            what = "with" if kind else "without"
            raise InputError(f"inside: a row has {least} networks trained {what} it; train at least two of these")
    return target, shadows, inside


def _mask(values: Any, name: str) -> np.ndarray:
    """Return a mask; refuse row numbers and NaN, which would be read as one."""
    mask = np.asarray(values)
    if mask.dtype.kind != "b" and not (mask.dtype.kind in "iuf" and np.isin(mask, (0, 1)).all()):
        raise InputError(f"{name} {mask.dtype} of shape {mask.shape}: must be one truth value per row")
    return mask.astype(bool)


def _normal(shadows: np.ndarray, chosen: np.ndarray, pooled: bool | None) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation `[N]` of the chosen confidences of each row."""
    count = chosen.sum(0)
    mean = np.where(chosen, shadows, 0).sum(0) / count
    squares = np.where(chosen, (shadows - mean) ** 2, 0).sum(0)
    if len(shadows) < 64 if pooled is None else pooled:
        variance = np.full_like(mean, squares.sum() / (count - 1).sum())
    else:
        variance = squares / (count - 1)
    return mean, np.sqrt(variance).clip(LEAST)


def _log_density(x: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return -0.5 * ((x - mean) / deviation) ** 2 - np.log(deviation)
