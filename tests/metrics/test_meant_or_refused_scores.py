"""Dtypes, shapes and labels from which a plausible wrong score could come: the score is right, or there is none."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import losses, metrics
from jaxcnn.core.types import InputError

SEVERAL = np.array([[1.0, 1, 0], [0, 1, 1]], np.float32)
LOGITS = np.array([[3.0, 1, 0], [0, 1, 3]], np.float32)


@pytest.mark.parametrize("metric", [metrics.accuracy, metrics.brier, metrics.calibration(), metrics.confusion(3)])
def test_several_answers_are_no_class(metric):
    def score(label):
        value = metric(LOGITS, {"label": label}).compute()
        return value if not isinstance(value, dict) else value.get("ece", value.get("f1_macro"))

    assert np.isnan(score(SEVERAL)) and not np.isnan(score(SEVERAL / 2))  # shares of two classes are meant


@pytest.mark.parametrize("labels", [np.int32, np.uint8])
@pytest.mark.parametrize("scores", [np.float32, jnp.bfloat16])
def test_average_precision_of_narrow_numbers(labels, scores):
    boxes = np.array([[[0, 0, 0.4, 0.4], [0.5, 0.5, 1, 1]]], np.float32)
    found = {
        "boxes": boxes, "scores": jnp.asarray([[1.0, 0.9]], scores), "labels": np.full((1, 2), 30, labels),
        "box_mask": np.ones((1, 2)),
    }  # fmt: skip
    true = {"boxes": boxes, "box_label": np.full((1, 2), 30, labels)}
    assert metrics.average_precision(80)(found, true).compute()["ap"] == 1
    with pytest.raises(InputError, match="'labels' of dtype float32: must be integers"):
        metrics.average_precision(80)(found | {"labels": np.full((1, 2), 30, np.float32)}, true)


def test_mean_cosines_of_narrow_numbers():
    vectors = np.random.default_rng(0).normal(size=(2000, 8)) + 2
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    label = np.arange(2000) % 2
    exact = metrics.pair_cosines(300)(vectors, {"label": label}).compute()
    for given, names in ((jnp.asarray(vectors, jnp.bfloat16), label), (vectors, label.astype(np.uint8) + 100)):
        found = metrics.pair_cosines(300)(given, {"label": names}).compute()
        assert found["same_cosine"] == pytest.approx(exact["same_cosine"], abs=2e-3)
        assert found["other_cosine"] == pytest.approx(exact["other_cosine"], abs=2e-3)
    with pytest.raises(InputError, match=r"labels int32 of shape \(2000, 1\): must be integers \(2000,\)"):
        metrics.pair_cosines(2)(vectors, {"label": label[:, None]})


def test_bytes_are_labels_of_256_classes():
    logits = np.zeros((2, 256), np.float32)
    np.testing.assert_allclose(losses.cross_entropy(logits, np.array([1, 255], np.uint8)), np.log(256), rtol=1e-6)


def test_shapes_of_forecasts():
    outputs = np.repeat([1.0, 10, 100, 1000], 3).reshape(4, 3, 1).astype(np.float32)
    found = metrics.forecast_metrics((0.5,), mase=True)
    batch = {"target": np.zeros((4, 3), np.float32), "naive_error": outputs[:, 0, 0]}
    assert found["mase"](outputs, batch).compute() == 1
    with pytest.raises(InputError, match=r"'naive_error' of shape \(4, 1\): must be \(4,\)"):
        found["mase"](outputs, batch | {"naive_error": outputs[:, 0]})
    with pytest.raises(InputError, match=r"'target' of shape \(4, 1\): must be \(4, 3\)"):
        found["mae"](outputs, batch | {"target": np.zeros((4, 1), np.float32)})
    with pytest.raises(InputError, match=r"values of shape \(2, 3\): must be \[T\], one series"):
        metrics.naive_error([[1, 2, 3], [10, 20, 30]])


@pytest.mark.parametrize("first, match", [
    ([[1, -1, 2]], "first: has a symbol after -1"), ([[1.0, 2.0, -1.0]], "first of dtype float32: must be integers"),
])  # fmt: skip
def test_strings_that_are_none(first, match):
    with pytest.raises(InputError, match=match):
        metrics.edit_distance(jnp.asarray(first), jnp.asarray([[1, 2, -1]]))


@pytest.mark.parametrize("metric, name", [
    (metrics.accuracy, "label"), (metrics.mae, "label"), (metrics.calibration(), "label"),
    (metrics.multilabel_confusion(3), "label"), (metrics.pair_cosines(3), "label"),
])  # fmt: skip
def test_an_entry_that_is_not_there_is_named(metric, name):
    with pytest.raises(InputError, match=f"the batch has no '{name}', which this metric needs; it has mask"):
        metric(LOGITS, {"mask": np.zeros(2)})
    with pytest.raises(InputError, match="no 'symbols'"):
        jc.metrics.exact_match()(np.zeros((1, 4, 3), np.float32), {"mask": np.zeros(1)})
