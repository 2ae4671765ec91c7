"""Losses over regions against their definitions in NumPy, and what does not count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError
from jaxcnn.losses import boundary_weights, dice_loss, tversky_loss


def defined(logits, label, known, alpha, beta, first=0):
    """The Tversky loss of one example, class by class."""
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    each = []
    for k in range(first, logits.shape[-1]):
        g = (label == k) & known
        if g.any():
            hit = p[g, k].sum()
            wrong, lost = p[known & ~g, k].sum(), (1 - p[g, k]).sum()
            each.append(1 - hit / (hit + alpha * wrong + beta * lost))
    return np.mean(each) if each else 0.0


@pytest.mark.parametrize("shape", [(2, 5, 6, 3), (2, 3, 4, 5, 4), (2, 9, 3)])
@pytest.mark.parametrize("first", [0, 1])
def test_it_is_the_definition(rng, shape, first):
    logits, label = 2 * rng.standard_normal(shape), rng.integers(0, shape[-1], shape[:-1])
    known = rng.random(shape[:-1]) < 0.8
    label[1][label[1] == 2] = 1  # the second example lacks a class
    options = {"background": not first}
    got = dice_loss(jnp.asarray(logits), jnp.asarray(label), jnp.asarray(known), **options)
    want = [defined(x, y, m, 0.5, 0.5, first) for x, y, m in zip(logits, label, known, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    got = tversky_loss(jnp.asarray(logits), jnp.asarray(label), jnp.asarray(known), alpha=0.2, beta=0.9, **options)
    want = [defined(x, y, m, 0.2, 0.9, first) for x, y, m in zip(logits, label, known, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_shares_are_labels_too(rng):
    logits, label = jnp.asarray(rng.standard_normal((2, 4, 4, 3))), jnp.asarray(rng.integers(0, 3, (2, 4, 4)))
    np.testing.assert_allclose(dice_loss(logits, jax.nn.one_hot(label, 3)), dice_loss(logits, label), rtol=1e-6)


def test_masked_pixels_may_be_anything(rng):
    logits, label = rng.standard_normal((1, 4, 4, 2)).astype(np.float32), rng.integers(0, 2, (1, 4, 4))
    mask = np.ones((1, 4, 4))
    mask[0, 0] = 0
    want, slope = jax.value_and_grad(lambda x: dice_loss(x, jnp.asarray(label), jnp.asarray(mask)).sum())(logits)
    spoiled, wrong = logits.copy(), label.copy()
    spoiled[0, 0], wrong[0, 0] = np.nan, 255
    got, other = jax.value_and_grad(lambda x: dice_loss(x, jnp.asarray(wrong), jnp.asarray(mask)).sum())(spoiled)
    assert float(got) == pytest.approx(float(want)) and (np.asarray(slope)[0, 0] == 0).all()
    np.testing.assert_allclose(np.asarray(other)[0, 1:], np.asarray(slope)[0, 1:], rtol=1e-6)
    assert dice_loss(jnp.asarray(logits), jnp.asarray(label), jnp.zeros((1, 4, 4))).tolist() == [0.0]


def test_a_label_that_is_no_class_is_nan(rng):
    logits, label = jnp.asarray(rng.standard_normal((2, 4, 4, 3))), rng.integers(0, 3, (2, 4, 4))
    for wrong in (255, -1):
        found = np.asarray(dice_loss(logits, jnp.asarray(np.where(np.arange(2)[:, None, None], wrong, label))))
        assert np.isfinite(found[0]) and np.isnan(found[1])
    shares = jax.nn.one_hot(label, 3)
    assert np.isnan(np.asarray(dice_loss(logits, shares.at[1, 0, 0].add(1.0)))).tolist() == [False, True]


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_a_perfect_answer_has_a_finite_slope(gamma):
    label = jnp.asarray([[0, 1, 1]])
    logits = 200 * jax.nn.one_hot(label, 2)
    value, slope = jax.value_and_grad(lambda x: tversky_loss(x, label, gamma=gamma).sum())(logits)
    assert 0 <= float(value) < 2e-3 and np.isfinite(slope).all()


@pytest.mark.parametrize(
    "logits, label, options, message",
    [
        ((1, 4, 4, 2), (1, 4, 4, 1), {}, "one entry per pixel"),
        ((1, 4, 4, 1), (1, 4, 4), {}, "must be at least 2"),
        ((1, 4, 4, 2), (1, 4, 4), {"beta": -1.0}, "beta=-1"),
        ((1, 4, 4, 2), (1, 4, 4), {"gamma": 0.0}, "gamma=0"),
    ],
)
def test_bad_input_is_one_line(logits, label, options, message):
    with pytest.raises(InputError, match=message):
        tversky_loss(jnp.zeros(logits), jnp.zeros(label, jnp.int32), **options)


def test_pixels_between_objects_weigh_more():
    label = np.zeros((9, 21), int)
    label[2:7, 2:9] = label[2:7, 11:19] = 1
    weight = boundary_weights(label, strength=10, sigma=2)
    assert (weight[label > 0] == 1).all() and weight.dtype == np.float32
    middle = 1 + 10 * np.exp(-((2 + 1) ** 2) / 8)  # column 9 is one pixel from the left object and two from the right
    assert weight[4, 9] == pytest.approx(middle) and weight.max() == weight[4, 9:11].max() and weight[4, 0] < 1.1
    assert (boundary_weights(label[:, :10]) == 1).all()  # one object alone
    with pytest.raises(InputError, match="sigma=0"):
        boundary_weights(label, sigma=0)
