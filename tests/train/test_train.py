"""Steps, gradient estimators and step wrappers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcnn as jc
from tests.small import Plain, Small, distance, rows, task


@pytest.fixture
def batch():
    return {k: v[:16] for k, v in rows().arrays.items()}


def start(task, tx, batch, seed=0):
    return jc.init_state(task, tx, batch, seed)


class StepTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_golden_step(self):
        """One SGD step on a linear model: values worked out by hand."""
        t = jc.tasks.classification(Plain(2))
        batch = {"image": np.array([[[[1.0]]], [[[0.5]]]], np.float32), "label": np.array([0, 1], np.int32)}
        tx = jc.optim.sgd(0.5)
        params = {"logits": {"kernel": jnp.zeros((1, 2)), "bias": jnp.zeros(2)}}
        state = jc.init_state(t, tx, batch, variables={"params": params})
        state, sums = self.variant(jc.make_train_step(t, tx))(state, batch)
        # softmax is 1/2 everywhere; d loss / d logits = (p - onehot) / 2 rows
        expected = {"kernel": jnp.array([[0.0625, -0.0625]]), "bias": jnp.zeros(2)}
        chex.assert_trees_all_close(state.params["logits"], expected, atol=1e-7)
        assert sums["loss"].compute() == pytest.approx(np.log(2), abs=1e-6)
        assert (sums["count"].compute(), int(state.step)) == (2, 1)

    @chex.variants(with_jit=True, without_jit=True)
    def test_eval_step_leaves_variables_alone(self):
        t, data = task(), rows().arrays
        variables = t.init(jax.random.key(0), data)
        after, sums = self.variant(jc.make_eval_step(t))(variables, dict(data))
        chex.assert_trees_all_equal(variables, after)
        assert sums["count"].compute() == 96


def test_overfits_32_rows():
    data = rows(32)
    t, tx = task(), jc.optim.adam(1e-2)
    step = jax.jit(jc.make_train_step(t, tx))
    state = start(t, tx, data.example())
    for _ in range(60):
        state, sums = step(state, dict(data.arrays))
    assert sums["accuracy"].compute() == 1.0
    assert jc.make_eval_step(t)(state.variables, dict(data.arrays))[1]["accuracy"].compute() == 1.0


def test_gradient_equals_finite_differences(batch):
    t = jc.tasks.classification(Plain(4))
    with jax.enable_x64(True):
        batch = {"image": batch["image"][:4].astype(np.float64) / 255, "label": batch["label"][:4]}
        params = jax.tree.map(lambda p: p.astype(jnp.float64), t.init(jax.random.key(0), batch)["params"])
        f = lambda p: t.loss(p, {}, batch, jax.random.key(0))[0].total
        grads = jax.grad(f)(params)["logits"]["bias"]
        for i in range(4):
            moved = lambda e, i=i: {"logits": params["logits"] | {"bias": params["logits"]["bias"].at[i].add(e)}}
            assert float(grads[i]) == pytest.approx(float(f(moved(1e-5)) - f(moved(-1e-5))) / 2e-5, rel=1e-6)


def test_one_trace_only(batch):
    t, tx = task(dropout=0.3), jc.optim.adam(1e-3)
    step = jax.jit(chex.assert_max_traces(jc.make_train_step(t, tx), n=1))
    state = start(t, tx, batch)
    for _ in range(3):
        state, _ = step(state, batch)


def test_fresh_optimiser_does_not_change_the_state_type(batch):
    a, b = (start(task(), jc.optim.adam(1e-3), batch) for _ in range(2))
    assert jax.tree.structure(a) == jax.tree.structure(b)
    chex.assert_trees_all_equal(a.params, b.params)


def test_random_streams_differ_by_name_and_step_and_repeat(batch):
    t, tx = task(), jc.optim.sgd(0.1)
    state = start(t, tx, batch)
    later = state.replace(step=state.step + 1)
    bits = [jax.random.bits(jc.stream(s, n)) for s in (state, later) for n in ("loss", "augment")]
    assert len({int(b) for b in bits}) == 4
    assert int(jax.random.bits(jc.stream(state, "loss"))) == int(bits[0])


def test_dropout_differs_between_steps_and_repeats_within(batch):
    t, tx = task(dropout=0.5), jc.optim.sgd(0.0 + 1e-9)
    step, state = jax.jit(jc.make_train_step(t, tx)), start(t, tx, batch)
    first, again = step(state, batch)[1], step(state, batch)[1]
    other = step(state.replace(step=state.step + 1), batch)[1]
    assert first["loss"].compute() == again["loss"].compute() != other["loss"].compute()


def test_accumulate_one_is_plain_bit_for_bit(batch):
    t, tx = task(dropout=0.3), jc.optim.adam(1e-2)
    a, b = (jax.jit(jc.make_train_step(t, tx, g))(start(t, tx, batch), batch)[0] for g in (jc.plain, jc.accumulate(1)))
    chex.assert_trees_all_equal(a.params, b.params)


def test_accumulate_equals_the_whole_batch_without_batch_norm(batch):
    t, tx = jc.tasks.classification(Plain(4), class_weights=[1, 2, 3, 4]), jc.optim.sgd(0.1)
    (a, sa), (b, sb) = (
        jax.jit(jc.make_train_step(t, tx, g))(start(t, tx, batch), batch) for g in (jc.plain, jc.accumulate(4))
    )
    assert distance(a.params, b.params) < 1e-6
    assert sa["loss"].compute() == pytest.approx(sb["loss"].compute(), rel=1e-6)
    assert sb["count"].compute() == 16


@pytest.mark.parametrize("k", [0, -1])
def test_accumulate_refuses_no_parts(k):
    with pytest.raises(jc.InputError, match=f"accumulate={k}"):
        jc.accumulate(k)


def test_accumulate_refuses_parts_that_do_not_divide(batch):
    t, tx = task(), jc.optim.sgd(0.1)
    with pytest.raises(jc.InputError, match="must divide the 16 rows"):
        jc.make_train_step(t, tx, jc.accumulate(3))(start(t, tx, batch), batch)


@pytest.mark.parametrize("grads", [jc.plain, jc.accumulate(4)], ids=["plain", "accumulate"])
def test_every_buffer_of_the_state_is_reused(batch, grads):
    t, tx = task(), jc.optim.adam(1e-2)
    state = jc.start_ema(start(t, tx, batch))
    step = jax.jit(jc.with_ema(jc.make_train_step(t, tx, grads)), donate_argnums=0)
    memory = step.lower(state, batch).compile().memory_analysis()
    assert memory.alias_size_in_bytes >= sum(
        x.nbytes for x in jax.tree.leaves(state.replace(rng=jax.random.key_data(state.rng)))
    )


def test_padding_changes_nothing(batch):
    """Rows with row_mask = 0 reach neither gradient, statistics nor metrics."""
    t, tx = task(), jc.optim.adam(1e-2)
    step, state = jax.jit(jc.make_train_step(t, tx)), start(t, tx, batch)
    padded = {k: np.concatenate([v, v[:5][::-1]]) for k, v in batch.items()} | {
        "row_mask": np.r_[np.ones(16), np.zeros(5)].astype(np.float32)
    }
    (a, sa), (b, sb) = step(state, batch), step(state, padded)
    assert distance(a.variables, b.variables) < 1e-6
    assert sa["loss"].compute() == pytest.approx(sb["loss"].compute(), rel=1e-6)
    assert sa["count"].compute() == sb["count"].compute() == 16


def test_ema_averages_the_variables(batch):
    t, tx = task(), jc.optim.sgd(0.1)
    plain, averaged = jax.jit(jc.make_train_step(t, tx)), jax.jit(jc.with_ema(jc.make_train_step(t, tx), 0.9))
    first = start(t, tx, batch)
    state, _ = averaged(jc.start_ema(first), batch)
    after, _ = plain(first, batch)
    keep = 2 / 11  # (1 + t) / (10 + t) at t = 1
    expected = jax.tree.map(lambda a, b: keep * a + (1 - keep) * b, first.params, after.params)
    # statistics are averages already
    chex.assert_trees_all_close(state.extras["ema"], after.variables | {"params": expected}, rtol=1e-5)
    chex.assert_trees_all_equal(state.params, after.params)


def test_ema_of_decay_zero_is_the_variables(batch):
    t, tx = task(), jc.optim.sgd(0.1)
    state, _ = jax.jit(jc.with_ema(jc.make_train_step(t, tx), 0.0))(jc.start_ema(start(t, tx, batch)), batch)
    chex.assert_trees_all_equal(state.extras["ema"], state.variables)


def test_ema_needs_a_start(batch):
    t, tx = task(), jc.optim.sgd(0.1)
    with pytest.raises(jc.InputError, match="start_ema"):
        jc.with_ema(jc.make_train_step(t, tx))(start(t, tx, batch), batch)
    with pytest.raises(jc.InputError, match="decay=1"):
        jc.with_ema(jc.make_train_step(t, tx), 1.0)


def test_augmented_step_sees_the_changed_batch(batch):
    t, tx = task(), jc.optim.sgd(0.1)
    step = jc.make_train_step(t, tx)
    black = lambda key, b: {**b, "image": jnp.zeros_like(b["image"])}
    state = start(t, tx, batch)
    a, _ = jax.jit(jc.augmented(step, black))(state, batch)
    b, _ = jax.jit(step)(state, black(None, batch))
    chex.assert_trees_all_close(a.params, b.params, rtol=1e-6, atol=1e-7)


def test_any_optax_transform_will_do(batch):
    t, tx = jc.tasks.classification(Small()), optax.multi_transform(
        {"train": optax.adam(1e-2), "freeze": optax.set_to_zero()},
        lambda p: {k: "freeze" if k == "conv" else "train" for k in p}
    )  # fmt: skip
    state = start(t, tx, batch)
    after, _ = jax.jit(jc.make_train_step(t, tx))(state, batch)
    chex.assert_trees_all_equal(state.params["conv"], after.params["conv"])
    assert distance(state.params["logits"], after.params["logits"]) > 0
