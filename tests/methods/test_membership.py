"""Membership inference: scores by hand and by SciPy, and areas and shares of scores whose distribution is known."""

import jax
import numpy as np
import optax
import pytest
from scipy import special, stats

import jaxcnn as jc
from jaxcnn.methods import membership as mi
from tests.small import Plain, rows

RNG = np.random.default_rng(0)


def test_confidence_and_loss_are_those_of_the_label():
    logits, labels = RNG.normal(size=(3, 20, 5)) * 4, RNG.integers(0, 5, 20)
    p = special.softmax(logits, -1)[:, np.arange(20), labels]
    np.testing.assert_allclose(mi.confidence(logits, labels), np.log(p / (1 - p)), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(mi.loss_score(logits, labels), np.log(p), rtol=1e-8, atol=1e-10)
    far = mi.confidence([[200.0, -200.0, -300.0]], [0])  # where a float32 softmax is 1
    assert far == pytest.approx([400.0]) and mi.loss_score([[200.0, -200.0]], [1]) == pytest.approx([-400.0])


def test_each_row_is_in_half_of_the_networks():
    inside = mi.membership(6, 500, seed=1)
    assert inside.shape == (6, 500) and (inside.sum(0) == 3).all()
    assert abs(inside.mean(1) - 0.5).max() < 0.1 and not np.array_equal(inside, mi.membership(6, 500, seed=2))


@pytest.mark.parametrize("pooled", [False, True])
def test_lira_is_the_ratio_of_normal_densities(pooled):
    inside = mi.membership(8, 30)
    shadows, target = RNG.normal(2 * inside, 1.5), RNG.normal(size=30)
    groups = [np.stack([x[m] for x, m in zip(shadows.T, mask.T, strict=True)]) for mask in (inside, ~inside)]
    deviations = [np.full(30, np.sqrt(g.var(1, ddof=1).mean())) if pooled else g.std(1, ddof=1) for g in groups]
    density = [stats.norm(g.mean(1), d).logpdf(target) for g, d in zip(groups, deviations, strict=True)]
    found = mi.lira_online(target, shadows, inside, pooled=pooled)
    np.testing.assert_allclose(found, density[0] - density[1], rtol=1e-8, atol=1e-8)
    below = stats.norm(groups[1].mean(1), deviations[1]).cdf(target)
    found = mi.lira_offline(target, shadows, inside, pooled=pooled)
    np.testing.assert_allclose(stats.norm.cdf(found), below, rtol=1e-8, atol=1e-10)


def test_few_networks_share_one_variance():
    inside = mi.membership(8, 30)
    shadows, target = RNG.normal(size=(8, 30)), RNG.normal(size=30)
    both = [mi.lira_online(target, shadows, inside, pooled=p) for p in (None, True)]
    np.testing.assert_array_equal(*both)


def test_known_distributions_give_their_area():
    members = RNG.random((4000, 3)) < 0.5
    found = mi.measure(RNG.normal(members, 1.0), members, fpr=0.05, samples=100)
    expected = stats.norm.cdf(1 / np.sqrt(2))
    assert found.auc_interval[0] < expected < found.auc_interval[1]
    assert found.auc_interval[1] - found.auc_interval[0] < 0.04
    assert found.tpr == pytest.approx(stats.norm.sf(stats.norm.isf(0.05) - 1), abs=0.03)
    assert found.advantage == pytest.approx(2 * stats.norm.cdf(0.5) - 1, abs=0.03)
    nothing = mi.measure(RNG.normal(size=(4000, 3)), members, samples=100)
    assert nothing.auc_interval[0] < 0.5 < nothing.auc_interval[1] and nothing.tpr < 0.005


def test_perfect_scores_find_all():
    members = np.arange(10) % 2 == 0
    found = mi.measure(members + 0.0, members, samples=50)
    assert found.auc == found.tpr == found.advantage == 1 and found.auc_interval == (1, 1)


def test_differential_privacy_bounds_what_is_found():
    assert mi.highest_tpr(0.0, 0.0, 0.3) == pytest.approx(0.3)
    assert mi.highest_tpr(np.log(2), 0.01, 0.1) == pytest.approx(0.21)
    assert mi.highest_tpr(np.log(2), 0.0, 0.8) == pytest.approx(0.9)
    assert mi.highest_tpr(1e9, 0.0, 0.1) == 1


def test_an_overfit_network_reveals_its_rows():
    """Networks of half of the rows each, in one program; labels are random, so only memory is right."""
    data = rows(40, seed=3)
    label = np.random.default_rng(4).integers(0, 4, 40).astype(np.int32)
    inside, task, tx = mi.membership(8, 40), jc.tasks.classification(Plain()), optax.adam(0.02)
    batch = {"image": data.arrays["image"], "label": label}

    def trained(mask):
        state = jc.init_state(task, tx, data.example())
        one = jc.make_train_step(task, tx)
        state = jax.lax.fori_loop(0, 60, lambda _, s: one(s, batch | {"row_mask": mask})[0], state)
        return task.predict(state.variables, batch)

    logits = jax.jit(jax.vmap(trained))(inside.astype(np.float32))
    found = mi.confidence(logits, label)
    scores = {"loss": mi.loss_score(logits, label)}
    for name, lira in (("offline", mi.lira_offline), ("online", mi.lira_online)):
        others = [np.arange(8) != t for t in range(8)]
        scores[name] = np.stack([lira(found[t], found[o], inside[o]) for t, o in enumerate(others)])
    areas = {name: mi.measure(s.T, inside.T, samples=50).auc for name, s in scores.items()}
    assert all(area > 0.9 for area in areas.values())


@pytest.mark.parametrize(
    "wrong, line",
    [
        (lambda: mi.membership(5, 10), "networks=5"),
        (lambda: mi.membership(4, 0), "rows=0"),
        (lambda: mi.confidence(np.zeros((3, 1)), np.zeros(3, int)), r"logits \(3, 1\)"),
        (lambda: mi.lira_online(np.zeros(3), np.zeros((2, 3)), mi.membership(2, 3)), "train at least two"),
        (lambda: mi.lira_offline(np.zeros(3), np.zeros((4, 2)), mi.membership(4, 2)), r"target \(3,\)"),
        (lambda: mi.lira_offline(np.full(2, np.nan), np.zeros((4, 2)), mi.membership(4, 2)), "must be finite"),
        (lambda: mi.measure(np.zeros(3), np.ones(3)), "there must be members and others"),
        (lambda: mi.measure(np.zeros(3), np.ones(2)), "one shape"),
        (lambda: mi.measure(np.zeros(2), [1, 0], fpr=2), "fpr=2"),
        (lambda: mi.highest_tpr(-1.0, 0.0, 0.5), "epsilon=-1.0"),
        (lambda: mi.confidence(np.zeros((3, 2)), np.array([0, 1, -1])), "integers from 0 to 1"),
        (lambda: mi.loss_score(np.zeros((3, 2)), np.zeros(3)), "labels float64: must be integers"),
        (lambda: mi.measure(np.zeros(3), [0, 2, 1]), "members int64 .*one truth value per row"),
        (lambda: mi.measure(np.zeros(3), [0, np.nan, 1]), "members float64"),
    ],
)
def test_bad_values_are_one_line(wrong, line):
    with pytest.raises(jc.InputError, match=line) as caught:
        wrong()
    assert "\n" not in str(caught.value)


def test_a_class_beside_which_none_is_possible_is_certain():
    logits = np.array([[0.0, -np.inf, -np.inf], [-np.inf, 0.0, 1.0]])
    assert mi.confidence(logits, [0, 0]).tolist() == [np.inf, -np.inf]
    assert mi.loss_score(logits, [0, 0]).tolist() == [0.0, -np.inf]
