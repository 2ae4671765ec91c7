"""Special cases of curves and of scores for probabilities; test_metrics_parity.py compares them with scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import auc, brier_score_loss

from jaxcnn import metrics
from jaxcnn.core.types import InputError

AREAS = (metrics.roc_auc, metrics.pr_auc)


def test_by_hand():
    scores, labels = np.array([0.9, 0.8, 0.8, 0.1]), np.array([1, 1, 0, 0])
    assert metrics.roc_auc(scores, labels) == 3.5 / 4  # the tie counts one half
    assert metrics.pr_auc(scores, labels) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert metrics.roc_auc(np.zeros(4), labels) == metrics.pr_auc(np.zeros(4), labels) == 0.5
    assert metrics.roc_auc(scores[:, None], labels) == 3.5 / 4


def test_area_is_that_under_the_curve(rng):
    scores, labels = np.round(rng.normal(size=300), 1), rng.integers(0, 2, 300)
    fpr, tpr, _ = metrics.roc_curve(scores, labels)
    assert metrics.roc_auc(scores, labels) == pytest.approx(auc(fpr, tpr), abs=1e-12)


def test_infinite_scores_have_their_place():
    scores, labels = np.array([np.inf, np.inf, 0.0, -np.inf, -np.inf]), np.array([1, 0, 1, 0, 1])
    finite = np.array([2.0, 2, 1, 0, 0])
    for area in AREAS:
        assert area(scores, labels) == area(finite, labels)
    assert len(metrics.roc_curve(scores, labels).thresholds) == 4


def test_classes_that_are_not_defined():
    scores, labels = np.array([[3.0, 1, 0], [1, 2, 0], [2, 1, 0]]), np.array([0, 1, 0])
    each = metrics.roc_auc(scores, labels, None)
    np.testing.assert_array_equal(each, [1, 1, np.nan])
    assert metrics.roc_auc(scores, labels) == metrics.roc_auc(scores, labels, "weighted") == 1
    assert np.isnan(metrics.roc_auc(scores[:1], labels[:1])) and np.isnan(metrics.roc_auc(scores[:, 0], np.ones(3)))
    assert metrics.pr_auc(scores[:, 0], np.ones(3)) == 1 and np.isnan(metrics.pr_auc(scores[:, 0], np.zeros(3)))
    assert (
        np.isnan(metrics.roc_curve(scores[:, 0], np.ones(3)).fpr).all()
        and metrics.roc_curve(scores[:, 0], np.ones(3)).tpr[-1] == 1
    )


@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize(
    "scores, labels, message",
    [
        (np.array([0.1, np.nan, np.nan]), np.array([0, 1, 1]), "scores: 2 of 3 are NaN"),
        (np.array([[0.1, np.nan]]), np.array([1]), "scores: 1 of 2 are NaN"),
        (np.zeros(0), np.zeros(0), "scores: no rows"),
        (np.zeros((0, 3)), np.zeros(0), "scores: no rows"),
        (np.zeros(3), np.zeros(4), r"scores of shape \(3,\), labels of shape \(4,\)"),
        (np.zeros((3, 2)), np.zeros((3, 4)), r"scores of shape \(3, 2\)"),
        (np.zeros(2), np.array([1, 7]), "labels: 1 are neither 0 nor 1, such as 7"),
        (np.zeros((2, 3)), np.array([1, 3]), "labels: 1 are not 0 to 2, such as 3"),
        (np.zeros((2, 3)), np.full((2, 3), 2), "neither 0 nor 1"),
    ],
)
def test_bad_scores(area, scores, labels, message):
    with pytest.raises(InputError, match=message):
        area(scores, labels)


def test_unknown_average():
    with pytest.raises(InputError, match="average='samples'"):
        metrics.roc_auc(np.zeros((2, 2)), np.zeros(2), "samples")


def test_risk_coverage_by_definition(rng):
    for _ in range(200):
        n = int(rng.integers(1, 40))
        confidence, correct = np.round(rng.random(n), int(rng.integers(1, 4))), rng.random(n) < 0.7
        # the mean over random orders of ties is the expectation; each row of a tie takes the mean of its group
        wrong = np.array([1 - correct[confidence == c].mean() for c in confidence])[np.argsort(-confidence)]
        found = metrics.risk_coverage(confidence, correct)
        np.testing.assert_allclose(found.risk, [wrong[:k].mean() for k in range(1, n + 1)], atol=1e-12)
        np.testing.assert_allclose(found.coverage, np.arange(1, n + 1) / n)
        assert found.area == pytest.approx(found.risk.mean()) and found.risk[-1] == pytest.approx(1 - correct.mean())
        order = rng.permutation(n)
        assert metrics.risk_coverage(confidence[order], correct[order]).area == pytest.approx(found.area, abs=1e-12)


def test_risk_of_losses_and_bad_confidences():
    assert metrics.risk_coverage(np.array([0.9, 0.5]), np.array([0.25, 0.75])).risk.tolist() == [0.25, 0.5]
    assert metrics.risk_coverage(np.array([0.9, 0.5]), np.array([1, 0]) == 1).area == 0.25
    with pytest.raises(InputError, match="must be bool, or the losses as floats"):
        metrics.risk_coverage(np.array([0.9, 0.5]), np.array([1, 0]))
    with pytest.raises(InputError, match="the loss -1 is negative"):
        metrics.risk_coverage(np.array([0.9, 0.5]), np.array([1.0, -1.0]))
    sure = np.array([np.inf, np.inf, 1.0])
    for order in ([0, 1, 2], [1, 0, 2]):
        assert metrics.risk_coverage(sure, np.array([True, False, True])[order]).risk[0] == 0.5
    with pytest.raises(InputError, match="confidence: 1 of 2 are NaN"):
        metrics.risk_coverage(np.array([0.9, np.nan]), np.array([True, True]))
    with pytest.raises(InputError, match=r"confidence of shape \(2,\), correct of shape \(3,\)"):
        metrics.risk_coverage(np.ones(2), np.ones(3))


def sure(n=4_000):
    """Logits of a network that is right almost always: in float32 most probabilities are 1."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, n).astype(np.int32)
    logits = rng.normal(size=(n, 3)) * 6
    logits[np.arange(n), label] += 25
    return logits.astype(np.float32), label


def test_binned_areas_are_close_where_probabilities_saturate():
    logits, label = sure()
    assert (np.asarray(jax.nn.softmax(logits, -1)).max(-1) == 1).mean() > 0.5
    found = jax.device_get(jax.jit(metrics.binned_scores(3))(logits, {"label": label})).compute()
    for name, area in zip(("roc_auc", "pr_auc"), AREAS, strict=True):
        exact = area(log_odds_by_definition(logits), label)
        assert abs(found[name] - exact) <= found[f"{name}_error"] < 2e-4
    rough = jax.device_get(jax.jit(metrics.binned_scores(3, 2))(logits, {"label": label})).compute()
    assert rough["roc_auc_error"] > found["roc_auc_error"]


def log_odds_by_definition(logits):
    logits = logits.astype(np.float64)
    others = [np.logaddexp.reduce(np.delete(logits, k, -1), -1) for k in range(logits.shape[-1])]
    return logits - np.stack(others, -1)


def test_log_odds():
    logits, _ = sure(50)
    logits[0, 0] = 300  # nothing overflows
    np.testing.assert_allclose(jax.jit(metrics.log_odds)(logits), log_odds_by_definition(logits), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(metrics.log_odds(jnp.asarray(logits[:, :1])), logits[:, :1])


def test_one_logit(rng):
    """Of one logit the positive class is scored, and the confidence is that of the class it chooses."""
    logits, label = rng.normal(size=(200, 1)).astype(np.float32) * 2, rng.integers(0, 2, 200).astype(np.int32)
    run = lambda metric: jax.device_get(jax.jit(metric)(logits, {"label": label})).compute()
    found, exact = run(metrics.binned_scores(1)), metrics.roc_auc(logits[:, 0], label)
    assert abs(found["roc_auc"] - exact) <= found["roc_auc_error"] < 0.01 and found["roc_auc_by_class"].shape == (1,)
    two = np.concatenate([np.zeros_like(logits), logits], -1)
    same = jax.device_get(jax.jit(metrics.calibration())(two, {"label": label})).compute()
    assert run(metrics.calibration())["ece"] == pytest.approx(same["ece"], abs=1e-6)
    p = 1 / (1 + np.exp(-logits[:, 0].astype(np.float64)))
    assert run(metrics.brier) == pytest.approx(brier_score_loss(label, p), abs=1e-6)


def test_bins_of_confidence_hold_their_upper_edge():
    """With two bins, one half belongs to the lower: (0, .5]."""
    logits = jnp.array([[0.0, 0.0], [0.0, 0.1]])
    run = jax.jit(metrics.calibration(2))
    found = run(logits, {"label": jnp.array([0, 1]), "row_mask": jnp.ones(2)}).compute()["reliability"]
    np.testing.assert_array_equal(found.counts, [1, 1])
    np.testing.assert_allclose(found.confidence, [0.5, jax.nn.sigmoid(0.1)], rtol=1e-6)
    empty = run(logits, {"label": jnp.array([0, 1]), "row_mask": jnp.zeros(2)}).compute()
    assert np.isnan(empty["ece"]) and np.isnan(empty["reliability"].accuracy).all()


def test_nan_logits_are_not_hidden():
    logits = np.array([[0, 1, 2], [np.nan, 0, 0], [3, 0, 1], [0, 3, 1]], np.float32)
    batch = {"label": np.array([2, 0, 0, 1]), "row_mask": np.ones(4, np.float32)}
    for metric, names in (
        (metrics.binned_scores(3, 9), ("roc_auc", "pr_auc")),
        (metrics.calibration(), ("ece", "mce")),
    ):
        run = jax.jit(metric)
        bad, good = run(logits, batch).compute(), run(logits, batch | {"row_mask": np.float32([1, 0, 1, 1])}).compute()
        assert all(np.isnan(bad[name]) and not np.isnan(good[name]) for name in names)
    assert np.isnan(jax.jit(metrics.brier)(logits, batch).compute())


def test_unknown_labels_count_nowhere():
    """As if their rows were padding."""
    logits, label = sure(6)
    unknown, known = (
        np.where(np.arange(6) < 3, [255, -1, 3, 0, 0, 0], label).astype(np.int32),
        np.float32(np.arange(6) > 2),
    )
    for metric in (metrics.brier, metrics.calibration(), metrics.binned_scores(3, 9)):
        run = jax.jit(metric)
        a, b = (
            run(logits, {"label": unknown, "row_mask": np.ones(6, np.float32)}),
            run(logits, {"label": label, "row_mask": known}),
        )
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y), a, b)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.calibration(0), "bins=0: must be at least 1"),
        (lambda: metrics.binned_scores(3, 1), "bins=1: must be at least 2"),
        (lambda: metrics.binned_scores(0), "num_classes=0"),
        (
            lambda: metrics.binned_scores(3)(jnp.zeros((1, 4)), {"label": jnp.zeros(1, int)}),
            "num_classes=3: the logits have 4 classes",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(InputError, match=message):
        call()
