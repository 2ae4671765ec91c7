"""Metrics equal scikit-learn, leave padding out, and add across batches."""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import metrics
from jaxcnn.types import add, compute

CLASSES = 6
ALL = {
    "accuracy": metrics.accuracy,
    "confusion": metrics.confusion(CLASSES),
    "count": metrics.count,
    "top_2": metrics.top_k(2),
}


def rows(rng, n=60, classes=CLASSES):
    """Logits with ties, and labels without the last class."""
    logits = np.round(rng.normal(size=(n, classes)) * 2).astype(np.float32)
    return logits, rng.integers(0, classes - 1, n).astype(np.int32)


def batch(labels, real=None):
    out = {"label": jnp.asarray(labels)}
    return out if real is None else out | {"real": jnp.asarray(real)}


def update(logits, batch):
    return {name: metric(jnp.asarray(logits), batch) for name, metric in ALL.items()}


def test_accuracy_and_confusion_equal_sklearn(rng):
    from sklearn.metrics import accuracy_score, confusion_matrix

    logits, labels = rows(rng)
    values = compute(update(logits, batch(labels)))
    guess = logits.argmax(-1)
    assert values["count"] == len(labels)
    assert values["accuracy"] == pytest.approx(accuracy_score(labels, guess))
    np.testing.assert_array_equal(values["confusion"], confusion_matrix(labels, guess, labels=range(CLASSES)))


@pytest.mark.parametrize("absent", [(), (5,), (0, 3)])
@pytest.mark.parametrize("average", ["macro", "micro", "weighted", None])
def test_scores_equal_sklearn(average, absent, rng):
    from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score

    kept = [c for c in range(CLASSES) if c not in absent]
    labels, guess = rng.choice(kept[:-1], 40), rng.choice(kept, 40)  # one class is predicted, but never the truth
    guess[guess == kept[1]] = kept[0]  # and one is never predicted
    matrix = confusion_matrix(labels, guess, labels=range(CLASSES))
    for own, reference in ((metrics.precision, precision_score), (metrics.recall, recall_score), (metrics.f1, f1_score)):
        names = None if average else range(CLASSES)
        expected = reference(labels, guess, average=average, labels=names, zero_division=0)
        np.testing.assert_allclose(own(matrix, average), expected, rtol=1e-12)
        if average:
            assert metrics.report(matrix)[f"{own.__name__}_{average}"] == own(matrix, average)


def test_scores_of_an_empty_matrix_are_zero():
    assert set(metrics.report(np.zeros((3, 3))).values()) == {0.0}


@pytest.mark.parametrize("k", [1, 2, 5, 6, 9])
def test_top_k_equals_sklearn(k, rng):
    from sklearn.metrics import top_k_accuracy_score

    logits, labels = rows(rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "k >= classes results in a perfect score"
        # scikit-learn lets the last of equal scores win, so turn the classes round
        expected = top_k_accuracy_score(CLASSES - 1 - labels, logits[:, ::-1], k=k, labels=range(CLASSES))
    assert metrics.top_k(k)(jnp.asarray(logits), batch(labels)).compute() == pytest.approx(expected)


def test_top_k_never_counts_nan():
    logits = jnp.array([[jnp.nan, 0.0, 0.0], [1.0, 0.0, 2.0]])
    assert metrics.top_k(3)(logits, batch(np.array([0, 0]))).compute() == 0.5


@pytest.mark.parametrize("kind", [np.float32, np.int32, bool])
def test_padded_equals_filtered(kind, rng):
    logits, labels = rows(rng)
    real = rng.random(len(labels)) < 0.7
    padded = jax.jit(update)(logits, batch(labels, real.astype(kind)))
    chex.assert_trees_all_equal(jax.tree.map(np.float64, padded), jax.tree.map(np.float64, update(logits[real], batch(labels[real]))))


def test_parts_add_up(rng):
    logits, labels = rows(rng)
    parts = [update(logits[at], batch(labels[at])) for at in (slice(0, 25), slice(25, None))]
    chex.assert_trees_all_equal(add(*parts), update(logits, batch(labels)))


def test_probability_labels_count_as_their_largest(rng):
    logits, labels = rows(rng)
    soft = 0.9 * np.eye(CLASSES, dtype=np.float32)[labels] + 0.1 / CLASSES
    chex.assert_trees_all_equal(update(logits, batch(soft)), update(logits, batch(labels)))


def test_one_logit_decides_between_two_classes():
    logits, labels = jnp.array([[2.0], [-1.0], [0.0], [3.0]]), batch(np.array([1, 0, 0, 0]))
    assert metrics.accuracy(logits, labels).compute() == 0.75
    np.testing.assert_array_equal(metrics.confusion(2)(logits, labels).compute()["confusion"], [[2, 1], [0, 1]])


def test_dense_labels_are_averaged_over_places():
    logits = jnp.zeros((2, 2, 2, 3)).at[0, ..., 1].set(1.0)  # class 1 everywhere in the first image, class 0 in the second
    labels = batch(np.array([[[1, 1], [1, 0]], [[0, 0], [0, 0]]]), np.array([1.0, 0.0]))
    assert metrics.accuracy(logits, labels) == (3.0, 4.0)


def test_multilabel_accuracy():
    logits = jnp.array([[1.0, -1.0, 2.0], [0.5, 0.5, -3.0]])
    labels = np.array([[1, 0, 0], [1, 0, 0]])
    assert metrics.multilabel_accuracy(logits, batch(labels)).compute() == pytest.approx(4 / 6)
    assert metrics.multilabel_accuracy(logits, batch(labels, np.array([0, 1]))).compute() == pytest.approx(2 / 3)


def test_mean_of_nothing_is_nan():
    nothing = metrics.mean(jnp.ones(3), batch(np.zeros(3, np.int32), np.zeros(3)))
    assert np.isnan(nothing.compute())


@pytest.mark.parametrize(
    "share, count, low, high",
    [(0.5, 10, 0.236590, 0.763410), (0.0, 10, 0.0, 0.277540), (1.0, 10, 0.722460, 1.0), (0.9, 360, 0.864662, 0.926891), (0.0, 0, 0.0, 1.0)],
)
def test_wilson_interval(share, count, low, high):
    assert metrics.wilson_interval(share, count) == pytest.approx((low, high), abs=2e-6)
