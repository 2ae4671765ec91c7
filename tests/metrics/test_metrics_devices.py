"""Every metric is equal on one device and on eight, for any batch size: padding counts nowhere, and parts add up."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import metrics
from jaxcnn.core.types import Task, compute

CLASSES = 4


@functools.cache
def rows(n=75):
    rng = np.random.default_rng(0)
    truth = rng.random((n, 12, 12, 1)).astype(np.float32)
    return {
        "logits": np.round(rng.normal(size=(n, CLASSES)) * 4).astype(np.float32) / 2,
        "label": rng.integers(0, CLASSES, n).astype(np.int32),
        "several": rng.integers(0, 2, (n, CLASSES)).astype(np.int32),
        "dense": rng.normal(size=(n, 3, 5, CLASSES)).astype(np.float32),
        "pixels": rng.choice([0, 1, 2, 3, 255], (n, 3, 5)).astype(np.int32),
        "guess": (1e4 + rng.normal(size=(n, 2))).astype(np.float32),
        "value": (1e4 + rng.normal(size=(n, 2))).astype(np.float32),
        "picture": (truth + rng.normal(size=truth.shape) * 0.1).astype(np.float32),
        "target": truth,
    }


def of(metric, output, label="label"):
    """A metric of one output and one label among several."""
    return lambda outputs, batch: metric(outputs[output], {**batch, "label": batch[label]})


ALL = {
    "accuracy": of(metrics.accuracy, "logits"),
    "top_2": of(metrics.top_k(2), "logits"),
    "confusion": of(metrics.confusion(CLASSES), "logits"),
    "pixels": of(metrics.confusion(CLASSES), "dense", "pixels"),
    "brier": of(metrics.brier, "logits"),
    "calibration": of(metrics.calibration(), "logits"),
    "binned_pixels": of(metrics.binned_scores(CLASSES, 100), "dense", "pixels"),
    "binned_several": of(metrics.binned_scores(CLASSES, 100, multilabel=True), "logits", "several"),
    "multilabel_accuracy": of(metrics.multilabel_accuracy, "logits", "several"),
    "multilabel_confusion": of(metrics.multilabel_confusion(CLASSES), "logits", "several"),
    "mae": of(metrics.mae, "guess", "value"),
    "rmse": of(metrics.rmse, "guess", "value"),
    "r2": of(metrics.r2, "guess", "value"),
    "psnr": of(metrics.psnr(1.0), "picture", "target"),
    "ssim": of(metrics.ssim(1.0), "picture", "target"),
}
WHOLE = ("confusion", "pixels", "binned_pixels", "binned_several", "multilabel_confusion")  # counts: not a bit differs


def tagged(name, metric):
    """Prefix the names of a metric's values, because several metrics give `roc_auc`."""

    class Tagged(NamedTuple):
        inner: Any

        def compute(self):
            value = self.inner.compute()
            named = value if isinstance(value, dict) else {"value": value}
            return {f"{name}: {key}": np.stack(x) if isinstance(x, tuple) else x for key, x in named.items()}

    return lambda outputs, batch: Tagged(metric(outputs, batch))


TAGGED = {name: tagged(name, metric) for name, metric in ALL.items()}


@functools.cache
def reference():
    """All rows as one batch, without padding."""
    batch = {key: jnp.asarray(x) for key, x in rows().items()}
    return compute(jax.jit(lambda batch: {name: metric(batch, batch) for name, metric in TAGGED.items()})(batch))


@pytest.mark.parametrize(
    "strategy, devices, batch_sizes",
    [
        ("jit", 1, (7,)),
        ("sharded", 8, (64,)),
        *(pytest.param(*how, (1, 7, 64), marks=pytest.mark.slow) for how in (("jit", 1), ("sharded", 8), ("pmap", 8))),
    ],
)
def test_the_same_on_any_devices_in_any_batches(strategy, devices, batch_sizes):
    task = Task(lambda key, batch: {"params": {}}, None, lambda variables, batch: dict(batch), TAGGED)
    run = jc.compile_step(jc.make_eval_step(task), strategy, devices)
    data = jc.data.Resident(rows(), tuple("abcd"))
    for batch_size in batch_sizes:
        values = jc.evaluate(run, {"params": {}}, data, batch_size=batch_size)
        assert set(values) == set(reference())
        for key, expected in reference().items():
            exact = {"rtol": 0, "atol": 0} if key.split(":")[0] in WHOLE else {"rtol": 1e-5, "atol": 1e-6}
            np.testing.assert_allclose(values[key], expected, err_msg=f"{key} {batch_size}", **exact)
