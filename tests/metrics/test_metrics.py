"""Metrics equal scikit-learn, ignore padding, and add across batches."""

import json
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import metrics
from jaxcnn.core.types import InputError, add, compute
from jaxcnn.metrics import Confusion

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


def batch(labels, row_mask=None):
    out = {"label": jnp.asarray(labels)}
    return out if row_mask is None else out | {"row_mask": jnp.asarray(row_mask)}


@jax.jit
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
    for own, reference in (
        (metrics.precision, precision_score),
        (metrics.recall, recall_score),
        (metrics.f1, f1_score),
    ):
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


@pytest.mark.parametrize("kind", [np.float32, np.int32, bool])
def test_padded_equals_filtered(kind, rng):
    logits, labels = rows(rng)
    row_mask = rng.random(len(labels)) < 0.7
    padded = update(logits, batch(labels, row_mask.astype(kind)))
    chex.assert_trees_all_equal(
        jax.tree.map(np.float64, padded), jax.tree.map(np.float64, update(logits[row_mask], batch(labels[row_mask])))
    )


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
    # class 1 everywhere in the first image, class 0 in the second
    logits = jnp.zeros((2, 2, 2, 3)).at[0, ..., 1].set(1.0)
    labels = batch(np.array([[[1, 1], [1, 0]], [[0, 0], [0, 0]]]), np.array([1.0, 0.0]))
    assert metrics.accuracy(logits, labels) == (3.0, 4.0)


def test_confusion_of_pixels_leaves_unknown_ones_out(rng):
    """Any rank; labels that are no class, such as 255 and -1, count nowhere, nor do classes beyond the matrix."""
    from sklearn.metrics import confusion_matrix

    logits, labels = rng.normal(size=(3, 4, 5, CLASSES + 1)), rng.choice([-1, 0, 1, 2, 3, 4, 5, 6, 255], (3, 4, 5))
    row_mask, guess = np.array([1, 0, 1]), logits.argmax(-1)
    counted = (labels >= 0) & (labels < CLASSES) & (guess < CLASSES) & (row_mask[:, None, None] > 0)
    expected = confusion_matrix(labels[counted], guess[counted], labels=range(CLASSES))
    for batch_ in (batch(labels, row_mask), batch(labels.astype(np.uint8), row_mask)):  # in 8 bits -1 is 255
        found = jax.jit(metrics.confusion(CLASSES))(logits, batch_)
        np.testing.assert_array_equal(found.counts, expected)
    assert 0 < expected.sum() < 40


def test_counts_beyond_float32():
    """In float32 a count would stay at 2**24."""
    many = Confusion(np.array([[2**24, 0], [0, 0]], np.int32))
    one = jax.jit(metrics.confusion(2))(jnp.zeros((1, 2)), batch(np.zeros(1, np.int32)))
    assert one.counts.dtype == jnp.int32
    assert add(many, jax.device_get(one)).compute()["confusion"][0, 0] == 2**24 + 1


def test_padding_may_hold_anything():
    found = metrics.mean(jnp.array([1.0, jnp.nan, jnp.inf]), batch(np.zeros(3, np.int32), np.array([1.0, 0.0, 0.0])))
    assert found.compute() == 1
    assert np.isnan(metrics.mean(jnp.array([1.0, jnp.nan]), batch(np.zeros(2, np.int32))).compute())


@pytest.mark.parametrize("average", ["macro", "micro", "weighted", None])
def test_dice_is_f1_and_iou_follows_from_it(average, rng):
    matrix = rng.integers(0, 9, (4, 4))
    np.testing.assert_array_equal(metrics.dice(matrix, average), metrics.f1(matrix, average))
    if average in ("micro", None):
        dice = np.asarray(metrics.dice(matrix, average))
        np.testing.assert_allclose(metrics.iou(matrix, average), dice / (2 - dice))


@pytest.mark.parametrize("kind", ["classes", "multilabel"])
def test_classification_report_equals_sklearn_in_200_cases(kind):
    from sklearn.metrics import classification_report, confusion_matrix, multilabel_confusion_matrix

    for seed in range(200):
        rng = np.random.default_rng([seed, 5])
        names, n, kept = (
            [f"class {'x' * k}" for k in range(5)],
            int(rng.integers(1, 60)),
            rng.permutation(5)[: rng.integers(1, 6)],
        )
        if kind == "classes":
            labels, guess = rng.choice(kept, (2, n))
            seen, matrix = np.unique([labels, guess]), confusion_matrix(labels, guess, labels=range(5))
        else:
            labels, guess = rng.random((2, n, 5)) < 0.4
            seen, matrix = np.arange(5), multilabel_confusion_matrix(labels, guess)
        options = {"target_names": [names[k] for k in seen], "zero_division": 0}
        own, lines = (
            metrics.classification_report(matrix, names),
            classification_report(labels, guess, digits=9, **options).splitlines(),
        )
        if not lines[-1].endswith(".0"):  # where nothing is right, scikit-learn writes the support as 7.0
            # a confusion matrix does not count these
            assert own.text(9).splitlines() == [line for line in lines if "samples avg" not in line]
        if seed % 10 == 0:
            theirs = classification_report(labels, guess, output_dict=True, **options)
            theirs.pop("samples avg", None)
            assert own.as_dict().keys() == theirs.keys() and json.loads(json.dumps(own.as_dict())) == own.as_dict()
            assert all(own.as_dict()[name] == pytest.approx(row, abs=1e-12) for name, row in theirs.items())


def test_classification_report_as_markdown():
    text = metrics.classification_report(np.array([[2, 1], [0, 1]]), ["a|b", "c"]).markdown(2)
    assert text.splitlines() == [
        "| | precision | recall | f1-score | support |",
        "|---|---:|---:|---:|---:|",
        "| a\\|b | 1.00 | 0.67 | 0.80 | 3 |",
        "| c | 0.50 | 1.00 | 0.67 | 1 |",
        "| accuracy |  |  | 0.75 | 4 |",
        "| macro avg | 0.75 | 0.83 | 0.73 | 4 |",
        "| weighted avg | 0.88 | 0.75 | 0.77 | 4 |",
    ]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.f1(np.zeros((2, 3))), r"matrix of shape \(2, 3\): must be \[K, K\], or \[K, 2, 2\]"),
        (lambda: metrics.cohen_kappa(np.zeros((3, 2, 2))), r"must be \[K, K\]$"),
        (lambda: metrics.recall(np.full((2, 2), -1)), "matrix with 4 entries that are negative"),
        (lambda: metrics.recall(np.zeros((2, 2)), "samples"), "average='samples': must be"),
        (lambda: metrics.cohen_kappa(np.zeros((2, 2)), "cubic"), "weights='cubic'"),
        (lambda: metrics.classification_report(np.zeros((2, 2)), ["a"]), "1 names for 2 classes"),
        (lambda: metrics.classification_report(np.zeros((2, 2)), ["a", "a"]), "the name 'a' is given twice"),
        (
            lambda: metrics.classification_report(np.zeros((2, 2)), ["accuracy", "a"]),
            "'accuracy' is that of an average",
        ),
        (lambda: metrics.confusion(0), "num_classes=0: must be at least 1"),
    ],
)
def test_bad_matrices_and_arguments(call, message):
    with pytest.raises(InputError, match=message):
        call()


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
    [
        (0.5, 10, 0.236590, 0.763410),
        (0.0, 10, 0.0, 0.277540),
        (1.0, 10, 0.722460, 1.0),
        (0.9, 360, 0.864662, 0.926891),
        (0.0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval(share, count, low, high):
    assert metrics.wilson_interval(share, count) == pytest.approx((low, high), abs=2e-6)
