"""Randomised smoothing: radii of linear classifiers, the published bound, training with noise, and bad values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import jaxcnn as jc
from jaxcnn.methods import smoothing
from jaxcnn.methods.smoothing import ABSTAIN, certificate, certified_accuracy, certify, counter, gaussian_noise
from tests.small import Plain, distance, rows

SIGMA = 0.05
WAY = np.random.default_rng(0).normal(size=12)
WAY /= np.linalg.norm(WAY)


def linear(variables, batch):
    """One logit, whose sign changes at a plane through the middle of the cube; noise of 0.05 is hardly ever clipped."""
    x = jnp.asarray(batch["image"], jnp.float32).reshape(len(batch["image"]), -1) - 0.5
    return (x @ jnp.asarray(WAY, jnp.float32))[:, None] - variables


def placed(*distances):
    return np.stack([(0.5 + far * WAY).reshape(2, 2, 3) for far in distances]).astype(np.float32)


def test_a_linear_classifier_has_the_radius_of_its_plane():
    far = [0.02, -0.05, 0.08, 0.0]
    found = certify(linear, 0.0, placed(*far), SIGMA, n0=50, n=20_000, batch_size=1024)
    assert [c.label for c in found[:3]] == [1, 0, 1]
    for one, exact in zip(found[:3], np.abs(far[:3]), strict=True):
        assert 0.85 * exact < one.radius <= exact
    # on the plane itself, both classes are as likely, and no class can be certified
    assert found[3] == (ABSTAIN, 0.0, found[3].least) and found[3].least < 0.5


def test_votes_are_those_of_a_loop():
    images = placed(0.02)
    key, sigma, size = jax.random.key(3), 0.5, 16
    found = counter(linear, sigma, batch_size=size)(0.0, {"image": images}, key, 40)
    votes = np.zeros(2, int)
    for i in range(3):
        noise = jax.random.normal(jax.random.fold_in(key, i), (size, 2, 2, 3))
        wins = np.asarray(linear(0.0, {"image": (images + sigma * noise).clip(0, 1)})[:, 0] > 0).astype(int)
        np.add.at(votes, wins[: 40 - i * size], 1)
    np.testing.assert_array_equal(found, votes)
    assert found.sum() == 40


def test_the_bound_is_that_of_clopper_and_pearson():
    for votes in (510, 700, 999, 1000):
        exact = stats.binomtest(votes, 1000).proportion_ci(confidence_level=1 - 2 * 1e-3, method="exact").low
        found = certificate(7, votes, 1000, 0.25, 1e-3)
        assert found.least == pytest.approx(exact)
        assert found.label == (7 if exact > 0.5 else ABSTAIN)
        assert found.radius == pytest.approx(0.25 * stats.norm.ppf(exact) if exact > 0.5 else 0.0)
    assert certificate(0, 0, 10, 1.0, 0.1).least == 0
    # all of 100,000 votes, as in figure 1 of the paper: about 3.8 sigma
    assert certificate(0, 100_000, 100_000, 1.0, 1e-3).radius == pytest.approx(3.81, abs=0.01)


def test_wrong_certificates_are_as_rare_as_promised():
    """The true share is 0.75, and a bound above it would be wrong: in one of ten repetitions at alpha 0.1."""
    votes = np.random.default_rng(1).binomial(200, 0.75, 4000)
    wrong = np.mean([certificate(0, int(v), 200, 1.0, 0.1).least > 0.75 for v in votes])
    assert 0.05 < wrong <= 0.115


def test_an_image_does_not_depend_on_those_beside_it():
    images = placed(0.02, -0.01)
    alone, both = (certify(linear, 0.0, x, SIGMA, n=500) for x in (images[:1], images))
    assert both[0] == alone[0]
    assert certify(linear, 0.0, images, SIGMA, n=500, seed=1) != both
    assert certify(linear, 0.0, (images * 255).astype(np.uint8), SIGMA, n=500)[0].label == alone[0].label


def test_outputs_that_are_not_finite_are_no_votes():
    found = certify(lambda v, batch: linear(v, batch) * jnp.nan, 0.0, placed(0.1), SIGMA, n=100)
    assert found[0].label == ABSTAIN and found[0].radius == 0


def test_certified_accuracy_counts_right_answers_that_reach_far_enough():
    found = [smoothing.Certificate(*c) for c in ((1, 0.5, 0.9), (0, 0.9, 0.9), (ABSTAIN, 0.0, 0.4), (2, 0.2, 0.6))]
    np.testing.assert_allclose(certified_accuracy(found, [1, 1, 0, 2], [0.0, 0.2, 0.3, 1.0]), [0.5, 0.5, 0.25, 0.0])


def test_noise_has_its_deviation_and_stays_in_0_to_1():
    image = jnp.full((400, 4, 4, 1), 128, jnp.uint8)
    noisy = gaussian_noise(0.1)(jax.random.key(0), {"image": image})["image"]
    assert float(noisy.std()) == pytest.approx(0.1, rel=0.05) and float(noisy.mean()) == pytest.approx(0.5, abs=0.01)
    assert (
        0 <= float(noisy.min()) and float(gaussian_noise(3.0)(jax.random.key(0), {"image": image})["image"].max()) <= 1
    )
    same = gaussian_noise(0.0)(jax.random.key(0), {"image": image})["image"]
    np.testing.assert_array_equal(same, np.asarray(image, np.float32) / 255)


@pytest.mark.parametrize("strategy", ["sharded", "pmap"])
def test_training_with_noise_is_the_same_on_eight_devices(strategy):
    data, task, tx, out = rows(24), jc.tasks.classification(Plain()), optax.sgd(0.1), []
    for how, devices in (("jit", 1), (strategy, 8)):
        step = jc.augmented(jc.make_train_step(task, tx), gaussian_noise(0.2))
        run = jc.compile_step(step, how, devices)
        out.append(jc.fit(run, jc.init_state(task, tx, data.example()), data, batch_size=24, steps=3).state.params)
    assert distance(*out) < 1e-5


def count(images):
    return counter(linear, 0.1)(0.0, {"image": jnp.asarray(images)}, jax.random.key(0), 5)


@pytest.mark.parametrize(
    "wrong, line",
    [
        (lambda: gaussian_noise(-0.1), "sigma=-0.1"),
        (lambda: gaussian_noise(64.0), "64/255, not 64"),
        (lambda: certify(linear, 64.0, placed(0.1), 0.0), "64/255, not 64"),
        (lambda: certify(linear, 0.0, placed(0.1), 0.0), "sigma=0.0"),
        (lambda: certify(linear, 0.0, placed(0.1), 0.1, n=0), "n=0"),
        (lambda: certify(linear, 0.0, placed(0.1), 0.1, n=2**31), "n=2147483648"),
        (lambda: count(placed(0.1) * 255), "floats must be in 0..1"),
        (lambda: count(np.repeat(placed(0.1), 2, 0)), "has 2 images, and must have one"),
        (lambda: certify(linear, 0.0, placed(0.1), 0.1, alpha=1.0), "alpha=1.0"),
        (lambda: certify(linear, 0.0, placed(0.1)[0], 0.1), "image.None."),
        (lambda: certify(linear, 0.0, placed(0.1), 0.1, batch_size=0), "batch_size=0"),
        (lambda: certify(linear, 0.0, placed(0.1) * 255, 0.1), "floats must be in 0..1"),
        (lambda: certify(linear, 0.0, (placed(0.1) * 255).astype(int), 0.1), "must be uint8"),
        (lambda: certified_accuracy([certificate(0, 5, 5, 1.0, 0.1)], [-1], [0.1]), "-1 is below 0"),
        (lambda: certified_accuracy([], [], [0.1]), "0 certificates"),
        (lambda: certified_accuracy([certificate(0, 5, 5, 1.0, 0.1)], [0], [-1.0]), "radii="),
    ],
)
def test_bad_values_are_one_line(wrong, line):
    with pytest.raises(jc.InputError, match=line) as caught:
        wrong()
    assert "\n" not in str(caught.value)
