"""Running statistics match the weights from the first updates on, and equal torch's without a training step."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.layers import BatchNorm
from jaxcnn.layers.norm import YOUNG, grown, young
from jaxcnn.train.step import with_ema
from tests.layers.test_layers import norm_variables
from tests.small import Small, rows, task


def updated(x, updates=None, momentum=0.9):
    variables = norm_variables(5, np.random.default_rng(1))
    given = variables if updates is None else {**variables, **young({"batch_stats": variables["batch_stats"]}, updates)}
    return variables["batch_stats"], BatchNorm(momentum).apply(given, x, train=True, mutable=["batch_stats"])[1][
        "batch_stats"
    ]


@pytest.mark.parametrize(
    "updates, momentum, keep",
    [(None, 0.9, 0.9), (0, 0.9, 0.0), (9, 0.99, 0.5), (9, 0.1, 0.1), (3, 1.0, 1.0), (200, 0.9, 0.9)],
)
def test_what_a_running_statistic_keeps(updates, momentum, keep, rng):
    x = rng.normal(1, 3, (6, 4, 5)).astype(np.float32)
    old, new = updated(x, updates, momentum)
    now = {"mean": x.reshape(-1, 5).mean(0), "var": x.reshape(-1, 5).var(0, ddof=1)}
    chex.assert_trees_all_close(new, {k: keep * old[k] + (1 - keep) * now[k] for k in old}, rtol=1e-5)


def test_later_updates_are_those_of_old_runs_to_the_last_bit(rng):
    x = rng.normal(1, 3, (6, 4, 5)).astype(np.float32)
    chex.assert_trees_all_equal(updated(x, 82)[1], updated(x)[1])


def test_a_step_takes_back_what_it_lent():
    t, tx = task(), jc.optim.sgd(0.1)
    state = jc.init_state(t, tx, rows().example())
    lent = young(state.model_state, state.step)
    assert YOUNG in lent and grown(lent) == state.model_state
    assert young({}, 3) == {} and grown({}) == {}
    for grads in (jc.plain, jc.accumulate(4), jc.with_norm(jc.accumulate(2))):
        after = jax.eval_shape(jc.make_train_step(t, tx, grads), state, {k: v[:16] for k, v in rows().arrays.items()})[
            0
        ]
        assert jax.tree.structure(after) == jax.tree.structure(state)


def follow(step, state, batch, n):
    for _ in range(n):
        state, sums = step(state, batch)
    return state, sums


def test_validation_follows_training_from_the_start():
    """Of small values, too, whose variance is far from the 1 that running statistics begin with."""
    batch = {k: v[:64] for k, v in rows().arrays.items()}
    t = jc.tasks.classification(Small(), mean=0.0, std=10.0)
    tx = jc.optim.adam(1e-2)
    step = jax.jit(with_ema(jc.make_train_step(t, tx), 0.999))
    state, sums = follow(step, jc.start_ema(jc.init_state(t, tx, batch)), batch, 6)
    for variables in (state.variables, state.extras["ema"]):
        assert jc.make_eval_step(t)(variables, batch)[1]["loss"].compute() < sums["loss"].compute() + 0.15


def test_averaged_statistics_reach_back_as_far_as_averaged_weights():
    t, tx = task(), jc.optim.sgd(0.1)
    batch = {k: v[:16] for k, v in rows().arrays.items()}
    state = jc.start_ema(jc.init_state(t, tx, batch))
    still = lambda state, batch: (state.replace(step=state.step + 1), {})  # the variables stay as they are
    for begun, window in ((5, 0.0), (79, 0.0), (900, 90.2), (100_000, 990.0)):
        away = jax.tree.map(lambda x: x + 1, state.variables)
        at = state.replace(step=jnp.int32(begun), extras={"ema": away})
        ema = with_ema(still, 0.999)(at, batch)[0].extras["ema"]
        mean = lambda name, ema=ema: float(
            jax.tree.leaves(ema[name])[0].ravel()[0] - jax.tree.leaves(state.variables[name])[0].ravel()[0]
        )
        k = min(0.999, (2 + begun) / (11 + begun))
        assert mean("params") == pytest.approx(k, abs=1e-4)
        assert mean("batch_stats") == pytest.approx(window / (1 + window), abs=1e-3)
