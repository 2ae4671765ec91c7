"""Detection losses equal their definitions, and their gradients stay finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError
from jaxcnn.losses import binary_cross_entropy, box_loss, huber, sigmoid_focal_loss, smooth_l1
from jaxcnn.ops import boxes


@pytest.mark.parametrize("alpha, gamma", [(0.25, 2.0), (None, 0.0), (0.6, 1.5), (None, 2.0)])
def test_focal_loss_is_the_definition(alpha, gamma, rng):
    logits, labels = 3 * rng.standard_normal((4, 5, 3)), rng.integers(0, 2, (4, 5, 3))
    p = 1 / (1 + np.exp(-logits))
    own, weight = np.where(labels, p, 1 - p), 1 if alpha is None else np.where(labels, alpha, 1 - alpha)
    found = sigmoid_focal_loss(jnp.asarray(logits), jnp.asarray(labels), alpha, gamma)
    np.testing.assert_allclose(found, -weight * (1 - own) ** gamma * np.log(own), rtol=2e-5, atol=1e-7)
    if alpha is None:
        same = binary_cross_entropy(jnp.asarray(logits), jnp.asarray(labels), focal=gamma)
        np.testing.assert_allclose(found.mean(-1), same, rtol=1e-5)


def test_focal_loss_at_the_ends():
    logits, labels = np.float32([1e4, 1e4, -1e4, -1e4, 0]), np.float32([1, 0, 1, 0, 0.5])
    slopes = jax.grad(lambda x, y: sigmoid_focal_loss(x, y).sum())
    run = jax.jit(lambda x, y: (sigmoid_focal_loss(x, y), slopes(x, y)))
    values, slope = run(logits, labels)
    np.testing.assert_allclose(values, [0, 7500, 2500, 0, 0.25 * np.log(2) / 2], rtol=1e-6)
    assert np.isfinite(slope).all()
    values, slope = run(np.zeros(3, np.float32), np.float32([2, -1, 1]))
    assert np.isnan(values).tolist() == [True, True, False] and slope[:2].tolist() == [0, 0]
    low = jax.ShapeDtypeStruct((1,), jnp.bfloat16)
    assert jax.eval_shape(sigmoid_focal_loss, low, low).dtype == jnp.float32


def test_smooth_l1_by_hand():
    errors = jnp.array([0.0, 0.05, -0.1, 0.3, -2.0, 3e38])
    np.testing.assert_allclose(smooth_l1(errors, jnp.zeros(6), 0.1), [0, 0.0125, 0.05, 0.25, 1.95, 3e38], rtol=1e-6)
    slope = jax.grad(lambda x: smooth_l1(x, jnp.zeros(6), 0.1).sum())(errors)
    np.testing.assert_allclose(slope, [0, 0.5, -1, 1, -1, 1], rtol=1e-6)
    np.testing.assert_allclose(smooth_l1(errors, jnp.zeros(6), 0), jnp.abs(errors))
    a, b = errors[None, :5], jnp.ones((1, 5))
    np.testing.assert_allclose(0.7 * smooth_l1(a, b, 0.7).mean(-1), huber(a, b, 0.7), rtol=1e-6)


def test_box_losses_are_one_less_the_overlap():
    found = jnp.array([[0, 0, 0.5, 0.5], [0, 0, 0.2, 0.2], [0.3, 0.3, 0.3, 0.3]])
    true = jnp.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0, 1, 1]])
    np.testing.assert_allclose(box_loss(found, true), [0, 1 + 0.71, 1 + 0], atol=1e-6)
    np.testing.assert_allclose(box_loss(found, true, "iou"), [0, 1, 1], atol=1e-6)
    for kind in ("iou", "giou", "diou"):
        np.testing.assert_allclose(box_loss(found, true, kind), 1 - boxes.paired_iou(found, true, kind))
        assert jnp.isfinite(jax.grad(lambda x, kind=kind: box_loss(x, true, kind).sum())(found)).all()


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: sigmoid_focal_loss(jnp.zeros((2, 3)), jnp.zeros(3)),
            r"labels of shape \(3,\): must have the shape \(2, 3\)",
        ),
        (lambda: sigmoid_focal_loss(jnp.zeros(2), jnp.zeros(2), alpha=2), "alpha=2, gamma=2.0: must be in 0..1"),
        (lambda: sigmoid_focal_loss(jnp.zeros(2), jnp.zeros(2), gamma=-1), "gamma=-1"),
        (lambda: smooth_l1(jnp.zeros(2), jnp.zeros(2), -1), "beta=-1: must be at least 0"),
        (lambda: smooth_l1(jnp.zeros(2), jnp.zeros((1, 2))), r"targets of shape \(1, 2\)"),
        (lambda: box_loss(jnp.zeros((2, 4)), jnp.zeros(4)), r"targets of shape \(4,\)"),
        (lambda: box_loss(jnp.zeros((2, 4)), jnp.zeros((2, 4)), "ciou"), "kind='ciou'"),
    ],
)
def test_bad_input_is_one_line(call, words):
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
