"""Row weights and group DRO: literal values, equal under every strategy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcnn as jc
from jaxcnn.methods import group_dro
from jaxcnn.tasks import classification
from tests.small import Plain, distance, rows


def per_row(logits, label):
    return np.asarray(optax.softmax_cross_entropy_with_integer_labels(logits, label))


@pytest.fixture(scope="module")
def plain():
    data = rows(12)
    t = classification(Plain())
    variables = t.init(jax.random.key(0), data.example())
    return t, variables, {k: jnp.asarray(v) for k, v in data.arrays.items()}


def test_the_loss_is_the_mean_weighted_by_the_column(plain):
    t, variables, batch = plain
    weight, row_mask = np.arange(12, dtype=np.float32), np.array([1] * 9 + [0] * 3, np.float32)
    logits = t.predict(variables, batch)
    found = t.metrics["loss"](logits, batch | {"sample_weight": jnp.asarray(weight), "row_mask": jnp.asarray(row_mask)})
    assert found.compute() == pytest.approx(
        np.average(per_row(logits, batch["label"]), weights=weight * row_mask), rel=1e-5
    )


def test_shares_and_loss_of_group_dro(plain):
    t, variables, batch = plain
    group = np.array([0, 1, 1, 3] * 3)  # group 2 is empty
    dro = group_dro(t, 4, rate=0.5)
    state = {k: v for k, v in dro.init(jax.random.key(0), batch).items() if k != "params"}
    mean, (_, changed) = dro.loss(variables["params"], state, batch | {"group": jnp.asarray(group)}, jax.random.key(1))
    losses = per_row(t.predict(variables, batch), batch["label"])
    means = np.array([losses[group == g].mean() if (group == g).any() else 0 for g in range(4)])
    shares = np.exp(0.5 * means) / np.exp(0.5 * means).sum()
    np.testing.assert_allclose(np.exp(changed["group_dro"]["log_shares"]), shares, rtol=1e-5)
    assert mean.compute() == pytest.approx((shares * means).sum(), rel=1e-5)


def test_the_gradient_is_that_of_the_groups_in_their_shares(plain):
    t, variables, batch = plain
    group, weight = np.array([0, 1, 1, 1] * 3), jnp.asarray(np.arange(12, dtype=np.float32))
    dro, batch = group_dro(t, 2, rate=0.5), batch | {"sample_weight": weight}
    state = {"group_dro": {"log_shares": jnp.log(jnp.array([0.2, 0.8]))}}
    given = batch | {"group": jnp.asarray(group)}
    total = lambda p: dro.loss(p, state, given, jax.random.key(1))[0].total
    shares = jnp.exp(dro.loss(variables["params"], state, given, jax.random.key(1))[1][1]["group_dro"]["log_shares"])

    def mean(p, g):
        one = t.metrics["loss"](t.predict({"params": p}, batch), batch | {"sample_weight": weight * (group == g)})
        return one.total / one.weight

    by_hand = jax.jit(jax.grad(lambda p: weight.sum() * sum(shares[g] * mean(p, g) for g in (0, 1))))(
        variables["params"]
    )
    chex.assert_trees_all_close(jax.jit(jax.grad(total))(variables["params"]), by_hand, rtol=1e-4, atol=1e-5)


def test_group_dro_is_the_same_everywhere():
    data = rows()
    data = jc.data.Resident({**data.arrays, "group": (np.arange(96) % 5 == 0).astype(np.int32)}, data.classes)
    dro, tx, fits = group_dro(classification(Plain()), 2, rate=0.1), jc.optim.adam(1e-3), []
    for strategy, devices in (("jit", 1), ("sharded", 8)):
        state = jc.init_state(dro, tx, data.example())
        run = jc.compile_step(jc.make_train_step(dro, tx), strategy, devices)
        fits.append(jc.fit(run, state, data, batch_size=44, steps=6, every=6).state)  # padded on 8
    shares = [np.exp(state.model_state["group_dro"]["log_shares"]) for state in fits]
    assert abs(shares[0][0] - 0.5) > 1e-4 and shares[0].sum() == pytest.approx(1, abs=1e-6)
    assert all(distance(fits[0].params, other.params) < 1e-4 for other in fits[1:])
    np.testing.assert_allclose(shares[1:], [shares[0]], atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.int8])
def test_groups_of_any_integers(plain, dtype):
    t, variables, batch = plain
    dro = group_dro(t, 200 if dtype == np.int8 else 3)  # 200 is no int8
    state = {k: v for k, v in dro.init(jax.random.key(0), batch).items() if k != "params"}

    def total(group):
        return dro.loss(variables["params"], state, batch | {"group": group}, jax.random.key(0))[0].total

    group = np.arange(12) % 3
    assert float(total(group.astype(dtype))) == float(total(group.astype(np.int32)))
    if dtype != np.int8:
        assert jnp.isnan(total(np.where(group == 2, np.iinfo(dtype).max, group).astype(dtype)))


def test_the_worst_group_wins_over_the_mean():
    """Two groups of one image each that cannot both be right: the larger one decides the mean, neither the worst."""
    data = rows(40)
    image = np.repeat(data.arrays["image"][:1], 40, 0)
    label = np.array([0] * 36 + [1] * 4, np.int32)
    data = jc.data.Resident({"image": image, "label": label, "group": label}, ("a", "b"))
    chances = []
    for t in (classification(Plain(2)), group_dro(classification(Plain(2)), 2, rate=0.1)):
        tx = jc.optim.sgd(1e-2)
        fitted = jc.fit(
            jc.compile_step(jc.make_train_step(t, tx)),
            jc.init_state(t, tx, data.example()),
            data,
            batch_size=40,
            steps=400,
        )
        chances.append(jax.nn.softmax(t.predict(fitted.state.variables, {"image": jnp.asarray(image[:1])}))[0, 1])
    assert chances[0] == pytest.approx(0.1, abs=0.02) and chances[1] == pytest.approx(0.5, abs=0.03)


def test_rows_outside_the_groups_are_ignored_or_nan(plain):
    t, variables, batch = plain
    dro = group_dro(t, 3)
    state = {k: v for k, v in dro.init(jax.random.key(0), batch).items() if k != "params"}
    group, mask = np.arange(12) % 3, np.array([1.0] * 9 + [0] * 3, np.float32)

    def total(group, mask=mask * 0 + 1):
        given = batch | {"group": jnp.asarray(group), "row_mask": jnp.asarray(mask)}
        return float(dro.loss(variables["params"], state, given, jax.random.key(1))[0].compute())

    assert total(np.where(mask > 0, group, -1)) == pytest.approx(total(group, mask), rel=1e-6)
    assert total(np.where(mask > 0, group, 7), mask) == pytest.approx(total(group, mask), rel=1e-6)
    assert np.isnan(total(group + 1)) and np.isnan(total(group - 2))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"groups": 1}, "groups=1: must be at least 2"),
        ({"groups": 2, "rate": 0.0}, "rate=0.0: must be a positive number"),
    ],
    ids=["groups", "rate"],
)
def test_bad_options(plain, options, line):
    with pytest.raises(jc.InputError, match=line):
        group_dro(plain[0], **options)


def test_a_batch_without_the_column(plain):
    t, _, batch = plain
    dro = group_dro(t, 2, column="site")
    variables = dict(dro.init(jax.random.key(0), batch))
    params = variables.pop("params")
    with pytest.raises(jc.InputError, match="no column 'site', only image, label"):
        dro.loss(params, variables, batch, jax.random.key(0))
    with pytest.raises(jc.InputError, match=r"column 'site' is float32 of shape \(12,\); must be integers"):
        dro.loss(params, variables, batch | {"site": jnp.zeros(12)}, jax.random.key(0))
    with pytest.raises(jc.InputError, match="the variables have no shares; begin with"):
        dro.loss(params, {}, batch | {"site": jnp.zeros(12, int)}, jax.random.key(0))
