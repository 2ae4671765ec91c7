"""SCAFFOLD: control variates by a plain loop, the first round of FedAvg, devices, and what is refused."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcnn as jc
from jaxcnn.methods.clients import clients, iid
from jaxcnn.methods.federated import federated
from jaxcnn.methods.scaffold import scaffold, start_controls, with_controls
from tests.small import Plain, distance, rows, task

RATE, SERVER = 0.1, 0.7


@pytest.fixture(scope="module")
def small():
    data = rows(24)
    task = jc.tasks.classification(Plain())
    return data, task, task.init(jax.random.key(0), data.example())


def fit(small, held, estimator, batch_size, steps, strategy="jit", devices=1):
    data, task, variables = small
    tx = optax.sgd(SERVER)
    run = jc.compile_step(with_controls(jc.make_train_step(task, tx, estimator)), strategy, devices)
    state = start_controls(len(held.parts))(jc.init_state(task, tx, data.example(), variables=variables))
    return jc.fit(run, state, held, batch_size=batch_size, steps=steps)


def test_rounds_equal_a_plain_loop(small):
    data, task, variables = small
    parts = [np.arange(4), np.arange(4, 16), np.arange(16, 24)]
    held = clients(data, parts)
    result = fit(small, held, scaffold(RATE, held.room, batch_size=held.room, epochs=3), 2, 3).state

    @jax.jit
    def slope_of(params, batch):
        def mean(params):
            mean, _ = task.loss(params, {}, batch, jax.random.key(0))
            return mean.total / mean.weight

        return jax.grad(mean)(params)

    def slope(params, part):
        return slope_of(params, {name: x[part] for name, x in data.arrays.items()})

    params, zero = variables["params"], jax.tree.map(jnp.zeros_like, variables["params"])
    server, table = zero, [zero, zero, zero]
    for round_ in range(3):
        index, inside = (np.asarray(x)[0] for x in held.chunk(2, round_, 1, 1)[1:3])
        chosen = sorted({int(held.arrays["client"][i]) for i in index[inside > 0]})
        ends, moved = [], []
        for who in chosen:
            own = params
            for _ in range(3):
                step = jax.tree.map(lambda g, c, d: g + c - d, slope(own, parts[who]), server, table[who])
                own = jax.tree.map(lambda p, g: p - RATE * g, own, step)
            new = jax.tree.map(lambda k, c, p, q: k - c + (p - q) / (3 * RATE), table[who], server, params, own)
            moved.append(jax.tree.map(jnp.subtract, new, table[who]))
            ends.append(own)
            table[who] = new
        params = jax.tree.map(lambda p, *q: p + SERVER * (sum(q) / len(q) - p), params, *ends)
        server = jax.tree.map(lambda c, *d: c + sum(d) / 3, server, *moved)
    chex.assert_trees_all_close(result.params, params, rtol=1e-4, atol=1e-5)
    kept = result.extras["scaffold"]
    chex.assert_trees_all_close(kept["server"], server, rtol=1e-3, atol=1e-5)
    chex.assert_trees_all_close(kept["table"], jax.tree.map(lambda *x: jnp.stack(x), *table), rtol=1e-3, atol=1e-5)


def test_the_first_round_is_that_of_fedavg(small):
    data, task, variables = small
    held = clients(data, iid(24, 3))
    found = fit(small, held, scaffold(RATE, 8, batch_size=8, epochs=2), 2, 1).state
    run = jc.compile_step(
        jc.make_train_step(task, optax.sgd(SERVER), federated(optax.sgd(RATE), 8, batch_size=8, epochs=2))
    )
    state = jc.init_state(task, optax.sgd(SERVER), data.example(), variables=variables)
    plain = jc.fit(run, state, held, batch_size=2, steps=1).state
    chex.assert_trees_all_close(found.params, plain.params, rtol=1e-5, atol=1e-6)
    assert set(found.variables) == set(plain.variables)  # what is evaluated and saved has no control variates


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sharded", "pmap"])
def test_the_same_on_eight_devices(strategy):
    data, hard = rows(24), task(dropout=0.5)  # with batch norm, whose statistics are of one client's rows
    given, held = (data, hard, hard.init(jax.random.key(0), data.example())), clients(data, iid(24, 6))
    own = scaffold(RATE, held.room, batch_size=2, epochs=2)
    one, eight = (fit(given, held, own, 4, 1, *how).state for how in (("jit", 1), (strategy, 8)))
    assert distance(one.params, eight.params) < 1e-5 and distance(one.model_state, eight.model_state) < 1e-5
    assert distance(one.extras["scaffold"], eight.extras["scaffold"]) < 1e-4


@pytest.mark.parametrize("count", [2, 7])
def test_another_number_of_clients_than_controls_is_not_silent(small, count):
    data, task, variables = small
    held, tx = clients(data, iid(24, 6)), optax.sgd(SERVER)
    run = jc.compile_step(with_controls(jc.make_train_step(task, tx, scaffold(RATE, held.room))), "jit")
    state = start_controls(count)(jc.init_state(task, tx, data.example(), variables=variables))
    with pytest.raises(jc.DivergedError):
        jc.fit(run, state, held, batch_size=6, steps=2)


def test_refused(small):
    data, task, variables = small
    for wrong, line in (
        ({"learning_rate": 0.0}, "learning_rate=0.0"), ({"rows_per_client": 0}, "rows_per_client=0"),
        ({"epochs": 0}, "epochs=0"), ({"batch_size": 0}, "batch_size=0"),
    ):  # fmt: skip
        with pytest.raises(jc.InputError, match=line):
            scaffold(**{"learning_rate": 0.1, "rows_per_client": 8} | wrong)
    with pytest.raises(jc.InputError, match="count=0"):
        start_controls(0)
    tx = optax.sgd(1.0)
    step = jc.make_train_step(task, tx, scaffold(0.1, 24))
    state = jc.init_state(task, tx, data.example(), variables=variables)
    with pytest.raises(jc.InputError, match="with_controls: the state has no control variates"):
        with_controls(step)(state, data.arrays)
    with pytest.raises(jc.InputError, match="wrap the step in with_controls"):
        step(state, data.arrays)
    with pytest.raises(jc.InputError, match="no column 'client'"):
        with_controls(step)(start_controls(3)(state), data.arrays)
