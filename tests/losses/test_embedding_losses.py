"""Losses of embeddings against their definitions in NumPy, their derivatives, and equal values on any devices."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError
from jaxcnn.losses import (
    arcface,
    batch_hard_triplet,
    negative_cosine,
    nt_xent,
    prototypical,
    supervised_contrastive,
)

LABEL = np.array([0, 1, 0, 2, 1, 3, 0, 0])
MASK = np.array([1, 1, 1, 1, 1, 1, 1, 0], np.float32)
angular = jax.jit(arcface, static_argnums=(2, 3))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def vectors(rng, count=8, width=5):
    return unit(rng.standard_normal((count, width))).astype(np.float32)


def test_arcface_is_the_definition(rng):
    cosines, label = rng.uniform(-0.8, 0.95, (6, 4)), np.array([0, 1, 2, 3, 0, 1])
    got = angular(jnp.asarray(cosines), jnp.asarray(label), 16.0, 0.5)
    for x, k, value in zip(cosines, label, np.asarray(got), strict=True):
        logits = 16 * x
        logits[k] = 16 * np.cos(np.arccos(x[k]) + 0.5)
        assert value == pytest.approx(np.log(np.exp(logits).sum()) - logits[k], rel=1e-4)
    plain = angular(jnp.asarray(cosines), jnp.asarray(label), 1.0, 0.0)
    want = np.log(np.exp(cosines).sum(1)) - cosines[np.arange(6), label]
    np.testing.assert_allclose(plain, want, rtol=1e-5)


def test_arcface_by_hand():
    # cos(60 degrees + 0.5) = 0.0236..., by a pocket calculator
    got = float(angular(jnp.array([[0.5, 0.0]]), jnp.array([0]), 10.0, 0.5)[0])
    assert got == pytest.approx(np.log1p(np.exp(-10 * np.cos(np.pi / 3 + 0.5))), rel=1e-5)
    assert got == pytest.approx(0.58211, abs=1e-4)


def test_all_derivatives_of_arcface_are_finite():
    def value(c):
        return arcface(jnp.stack([c, jnp.float32(0.2)])[None], jnp.array([0]), 4.0, 0.5)[0]

    first, second = jax.grad(value), jax.grad(jax.grad(value))
    every = jax.jit(jax.vmap(lambda c: jnp.stack([value(c), first(c), second(c), jax.grad(second)(c)])))
    found = np.asarray(every(jnp.array([1.0, -1.0, 1.0000001, -1.0000001, 1 - 6e-8, 0.0, np.cos(np.pi - 0.5)])))
    assert np.isfinite(found).all() and (found[[0, 5], 1] < 0).all()


def test_arcface_falls_with_the_cosine():
    cosine = jnp.linspace(-1, 1, 401)
    values = np.asarray(angular(jnp.stack([cosine, 0 * cosine], 1), jnp.zeros(401, jnp.int32), 4.0, 0.5))
    assert (np.diff(values) < 1e-6).all()


def test_what_is_no_class_is_nan():
    got = angular(jnp.array([[0.1, 0.2], [0.1, 0.2], [1.5, 0.0]]), jnp.array([0, 2, 0]))
    assert np.isnan(np.asarray(got)).tolist() == [False, True, True]


def triplets(x, label, mask, margin):
    distance = np.linalg.norm(x[:, None] - x[None], axis=-1)
    values, weights = np.zeros(len(x)), np.zeros(len(x))
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i and mask[i] and mask[j]]
        near = [distance[i, j] for j in others if label[j] == label[i]]
        far = [distance[i, j] for j in others if label[j] != label[i]]
        if near and far:
            gap = max(near) - min(far)
            values[i], weights[i] = np.log1p(np.exp(gap)) if margin is None else max(gap + margin, 0), 1
    return values, weights


@pytest.mark.parametrize("margin", [None, 0.0, 0.4])
def test_triplets_are_the_definition(rng, margin):
    x, run = vectors(rng), jax.jit(batch_hard_triplet, static_argnums=3)
    got = run(jnp.asarray(x), jnp.asarray(LABEL), jnp.asarray(MASK), margin)
    for have, want in zip(got, triplets(x, LABEL, MASK, margin), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)
    assert got[1].tolist() == [1, 1, 1, 0, 1, 0, 1, 0]


def test_contrast_is_the_definition(rng):
    x = vectors(rng)
    run = jax.jit(supervised_contrastive, static_argnums=3)
    values, weights = run(jnp.asarray(x), jnp.asarray(LABEL), jnp.asarray(MASK), 0.2)
    for i in range(8):
        others = [j for j in range(8) if j != i and MASK[i] and MASK[j]]
        same = [j for j in others if LABEL[j] == LABEL[i]]
        assert float(weights[i]) == bool(same)
        if same:
            total = sum(np.exp(x[i] @ x[j] / 0.2) for j in others)
            want = -np.mean([np.log(np.exp(x[i] @ x[j] / 0.2) / total) for j in same])
            assert float(values[i]) == pytest.approx(want, rel=1e-4)


def test_views_are_contrasted_with_all_others(rng):
    """Algorithm 1 of Chen et al., 2020, view by view."""
    first, second = rng.standard_normal((2, 8, 5))
    run = jax.jit(nt_xent, static_argnums=3)
    values, weights = run(*(jnp.asarray(x, jnp.float32) for x in (first, second)), jnp.asarray(MASK), 0.2)
    z, known = unit(np.stack([first, second], 1).reshape(16, 5)), np.repeat(MASK, 2) > 0
    cosine = np.exp(z @ z.T / 0.2)
    each = [-np.log(cosine[i, i ^ 1] / sum(cosine[i, k] for k in range(16) if k != i and known[k])) for i in range(14)]
    np.testing.assert_allclose(values[:7], np.reshape(each, (7, 2)).mean(1), rtol=1e-4)
    assert weights.tolist() == MASK.tolist()


def test_predicted_views_are_compared_by_cosine_with_a_fixed_target(rng):
    p, z = rng.standard_normal((2, 6, 5)).astype(np.float32)
    values, slopes = jax.jit(jax.value_and_grad(lambda p, z: negative_cosine(p, z).sum(), (0, 1)))(p, z)
    assert float(values) == pytest.approx(-(unit(p) * unit(z)).sum(), rel=1e-5)
    assert (np.asarray(slopes[1]) == 0).all() and (np.asarray(slopes[0]) != 0).any()
    assert np.isfinite(np.asarray(jax.grad(lambda p: negative_cosine(p, z).sum())(0 * p))).all()


def test_episodes_are_the_definition(rng):
    x, label = vectors(rng, 9), np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    support = np.array([1, 1, 0] * 3)
    run = jax.jit(prototypical, static_argnums=3)
    values, weights, logits = run(jnp.asarray(x), jnp.asarray(label), jnp.asarray(support), 4)
    centres = np.stack([x[(label == k) & (support > 0)].mean(0) for k in range(3)])
    want = -np.square(x[:, None] - centres[None]).sum(-1)
    np.testing.assert_allclose(np.asarray(logits)[:, :3], want, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(values, np.log(np.exp(want).sum(1)) - want[np.arange(9), label], rtol=1e-4)
    assert weights.tolist() == (1 - support).tolist() and (np.asarray(logits)[:, 3] < -1e30).all()


def contrast(x, label, mask):
    return supervised_contrastive(x, label, mask)


def views(x, label, mask):
    del label
    return nt_xent(x, x[:, ::-1], mask)


def triplet(x, label, mask):
    return batch_hard_triplet(x, label, mask)


def episode(x, label, mask):
    support = jnp.asarray(label * 0 + jnp.array([1, 1, 0, 1, 0, 1, 0, 0])[: len(label)])
    return prototypical(x, label, support, 4, mask)[:2]


@pytest.mark.parametrize("loss", [contrast, triplet, episode, views])
def test_padding_is_neither_anchor_nor_candidate(rng, loss):
    x = vectors(rng)
    x[7] = x[0]

    def total(x, label, mask):
        values, weights = loss(x, label, mask)
        return (values * weights).sum()

    args, run = (jnp.asarray(x), jnp.asarray(LABEL), jnp.asarray(MASK)), jax.jit(jax.value_and_grad(total))
    value, slope = run(*args)
    spoiled = jnp.asarray(np.concatenate([x[:7], np.full((1, 5), np.nan, np.float32)]))
    other, same = run(spoiled, *args[1:])
    assert float(other) == float(value) and (np.asarray(slope)[7] == 0).all()
    np.testing.assert_array_equal(np.asarray(same), np.asarray(slope))
    if loss is not episode:
        short = jax.jit(total)(args[0][:7], args[1][:7], None)
        assert float(short) == pytest.approx(float(value), rel=1e-6)


@pytest.mark.parametrize("loss", [contrast, triplet, views])
def test_equal_rows_and_lonely_rows_have_finite_slopes(loss):
    def total(x, label, mask):
        values, weights = loss(x, label, mask)
        return (values * weights).sum()

    run, equal = jax.jit(jax.value_and_grad(total)), jnp.array([[1.0, 0], [1, 0], [1, 0]])
    for label, mask in (([0, 0, 1], [1, 1, 1]), ([0, 0, 1], [1, 0, 0]), ([0, 1, 2], [1, 1, 1]), ([0, 0, 0], [0, 0, 0])):
        value, slope = run(equal, jnp.array(label), jnp.array(mask))
        assert np.isfinite(float(value)) and np.isfinite(np.asarray(slope)).all()


@pytest.mark.parametrize("name", ["contrast", "triplet", "episode", "views"])
def test_slopes_are_those_of_differences(rng, name):
    loss = {"contrast": contrast, "triplet": triplet, "episode": episode, "views": views}[name]
    x, direction = vectors(rng), rng.standard_normal((8, 5))
    with jax.enable_x64(True):
        args = jnp.asarray(LABEL), jnp.asarray(MASK)

        def total(x):
            values, weights = loss(x, *args)
            return (values * weights).sum()

        x, direction = jnp.asarray(x, jnp.float64), jnp.asarray(direction)
        run = jax.jit(jax.value_and_grad(total))
        slope = float((run(x)[1] * direction).sum())
        rise = float(run(x + 1e-6 * direction)[0] - run(x - 1e-6 * direction)[0]) / 2e-6
    assert slope == pytest.approx(rise, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", ["contrast", "triplet", "episode", "views"])
def test_devices_see_the_whole_batch(rng, name):
    """Value and gradient of shared parameters, on one device and on four."""
    loss = {"contrast": contrast, "triplet": triplet, "views": views}.get(name)
    x, weight = vectors(rng), jnp.asarray(rng.standard_normal((5, 3)), jnp.float32)
    support = np.array([1, 1, 0, 1, 0, 1, 0, 0], np.float32)

    def total(weight, x, label, mask, support):
        if loss is None:
            values, weights, _ = prototypical(x @ weight, label, support, 4, mask)
        else:
            values, weights = loss(x @ weight, label, mask)
        return (values * weights).sum()

    rows = [x, LABEL, MASK, support]
    one = jax.jit(jax.value_and_grad(total))(weight, *map(jnp.asarray, rows))
    parts = [a.reshape(4, 2, *a.shape[1:]) for a in rows]

    @functools.partial(jax.pmap, axis_name="data", in_axes=(None, 0, 0, 0, 0), devices=jax.devices()[:4])
    def each(weight, *rows):
        return jax.lax.psum(jax.value_and_grad(total)(weight, *rows), "data")

    value, slope = each(weight, *parts)
    assert float(value[0]) == pytest.approx(float(one[0]), rel=1e-5)
    np.testing.assert_allclose(slope[0], one[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: arcface(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32), 0), "scale=0: must be positive"),
        (lambda: arcface(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32), 1, 4), "margin=4: an angle in radians"),
        (lambda: arcface(jnp.zeros((2, 3)), jnp.zeros(2)), "must be integers of shape"),
        (lambda: batch_hard_triplet(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32), margin=-1), "margin=-1"),
        (lambda: batch_hard_triplet(jnp.zeros(3), jnp.zeros(3, jnp.int32)), r"must be \[B, D\]"),
        (lambda: supervised_contrastive(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32), None, 0), "temperature=0"),
        (lambda: supervised_contrastive(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32), jnp.ones(3)), "row_mask of shape"),
        (lambda: nt_xent(jnp.zeros((2, 3)), jnp.zeros((3, 3))), "views of shapes"),
        (lambda: nt_xent(jnp.ones((2, 3)), jnp.ones((2, 3)), None, -1.0), "temperature=-1.0"),
        (lambda: negative_cosine(jnp.zeros(3), jnp.zeros(3)), r"must both be \[B, D\]"),
        (lambda: prototypical(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32), jnp.zeros(3), 2), "support of shape"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_labels_are_any_numbers(rng):
    x = jnp.asarray(vectors(rng))
    for loss, names in itertools.product((contrast, triplet), ([7, -3, 7, 10**6, -3, 5, 7, 7],)):
        run = jax.jit(loss)
        got, want = run(x, jnp.array(names), MASK), run(x, jnp.asarray(LABEL), MASK)
        np.testing.assert_array_equal(got[0], want[0])
