"""Confidence intervals of a measured value, and tests that compare two models on the same rows, on the host."""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxcnn.core.types import InputError, check_numbers, check_whole

Statistic = Callable[..., float]  # (*arrays) -> float


class Interval(NamedTuple):
    """The value on all rows, and its confidence interval."""

    value: float
    low: float
    high: float


class McNemar(NamedTuple):
    """Numbers of rows that only the first or only the second model gets right, and the two-sided p-value."""

    only_a: int
    only_b: int
    p_value: float


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Confidence interval of a share of rows (Wilson, 1927).

    Args:
        share: the measured share, 0..1.
        count: number of rows.
        z: quantile of the normal distribution; 1.96 for 95 %.

    Returns:
        Low and high end; 0 and 1 if there are no rows.

    Raises:
        InputError: a share outside 0..1, a negative count, or `z` is not positive.

    """
    check_numbers(share=share, count=count, z=z)
    if not 0 < z < math.inf:
        raise InputError(f"z={z}: must be positive, such as 1.96 for 95 %")
    if count == 0:
        return 0.0, 1.0
    if not (0 <= share <= 1 and 0 <= count < math.inf):
        raise InputError(f"share={share}, count={count}: the share must be in 0..1 and the count at least 0")
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def least_share(successes: int, count: int, alpha: float = 0.05) -> float:
    """Lower bound of a share, which is too high with a chance of at most `alpha` (Clopper and Pearson, 1934).

    Args:
        successes: number of successes, 0 to `count`.
        count: number of trials, at least 1.
        alpha: in (0, 1); half of it is that of a two-sided interval.

    Raises:
        InputError: a value is outside its range.

    """
    from scipy.special import betaincinv

    check_numbers(alpha=alpha)
    for name, value in (("count", count), ("successes", successes)):
        check_whole(name, value)
    if not 0 <= successes <= count or count < 1 or not 0 < alpha < 1:
        given = f"successes={successes}, count={count}, alpha={alpha}"
        raise InputError(f"{given}: must be 0 to count, at least 1, and above 0 and below 1")
    return float(betaincinv(successes, count - successes + 1, alpha)) if successes else 0.0


def bootstrap_interval(
    statistic: Statistic,
    *arrays: Any,
    samples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    method: Literal["percentile", "bca"] = "percentile",
) -> Interval:
    """Confidence interval of any statistic of rows, from samples of the rows with replacement (Efron, 1979).

    Args:
        statistic: `(*arrays) -> float`, such as `roc_auc`. It is called once per sample, and with `"bca"` also once per
            row.
        *arrays: `[N, ...]` each; each sample draws the same rows from all of them.
        samples: number of samples.
        seed: seed of the draws.
        level: probability that the interval holds the true value.
        method: `"percentile"`: quantiles of the samples' values. `"bca"`: corrected for bias and skew (Efron, 1987),
            with N more calls.

    Returns:
        An `Interval`. Samples on which the statistic is NaN, such as an AUC with one class only, are left out; if these
        are half the samples or more, the interval is NaN. A statistic that is equal on all samples gives an interval of
        width 0.

    Raises:
        InputError: there are no rows, lengths differ, or an argument is out of range.

    """
    check_whole("seed", seed, 0)
    n = _rows(arrays, samples, level, method)
    arrays = tuple(np.asarray(a) for a in arrays)
    value, rng = float(statistic(*arrays)), np.random.default_rng(seed)
    found = np.array(
        [float(statistic(*(a[at] for a in arrays))) for at in (rng.integers(0, n, n) for _ in range(samples))]
    )
    found = found[~np.isnan(found)]
    if np.isnan(value) or 2 * len(found) <= samples:
        return Interval(value, float("nan"), float("nan"))
    tails = (1 - level) / 2, (1 + level) / 2
    if method == "bca":
        left_out = [float(statistic(*(np.delete(a, i, 0) for a in arrays))) for i in range(n)] if n > 1 else []
        tails = _corrected(tails, found, value, np.array(left_out))
    low, high = np.quantile(found, tails)
    return Interval(value, float(low), float(high))


def paired_bootstrap(
    statistic: Statistic,
    a: Any,
    b: Any,
    *shared: Any,
    samples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    method: Literal["percentile", "bca"] = "percentile",
) -> Interval:
    """Difference between two models on the same rows, with its interval; an interval without 0 shows a difference.

    Args:
        statistic: `(outputs, *shared) -> float`.
        a: outputs of the first model, `[N, ...]`.
        b: outputs of the second model.
        *shared: arrays that both are judged by, such as labels, `[N, ...]`.
        samples: number of samples.
        seed: seed of the draws.
        level: probability that the interval holds the true value.
        method: as in `bootstrap_interval`.

    Returns:
        The `Interval` of `statistic(a, *shared) - statistic(b, *shared)`.

    Raises:
        InputError: as in `bootstrap_interval`.

    """

    def difference(a: np.ndarray, b: np.ndarray, *shared: np.ndarray) -> float:
        return statistic(a, *shared) - statistic(b, *shared)

    return bootstrap_interval(difference, a, b, *shared, samples=samples, seed=seed, level=level, method=method)


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> McNemar:
    """Test whether two models have the same accuracy, by the rows that only one gets right (McNemar, 1947; exact).

    Args:
        correct_a: `[N]`, true where the first model is right.
        correct_b: `[N]`, true where the second model is right, on the same rows.

    Returns:
        A `McNemar`; its p-value is 1 if both are right on the same rows.

    Raises:
        InputError: shapes are wrong, or values are not true and false (1 and 0).

    """
    a, b = np.asarray(correct_a), np.asarray(correct_b)
    if a.ndim != 1 or a.shape != b.shape:
        raise InputError(f"correct_a of shape {a.shape}, correct_b of shape {b.shape}: must be [N] and [N]")
    if not np.isin(a, (0, 1)).all() or not np.isin(b, (0, 1)).all():
        raise InputError("correct_a, correct_b: must be true or false (1 or 0) per row")
    a, b = a.astype(bool), b.astype(bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    from scipy.special import bdtr

    tail = float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, min(1.0, 2 * tail))


def _corrected(
    tails: tuple[float, float], found: np.ndarray, value: float, left_out: np.ndarray
) -> tuple[float, float]:
    """Quantiles of the samples at the ends of a BCa interval (Efron, 1987, equation 6.4)."""
    below = ((found < value).mean() + (found <= value).mean()) / 2  # ties count one half
    left_out = left_out[~np.isnan(left_out)]
    pull = left_out.mean() - left_out if len(left_out) else np.zeros(1)
    spread = (pull**2).sum()
    if not 0 < below < 1 or not spread:
        return tails
    normal, skew = NormalDist(), float((pull**3).sum() / (6 * spread**1.5))
    bias = normal.inv_cdf(below)

    def moved(share: float) -> float:
        z = bias + normal.inv_cdf(share)
        return normal.cdf(bias + z / (1 - skew * z))

    return moved(tails[0]), moved(tails[1])


def _rows(arrays: tuple[Any, ...], samples: int, level: float, method: str) -> int:
    if not arrays or len({len(a) for a in arrays}) > 1 or not len(arrays[0]):
        lengths = ", ".join(str(len(a)) for a in arrays) or "no"
        raise InputError(f"arrays with {lengths} rows: give at least one array, all of the same length, not empty")
    check_whole("samples", samples, 1)
    check_numbers(level=level)
    if not 0 < level < 1:
        raise InputError(f"level={level}: must be between 0 and 1, such as 0.95")
    if method not in ("percentile", "bca"):
        raise InputError(f"method={method!r}: must be 'percentile' or 'bca'")
    return len(arrays[0])
