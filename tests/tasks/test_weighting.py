"""Weights of rows and pixels, and what padding may hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.core.types import InputError

IMAGES = np.random.default_rng(0).random((2, 4, 4, 3)).astype(np.float32)
LABELS = np.arange(32).reshape(2, 4, 4) % 3


def segments():
    return jc.tasks.segmentation(jc.models.unet(num_classes=3, widths=(2, 4)))


def tasks():
    model = jc.models.mlp(num_classes=3, widths=(4,))
    return {
        "classification": (jc.tasks.classification(model), {"label": np.array([0, 2])}),
        "regression": (jc.tasks.regression(model), {"target": np.ones((2, 3), np.float32)}),
        "segmentation": (segments(), {"label": LABELS}),
    }


@pytest.mark.parametrize("name", ["classification", "regression", "segmentation"])
@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_weights_of_rows_are_finite_and_not_negative(name, weight):
    task, answers = tasks()[name]
    rows = {"image": IMAGES, **answers, "sample_weight": np.array([1, weight], np.float32)}
    with pytest.raises(InputError, match="sample_weight from .* to .*: must be finite and not negative"):
        task.check(rows)


def test_weights_of_pixels_are_one_for_each():
    task, rows = segments(), {"image": IMAGES, "label": LABELS}
    variables = task.init(jax.random.key(0), rows)
    weight = np.random.default_rng(1).random((2, 4, 4)).astype(np.float32)

    def loss(weight):
        logits = task.predict(variables, rows)
        return float(task.metrics["loss"](logits, rows | {"pixel_weight": weight}).compute())

    assert loss(weight[..., None]) == pytest.approx(loss(weight), rel=1e-6)
    each = weight[:, :1, :1]  # one for each image
    assert loss(each) == pytest.approx(loss(np.broadcast_to(each, weight.shape)), rel=1e-6)
    for wrong in (weight[:, 0], weight[:, :1], weight[:1]):
        with pytest.raises(InputError, match=r"of shape .*: must be \(2, 4, 4\), one weight per pixel"):
            loss(wrong)
    with pytest.raises(InputError, match="pixel_weight from .*: must be finite and not negative"):
        task.check(rows | {"pixel_weight": -weight})


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int8])
def test_an_ignored_label_of_any_dtype(dtype):
    task = jc.tasks.segmentation(jc.models.unet(num_classes=3, widths=(2, 4)), ignore_label=-1)
    label = LABELS.astype(dtype)
    label[:, 0] = np.array(-1).astype(dtype)
    rows = {"image": IMAGES, "label": label}
    task.check(rows)
    logits = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    wanted = jc.losses.cross_entropy(logits[:, 1:], LABELS[:, 1:]).mean()
    assert float(task.metrics["loss"](logits, rows).compute()) == pytest.approx(float(wanted), rel=1e-5)


def test_segmentation_without_images():
    with pytest.raises(InputError, match="the batch has no 'image', only label"):
        segments().check({"label": LABELS})


def unit_length():
    """A task whose network has no gradient at an image of zeros."""

    def init(key, x):
        return {"params": {"w": jax.random.normal(key, (48, 3))}}

    def apply(variables, x, train):
        features = x.reshape(len(x), -1) @ variables["params"]["w"]
        return features / jnp.linalg.norm(features, axis=-1, keepdims=True)

    return jc.tasks.classification(jc.models.from_functions(init, apply, num_classes=3)), {"label": np.array([0, 2])}


@pytest.mark.parametrize("name", ["classification", "regression", "segmentation", "unit length"])
def test_padding_may_hold_anything(name):
    task, answers = unit_length() if name == "unit length" else tasks()[name]
    rows = {"image": IMAGES, **answers, "row_mask": np.array([1, 0], np.float32)}
    if name == "regression":
        rows["target"] = np.array([[1, 1, 1], [np.nan] * 3], np.float32)
    task.check(rows)
    rows["image"] = np.stack([IMAGES[0], np.full((4, 4, 3), np.nan, np.float32)])
    state = task.init(jax.random.key(0), rows)
    params, rest = state["params"], {k: v for k, v in state.items() if k != "params"}
    slope = jax.grad(lambda p, rows: task.loss(p, rest, rows, jax.random.key(0))[0].total)
    gradient = jax.jit(slope)(params, rows)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
