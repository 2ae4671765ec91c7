"""One rule for every metric: padding and unknown labels count nowhere, NaN makes a value NaN, labels of another shape are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import metrics
from jaxcnn.core.types import InputError, add, compute, scalars

ROWS, CLASSES = 6, 3
RNG = np.random.default_rng(3)
LABEL = np.array([0, 1, 2, 0, 1, 1], np.int32)
LOGITS = RNG.normal(size=(ROWS, CLASSES)).astype(np.float32)
SOFT = (0.8 * np.eye(CLASSES)[LABEL] + 0.2 / CLASSES).astype(np.float32)
DENSE = RNG.normal(size=(ROWS, 2, 2, CLASSES)).astype(np.float32)
PIXELS = np.array([[0, 1, 2, 2]] * ROWS, np.int32).reshape(ROWS, 2, 2)
PICTURE = RNG.random((ROWS, 12, 12, 1)).astype(np.float32)
VALUES = RNG.normal(size=(ROWS, 2)).astype(np.float32)
ANSWERS = np.array([[1, 0, 1], [0, 1, 0]] * 3, np.int32)
one = np.s_[:, :1]

TABLE = {  # (metric, outputs, labels)
    "accuracy": (metrics.accuracy, LOGITS, LABEL),
    "accuracy of one logit": (metrics.accuracy, LOGITS[one], LABEL % 2),
    "accuracy of pixels": (metrics.accuracy, DENSE, PIXELS),
    "accuracy of probabilities": (metrics.accuracy, LOGITS, SOFT),
    "top_k": (metrics.top_k(2), LOGITS, LABEL),
    "top_k of one logit": (metrics.top_k(1), LOGITS[one], LABEL % 2),
    "top_k of pixels": (metrics.top_k(2), DENSE, PIXELS),
    "confusion": (metrics.confusion(CLASSES), LOGITS, LABEL),
    "confusion of one logit": (metrics.confusion(2), LOGITS[one], LABEL % 2),
    "confusion of pixels": (metrics.confusion(CLASSES), DENSE, PIXELS),
    "multilabel_accuracy": (metrics.multilabel_accuracy, LOGITS, ANSWERS),
    "multilabel_confusion": (metrics.multilabel_confusion(CLASSES), LOGITS, ANSWERS),
    "brier": (metrics.brier, LOGITS, LABEL),
    "brier of one logit": (metrics.brier, LOGITS[one], LABEL % 2),
    "brier of two": (metrics.brier, LOGITS[:, :2], LABEL % 2),
    "log_loss": (metrics.log_loss, LOGITS, LABEL),
    "log_loss of one logit": (metrics.log_loss, LOGITS[one], LABEL % 2),
    "calibration": (metrics.calibration(4), LOGITS, LABEL),
    "calibration of one logit": (metrics.calibration(4), LOGITS[one], LABEL % 2),
    "binned_scores": (metrics.binned_scores(CLASSES, 8), LOGITS, LABEL),
    "binned_scores of one logit": (metrics.binned_scores(1, 8), LOGITS[one], LABEL % 2),
    "binned_scores of several": (metrics.binned_scores(CLASSES, 8, multilabel=True), LOGITS, ANSWERS),
    "mae": (metrics.mae, VALUES, VALUES[::-1]),
    "rmse": (metrics.rmse, VALUES, VALUES[::-1]),
    "r2": (metrics.r2, VALUES, VALUES[::-1]),
    "psnr": (metrics.psnr(1.0), PICTURE, PICTURE[::-1]),
    "ssim": (metrics.ssim(1.0), PICTURE, PICTURE[::-1]),
}
CLASSIFIED = [name for name in TABLE if name not in ("mae", "rmse", "r2", "psnr", "ssim", "accuracy of probabilities")]


def measured(metric, outputs, label, row_mask=None):
    """Numbers by name, as an evaluation gives them."""
    run = jax.jit(lambda outputs, label, row_mask: metric(outputs, {"label": label, "row_mask": row_mask}))
    sums = jax.device_get(run(outputs, label, np.ones(len(label), np.float32) if row_mask is None else row_mask))
    return compute({"value": sums})


def broken(x, row=1):
    """One entry of a row is NaN, the first one, which `argmax` takes for the largest."""
    x = np.array(x, np.float32)
    x[row].flat[0] = np.nan
    return x


def row_mask(row=1):
    return (np.arange(ROWS) != row).astype(np.float32)


def same(a, b):
    assert a.keys() == b.keys()
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


@pytest.mark.parametrize("name", TABLE)
def test_nan_makes_the_value_nan_and_padding_may_be_nan(name):
    metric, outputs, label = TABLE[name]
    whole, unsound = scalars(measured(metric, outputs, label)), scalars(measured(metric, broken(outputs), label))
    assert whole and not any(map(np.isnan, whole.values()))
    assert all(map(np.isnan, unsound.values())), unsound
    padded, fine = measured(metric, broken(outputs), label, row_mask()), measured(metric, outputs, label, row_mask())
    same(padded, fine)
    assert not any(map(np.isnan, scalars(padded).values()))


@pytest.mark.parametrize("name", [name for name, (_, _, label) in TABLE.items() if label.dtype != np.int32])
def test_a_label_that_is_nan_makes_the_value_nan(name):
    metric, outputs, label = TABLE[name]
    assert all(map(np.isnan, scalars(measured(metric, outputs, broken(label))).values()))


@pytest.mark.parametrize("unknown", [-1, 255])
@pytest.mark.parametrize("name", CLASSIFIED)
def test_a_label_that_is_no_class_counts_as_if_its_row_were_padding(name, unknown):
    metric, outputs, label = TABLE[name]
    other = label.copy()
    other[1] = unknown
    same(measured(metric, outputs, other), measured(metric, outputs, label, row_mask()))


def test_a_row_without_prediction_is_in_no_cell_of_the_matrix():
    all_nan = np.full((10, 4), np.nan, np.float32)
    labels = np.array([0] * 5 + [1, 2, 3, 1, 2], np.int32)
    assert np.asarray(metrics.predicted_class(jnp.asarray(all_nan))).tolist() == [-1] * 10
    found = compute({"confusion": metrics.confusion(4)(all_nan, {"label": labels})})
    assert found["confusion"].sum() == 0 and np.isnan(found["f1_macro"]) and np.isnan(found["cohen_kappa"])
    beyond = metrics.confusion(2)(np.eye(3, dtype=np.float32), {"label": np.zeros(3, np.int32)})  # predicts 0, 1 and 2
    assert (
        beyond.counts.tolist() == [[1, 1], [0, 0]]
        and beyond.left_out == 1
        and np.isnan(beyond.compute()["recall_macro"])
    )


def test_infinite_logits_have_their_place():
    logits = np.array([[np.inf, 0, 1], [-np.inf, 0, 1], [0, -np.inf, np.inf]], np.float32)
    batch = {"label": np.array([0, 2, 0])}
    kinds = (metrics.accuracy, metrics.top_k(2), metrics.confusion(3), metrics.brier, metrics.log_loss)
    run = jax.jit(lambda logits, batch: [metric(logits, batch) for metric in kinds])
    accuracy, top, matrix, brier, loss = (sums.compute() for sums in run(logits, batch))
    assert accuracy == pytest.approx(2 / 3) and top == 1 and np.isnan([brier, loss]).all()
    assert matrix["confusion"].tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 1]]
    alone = run(logits, batch | {"row_mask": np.array([0, 1, 0])})  # a class that is ruled out
    assert [sums.compute() for sums in alone[-2:]] == pytest.approx([2 / (1 + np.e) ** 2, np.log1p(1 / np.e)], rel=1e-5)
    assert metrics.log_loss(np.float32([[-200.0]]), {"label": np.array([1])}).compute() == pytest.approx(200)


@pytest.mark.parametrize("form", [np.int64, np.float32, bool, np.uint8])
@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("name", [name for name in TABLE if name.endswith("of one logit")])
def test_labels_of_one_logit_in_every_form(name, form, column):
    """Once, floats were all class 0, and labels [B, 1] made B x B answers."""
    metric, outputs, label = TABLE[name]
    given = label.astype(form)[:, None] if column else label.astype(form)
    same(measured(metric, outputs, given), measured(metric, outputs, label))


def test_probabilities_that_are_no_class_count_nowhere():
    """`one_hot(-1)` is 0 for every class."""
    soft = np.array(SOFT)
    soft[1] = 0
    same(measured(metrics.accuracy, LOGITS, soft), measured(metrics.accuracy, LOGITS, SOFT, row_mask()))


@pytest.mark.parametrize(
    "metric, logits, label, message",
    [
        (
            metrics.accuracy,
            LOGITS,
            LABEL[:, None],
            r"labels int32 of shape \[6, 1\] for logits of shape \[6, 3\]: must be integers \[6\]",
        ),
        (metrics.accuracy, LOGITS, LABEL.astype(np.float32), r"labels float32 of shape \[6\] for logits"),
        (metrics.accuracy, LOGITS, ANSWERS, r"labels int32 of shape \[6, 3\]"),
        (
            metrics.accuracy,
            LOGITS[one],
            LABEL[:3],
            r"labels int32 of shape \[3\] for logits of shape \[6, 1\]: must be numbers",
        ),
        (metrics.top_k(2), LOGITS, LABEL[:1], r"labels int32 of shape \[1\]"),
        (metrics.brier, DENSE, LABEL, r"labels int32 of shape \[6\] for logits of shape \[6, 2, 2, 3\]"),
        (metrics.confusion(3), DENSE, PIXELS[..., None], r"of shape \[6, 2, 2, 1\]"),
        (
            metrics.multilabel_accuracy,
            LOGITS,
            LABEL,
            r"labels of shape \[6\] for logits of shape \[6, 3\]: must be the same",
        ),
        (metrics.multilabel_accuracy, LOGITS, ANSWERS[one], r"labels of shape \[6, 1\]"),
        (metrics.multilabel_confusion(3), LOGITS[one], ANSWERS[one], "num_classes=3: the logits have 1 classes; use that number"),
        (metrics.binned_scores(3, multilabel=True), LOGITS, LABEL, "must be the same"),
        (metrics.top_k, 0, None, "k=0: must be at least 1"),
    ],
)
def test_labels_of_another_shape_are_refused(metric, logits, label, message):
    with pytest.raises(InputError, match=message):
        metric(logits) if label is None else metric(logits, {"label": label})


def test_no_rows_are_nan():
    for name, (metric, outputs, label) in TABLE.items():
        found = measured(metric, outputs[:0], label[:0])
        fine = name.startswith(("confusion", "multilabel_confusion"))  # scikit-learn's zero_division=0
        assert all(x == 0 if fine else np.isnan(x) for x in scalars(found).values()), name


def test_counts_and_confidences_beyond_float32_in_one_dispatch():
    """In float32 one row after another, a count stays at 2**24, and a sum loses digits long before."""
    n = 2**20
    run = jax.jit(lambda x, label: metrics.calibration(2)(x, {"label": label}))
    found = run(jnp.full((n, 1), 2.0, jnp.float32), jnp.ones(n, jnp.int8))
    assert found.correct.dtype == found.counts.dtype == jnp.int32 and int(found.correct[1]) == int(found.counts[1]) == n
    assert float(found.confidence[1]) == pytest.approx(n / (1 + np.exp(-2)), rel=1e-5)
    assert metrics.count(None, {"label": jnp.zeros(3), "row_mask": jnp.ones(3)}).n.dtype == jnp.int32
    assert (
        metrics.r2(VALUES, {"label": VALUES}).weight.dtype
        == metrics.rmse(VALUES, {"label": VALUES}).weight.dtype
        == jnp.int32
    )


CONFUSION = jax.jit(lambda logits, label: metrics.confusion(2)(logits, {"label": label}))


def matrices(*names, others=()):
    right = np.eye(2, dtype=np.float32)[LABEL % 2]
    given = {name: CONFUSION(right if k == 0 else 1 - right, LABEL % 2) for k, name in enumerate(names)}
    return compute(given | dict(others))


def test_no_metric_overwrites_another():
    both = matrices("a", "b")
    assert (
        both["a/confusion"].trace() == ROWS
        and both["b/confusion"].trace() == 0
        and (both["a/f1_macro"], both["b/f1_macro"]) == (1, 0)
    )
    assert len(both) == 2 * len(matrices("a")) and all(key[:2] in ("a/", "b/") for key in both)
    assert set(matrices("a")) == set(matrices("confusion")) and "f1_macro" in matrices(
        "a"
    )  # alone, as it has always been
    second = matrices("confusion", "b")  # the columns of the first stay
    assert (
        second["confusion"].trace() == ROWS
        and second["f1_macro"] == 1
        and second["b/confusion"].trace() == second["b/f1_macro"] == 0
    )
    single = matrices("confusion", others={"f1_macro": metrics.Mean(3.0, 4.0)})
    assert single["f1_macro"] == 0.75 and single["confusion/f1_macro"] == 1
    two = compute(
        {"x": metrics.calibration(2)(LOGITS, {"label": LABEL}), "y": metrics.calibration(9)(LOGITS, {"label": LABEL})}
    )
    assert set(two) == {f"{name}/{key}" for name in "xy" for key in ("ece", "mce", "reliability")}
    several = metrics.multilabel_confusion(CLASSES)(LOGITS, {"label": ANSWERS})
    assert {"confusion", "multilabel_confusion", "confusion/f1_macro", "multilabel_confusion/f1_macro"} <= set(
        matrices("confusion", others={"multilabel_confusion": several})
    )
    with pytest.raises(
        InputError, match="metrics 'a' and 'a/f1_macro' both give a value 'a/f1_macro': rename one of them"
    ):
        matrices("a", "b", others={"a/f1_macro": metrics.Mean(1.0, 1.0)})


def test_scalars_are_what_json_has():
    curve = metrics.pr_curve(np.array([0.1, 0.9]), np.array([0, 1]))  # of arrays of different lengths
    given = {"a": np.float32(0.5), "b": jnp.ones(()), "c": np.array(3), "d": True, "e": None}
    found = scalars(given | {"matrix": np.eye(2), "by class": {"x": 1}, "curve": curve})
    assert found == {"a": 0.5, "b": 1.0, "c": 3, "d": True, "e": None} and [type(x) for x in found.values()][:4] == [
        float,
        float,
        int,
        bool,
    ]


def test_parts_with_nan_add_up():
    run = jax.jit(
        lambda x, label: {
            n: m(x, {"label": label}) for n, m in (("a", metrics.accuracy), ("c", metrics.confusion(CLASSES)))
        }
    )
    both = compute(jax.device_get(add(run(LOGITS, LABEL), run(broken(LOGITS), LABEL))))
    assert np.isnan(both["a"]) and np.isnan(both["f1_macro"]) and both["confusion"].sum() == 2 * ROWS - 1
