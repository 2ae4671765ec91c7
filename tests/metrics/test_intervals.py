"""Intervals cover the truth as often as they claim and equal scipy's; paired tests equal the binomial test."""

import functools
import warnings

import numpy as np
import pytest
import scipy.stats

from jaxcnn import metrics
from jaxcnn.core.types import InputError


def share(right):
    return float(right.mean())


@pytest.mark.parametrize("z", [1.96, 1.0, 2.576])
def test_wilson_equals_scipy(z):
    level = 2 * scipy.stats.norm.cdf(z) - 1
    for n in (1, 7, 50, 359, 10_000):
        for k in {0, 1, n // 2, n - 1, n}:
            expected = scipy.stats.binomtest(k, n).proportion_ci(level, "wilson")
            assert metrics.wilson_interval(k / n, n, z) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_mcnemar_equals_the_binomial_in_200_cases():
    for seed in range(200):
        rng = np.random.default_rng([seed, 3])
        a, b = rng.random((2, int(rng.integers(1, 120)))) < rng.random((2, 1))
        found = metrics.mcnemar(a, b if seed % 20 else a)
        n = found.only_a + found.only_b
        assert (found.only_a, found.only_b) == ((a & ~b).sum(), (b & ~a).sum()) if seed % 20 else n == 0
        assert found.p_value == pytest.approx(scipy.stats.binomtest(found.only_a, n).pvalue if n else 1.0, rel=1e-9)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_equals_scipy(method):
    """Other draws, so to within their noise; a skewed statistic, on which the two methods differ."""
    rng = np.random.default_rng(4)
    a = rng.exponential(size=40)
    own = metrics.bootstrap_interval(lambda x: x.std(), a, samples=9_000, seed=1, level=0.9, method=method)
    name = {"bca": "BCa"}.get(method, method)
    theirs = scipy.stats.bootstrap(
        (a,), np.std, n_resamples=9_000, confidence_level=0.9, method=name, rng=2
    ).confidence_interval
    assert own.value == a.std()
    assert own[1:] == pytest.approx(tuple(theirs), abs=0.02)
    other = metrics.bootstrap_interval(
        lambda x: x.std(), a, samples=2_000, level=0.9, method="bca" if method == "percentile" else "percentile"
    )
    assert abs(own.high - other.high) > 0.05


def test_rows_are_drawn_together_and_a_seed_repeats_them():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 80)
    scores = np.stack([labels + rng.normal(size=80), rng.normal(size=80)], -1)
    auc = lambda s, y: metrics.roc_auc(s[:, 0], y)  # noqa: E731
    first, again, other = (metrics.bootstrap_interval(auc, scores, labels, samples=200, seed=s) for s in (0, 0, 1))
    assert first == again != other
    assert 0.6 < first.low < first.value < first.high < 0.95  # drawn apart they would be around one half


def test_samples_without_a_value_are_left_out():
    labels, scores = np.array([1, 0, 0, 0, 0, 0]), np.arange(6.0)[::-1]  # a third of the samples has no positive
    found = metrics.bootstrap_interval(metrics.roc_auc, scores, labels, samples=300)
    assert found == (1.0, 1.0, 1.0)
    never = metrics.bootstrap_interval(metrics.roc_auc, scores, np.zeros(6, int), samples=20)
    assert np.isnan(never).all()


def test_paired_difference():
    """For two models with nearly the same mistakes, the interval of the difference is far narrower than each own."""
    rng = np.random.default_rng(6)
    a = rng.random(400) < 0.8
    b = a.copy()
    b[np.flatnonzero(a)[:12]] = False
    found, alone = metrics.paired_bootstrap(share, a, b, samples=500), metrics.bootstrap_interval(share, a, samples=500)
    assert found.value == pytest.approx(12 / 400) and 0 < found.low < found.value < found.high
    assert found.high - found.low < (alone.high - alone.low) / 2
    shared = metrics.paired_bootstrap(lambda guess, label: share(guess == label), a, b, np.ones(400, bool), samples=500)
    assert shared == found


def held(interval, truth, repeats, rng, draw):
    """How often an interval holds the truth."""
    inside = 0
    for _ in range(repeats):
        found = interval(draw(rng))
        inside += found[-2] <= truth <= found[-1]
    return inside / repeats


def test_wilson_holds_as_often_as_it_says(rng):
    for p in (0.5, 0.9, 0.97):
        found = held(lambda k: metrics.wilson_interval(k / 100, 100), p, 4_000, rng, lambda r, p=p: r.binomial(100, p))
        assert 0.93 < found < 0.985


def test_bootstrap_holds_as_often_as_it_says(rng):
    interval = functools.partial(metrics.bootstrap_interval, share, samples=200)
    found = held(interval, 0.8, 300, rng, lambda r: r.random(100) < 0.8)
    assert 0.90 < found < 0.98  # the percentile interval is a little short


@pytest.mark.slow
@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_of_an_auc_holds_as_often_as_it_says(method, rng):
    truth = scipy.stats.norm.cdf(1 / np.sqrt(2))  # of normal scores one deviation apart

    def draw(r):
        labels = np.arange(120) % 2
        return labels + r.normal(size=120), labels

    interval = lambda rows: metrics.bootstrap_interval(metrics.roc_auc, *rows, samples=500, method=method)
    found = held(interval, truth, 600, rng, draw)
    print(f"{method}: {found:.3f}")
    assert 0.92 < found < 0.975


@pytest.mark.slow
def test_paired_tests_call_equal_models_different_as_often_as_they_say(rng):
    wrong = 0
    for _ in range(1_000):
        a, b = rng.random((2, 200)) < 0.85
        wrong += metrics.mcnemar(a, b).p_value < 0.05
    assert 0.01 < wrong / 1_000 < 0.06  # exact, so a little cautious


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.bootstrap_interval(share), "arrays with no rows"),
        (lambda: metrics.bootstrap_interval(share, np.ones(3), np.ones(4)), "arrays with 3, 4 rows"),
        (lambda: metrics.bootstrap_interval(share, np.ones(0)), "arrays with 0 rows"),
        (lambda: metrics.bootstrap_interval(share, np.ones(3), samples=0), "samples=0: must be at least 1"),
        (lambda: metrics.bootstrap_interval(share, np.ones(3), level=95), "level=95: must be between 0 and 1"),
        (lambda: metrics.bootstrap_interval(share, np.ones(3), method="t"), "method='t'"),
        (lambda: metrics.mcnemar(np.ones(3), np.ones(4)), r"\(3,\), correct_b of shape \(4,\)"),
        (lambda: metrics.mcnemar(np.ones(3), np.full(3, 0.5)), "must be true or false"),
        (lambda: metrics.wilson_interval(1.5, 10), "share=1.5"),
        (lambda: metrics.wilson_interval(0.5, 10, z=-1.96), "z=-1.96"),
        (lambda: metrics.wilson_interval(0.5, float("nan")), "count=nan"),
    ],
)
def test_bad_arguments(call, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=message):
            call()
