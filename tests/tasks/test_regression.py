"""Regression: what its loss and metrics are, and which targets it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import losses


def task(outputs=1, **options):
    return jc.tasks.regression(jc.models.mlp(num_classes=outputs, widths=(4,)), **options)


def batch(target, key="target", **more):
    image = np.random.default_rng(0).integers(0, 256, (len(target), 4, 4, 1)).astype(np.uint8)
    return {"image": image, key: np.asarray(target), **more}


def refused(match, call, *arguments, **options):
    with pytest.raises(jc.InputError, match=match) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_losses_by_hand():
    outputs, targets = jnp.array([[0.0, 2.0], [1.0, -4.0]]), jnp.array([[1.0, 2.0], [1.0, 1.0]])
    np.testing.assert_allclose(losses.squared_error(outputs, targets), [0.5, 12.5])
    np.testing.assert_allclose(losses.huber(outputs, targets, 2.0), [0.25, 4.0])  # 2 * (5 - 1) / 2
    np.testing.assert_allclose(losses.squared_error(outputs[:, 0], targets[:, 0]), [1.0, 0.0])
    refused(
        "outputs of shape .2, 2., targets of shape .2,.: must have the same shape",
        losses.squared_error,
        outputs,
        targets[:, 0],
    )
    refused("delta=0: must be positive", losses.huber, outputs, targets, 0)


@pytest.mark.parametrize("key", ["target", "label"])
@pytest.mark.parametrize("shape, outputs", [((5,), 1), ((5, 1), 1), ((5, 3), 3)])
def test_outputs_and_loss_are_in_their_units(key, shape, outputs, rng):
    center, scale = 10.0, 4.0
    target = rng.normal(center, scale, shape).astype(np.float32)
    made, rows = (
        task(outputs, center=center, scale=scale),
        batch(target, key, row_mask=np.array([1, 1, 1, 1, 0], np.float32)),
    )
    variables = made.init(jax.random.key(0), rows)
    found = np.asarray(made.predict(variables, rows))
    plain = jc.models.mlp(num_classes=outputs, widths=(4,)).apply(
        variables, jc.tasks.prepare(jnp.asarray(rows["image"])), train=False
    )
    np.testing.assert_allclose(found, np.asarray(plain) * scale + center, rtol=1e-5)
    values = jc.types.compute(jc.make_eval_step(made)(variables, rows)[1])
    error = (found - target.reshape(found.shape))[:4]
    assert values["count"] == 4 and values["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)
    assert values["loss"] == pytest.approx(((error / scale) ** 2).mean(), rel=1e-5)
    mean, (outputs_, _) = made.loss(variables["params"], {}, rows, jax.random.key(1))
    assert mean.total / mean.weight == pytest.approx(values["loss"], rel=1e-5) and outputs_.shape == found.shape


def test_agreement_counts_rows():
    metric = jc.metrics.agreement(0.0, 1.0, bins=4)
    outputs, label = jnp.array([[0.1], [0.9], [-3.0], [jnp.nan], [0.5]]), jnp.array([0.1, 0.3, 0.6, 0.5, 0.5])
    found = metric(outputs, {"label": label, "row_mask": jnp.array([1.0, 1, 1, 1, 0])}).compute()
    assert found[0, 0] == found[1, 3] == found[2, 0] == 1 and found.sum() == 3
    refused("must be finite limits in order", jc.metrics.agreement, 1.0, 0.0)


BAD = [
    (np.array([1.0, np.nan, 2.0]), 1, "'target' of row 1 is nan: targets must be finite numbers; leave such rows out"),
    (
        np.zeros((3, 2), np.float32),
        1,
        r"'target' of shape \(3, 2\): the model has num_classes=1, so targets must be \[N\] or \[N, 1\]",
    ),
    (np.zeros(3, np.float32), 2, r"'target' of shape \(3,\): the model has num_classes=2, so targets must be \[N, 2\]"),
    (np.zeros(3, bool), 1, "'target' has dtype bool: targets must be whole numbers or floats"),
]


@pytest.mark.parametrize("target, outputs, line", BAD)
def test_targets_that_are_refused(target, outputs, line):
    refused(line, task(outputs).check, batch(target))


def test_a_batch_without_targets():
    refused(
        "neither 'target' nor 'label', only image; name the targets 'target'",
        task().check,
        {"image": np.zeros((1, 4, 4, 1), np.uint8)},
    )


def test_in_a_compiled_program_such_a_target_makes_the_loss_nan():
    made, rows = task(), batch(np.array([1.0, np.inf, 2.0], np.float32))
    variables = made.init(jax.random.key(0), rows)
    sums = jax.jit(jc.make_eval_step(made))(variables, jax.tree.map(jnp.asarray, rows))[1]
    values = jc.types.compute(sums)
    assert np.isnan(values["loss"]) and np.isnan(values["mae"])


@pytest.mark.parametrize(
    "options, line",
    [
        ({"loss": "l1"}, "loss='l1': must be one of squared, huber"),
        ({"delta": 0}, "delta=0: must be positive"),
        ({"scale": 0.0}, "scale=0.0: must be one positive number, or one for each of the 1 outputs"),
        ({"center": [1, 2]}, "center=.1, 2.: must be one finite number"),
        ({"limits": (1, 0)}, "limits=.1, 0.: must be the lowest and the highest target"),
    ],
)
def test_options_that_are_refused(options, line):
    refused(line, task, **options)


def test_float_images_of_another_range_are_refused():
    rows = {"image": np.full((2, 4, 4, 1), 200.0, np.float32), "target": np.zeros(2, np.float32)}
    refused("floats must be in 0..1", task().check, rows)
