"""Losses equal values worked out by hand, and are finite at any logit."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError, losses
from jaxcnn.losses.classification import binary_cross_entropy, cross_entropy

LOGITS = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))


def test_cross_entropy_of_indices():
    values = losses.cross_entropy(LOGITS, jnp.array([0, 1]))
    chex.assert_trees_all_close(values, jnp.array([0.6931472, 2.3025851]), rtol=1e-6)


def test_cross_entropy_of_probabilities():
    labels = jnp.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    expected = jnp.array([1.0397208, 0.2231436])  # (log 2 + log 4) / 2, -log 0.8
    chex.assert_trees_all_close(losses.cross_entropy(LOGITS, labels), expected, rtol=1e-6)


def test_label_smoothing_of_cross_entropy():
    expected = jnp.array(
        [
            0.9 * 0.6931472 + 0.1 * (0.6931472 + 2 * 1.3862944) / 3,
            0.9 * 0.2231436 + 0.1 * (2 * 2.3025851 + 0.2231436) / 3,
        ]
    )
    for labels in (jnp.array([0, 2]), jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])):
        chex.assert_trees_all_close(losses.cross_entropy(LOGITS, labels, 0.1), expected, rtol=1e-6)


def test_full_smoothing_forgets_the_label():
    values = losses.cross_entropy(LOGITS[:1].repeat(3, 0), jnp.arange(3), 1.0)
    chex.assert_trees_all_close(values, jnp.full(3, (0.6931472 + 2 * 1.3862944) / 3), rtol=1e-6)


def test_binary_cross_entropy():
    logits = jnp.array([[0.0, jnp.log(3.0)], [-jnp.log(3.0), jnp.log(3.0)]])
    labels = jnp.array([[1, 1], [1, 0]])
    expected = jnp.array([(0.6931472 + 0.2876821) / 2, 1.3862944])  # -log 1/2, -log 3/4, -log 1/4
    for kind in (jnp.int32, jnp.float32, bool):
        chex.assert_trees_all_close(losses.binary_cross_entropy(logits, labels.astype(kind)), expected, rtol=1e-6)


def test_label_smoothing_of_binary_cross_entropy():
    logits = jnp.full((2, 1), jnp.log(3.0))
    expected = jnp.array([0.9 * 0.2876821 + 0.1 * 1.3862944, 0.1 * 0.2876821 + 0.9 * 1.3862944])
    chex.assert_trees_all_close(losses.binary_cross_entropy(logits, jnp.array([[1], [0]]), 0.2), expected, rtol=1e-6)


def test_focal_loss():
    expected = jnp.array([0.5**2 * 0.6931472, 0.9**2 * 2.3025851])
    for labels in (jnp.array([0, 1]), jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])):
        chex.assert_trees_all_close(losses.cross_entropy(LOGITS, labels, focal=2.0), expected, rtol=1e-6)
    logits, labels = jnp.array([[jnp.log(3.0)], [jnp.log(3.0)]]), jnp.array([[1], [0]])
    expected = jnp.array([0.25**2 * 0.2876821, 0.75**2 * 1.3862944])
    chex.assert_trees_all_close(losses.binary_cross_entropy(logits, labels, focal=2.0), expected, rtol=1e-6)


def test_a_focus_near_none_is_cross_entropy():
    for function, labels in ((losses.cross_entropy, jnp.array([0, 2])), (losses.binary_cross_entropy, jnp.eye(3)[:2])):
        chex.assert_trees_all_close(function(LOGITS, labels, 0.1, focal=1e-6), function(LOGITS, labels, 0.1), rtol=1e-4)


@pytest.mark.parametrize("focal", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_extreme_logits_are_finite(smoothing, focal):
    logits = jnp.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]])
    soft = jnp.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    functions = [
        lambda x: losses.cross_entropy(x, jnp.array([1, 0]), smoothing, focal),
        lambda x: losses.cross_entropy(x, soft, smoothing, focal),
        lambda x: losses.binary_cross_entropy(x, soft, smoothing, focal),
    ]
    for function in functions:
        chex.assert_tree_all_finite((function(logits), jax.grad(lambda x, f=function: f(x).sum())(logits)))
    if not smoothing:
        chex.assert_trees_all_close(functions[0](logits), jnp.array([2e4, 2e4 + np.log(2)], jnp.float32))


def test_leading_axes_and_low_precision(rng):
    logits, labels = (
        jnp.asarray(rng.normal(size=(2, 3, 4, 5)), jnp.bfloat16),
        jnp.asarray(rng.integers(0, 5, (2, 3, 4))),
    )
    values = losses.cross_entropy(logits, labels)
    chex.assert_shape(values, (2, 3, 4))
    assert values.dtype == jnp.float32
    chex.assert_trees_all_close(values, losses.cross_entropy(logits, jax.nn.one_hot(labels, 5)), rtol=1e-6)


def test_options_out_of_range_are_refused():
    logits, labels = jnp.zeros((2, 3)), jnp.array([0, 1])
    for options in ({"label_smoothing": 1.5}, {"label_smoothing": -0.1}, {"focal": -2.0}):
        for loss, given in ((cross_entropy, labels), (binary_cross_entropy, jnp.zeros((2, 3)))):
            with pytest.raises(InputError, match="must be in 0..1, and at least 0"):
                loss(logits, given, **options)
    with pytest.raises(InputError, match="use binary_cross_entropy"):
        cross_entropy(logits[:, :1], labels)


def test_shares_that_are_none_make_the_loss_nan():
    logits = jnp.zeros((4, 3))
    labels = jnp.array([[0.5, 0.5, 0.0], [5.0, 5.0, 5.0], [-1.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    found = losses.cross_entropy(logits, labels)
    assert np.isnan(found).tolist() == [False, True, True, False]
