"""A step gives the same numbers on any devices; evaluation counts every row once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxcnn as jc
from jaxcnn.core import collectives
from jaxcnn.layers import Dropout, Network
from jaxcnn.parallel import mesh
from tests.small import Small, chunk, distance, rows, task

STRATEGIES = [("jit", 1), ("sharded", 8), ("pmap", 8), ("sharded", 3), ("pmap", 3), ("eager", 1)]


def trained(strategy, devices, tx, steps, dropout=0.0, change=None, per_call=7, batch=24):
    data, t = rows(), task(dropout=dropout)
    step = jc.make_train_step(t, tx)
    run = jc.compile_step(jc.augmented(step, change) if change else step, strategy, devices)
    state = run.put(jc.init_state(t, tx, data.example()))
    data, losses = data.put(run.replicate), []
    for at in range(0, steps, per_call):
        state, sums = run.call(state, data.chunk(batch, at, min(per_call, steps - at), per_call))
        losses.append(jax.device_get(sums["loss"]))
    return jax.device_get(state), losses


def one_by_one(tx, steps, batch=24):
    """The reference: a Python loop over the jitted step."""
    data, t = rows(), task()
    step, state = jax.jit(jc.make_train_step(t, tx)), jc.init_state(t, tx, data.example())
    for at in range(steps):
        state, _ = step(state, data.chunk(batch, at, 1, 1).at(0))
    return jax.device_get(state)


@pytest.mark.parametrize("tx", [jc.optim.sgd(0.05, momentum=0.9), jc.optim.adam(1e-3)], ids=["sgd", "adam"])
@pytest.mark.parametrize("strategy, devices", STRATEGIES[:5])
def test_20_steps_agree(strategy, devices, tx):
    one, many = one_by_one(tx, 20), trained(strategy, devices, tx, 20)[0]
    assert distance(one.params, many.params) < 1e-5
    assert distance(one.model_state, many.model_state) < 1e-5


@pytest.mark.parametrize("strategy, devices", [("sharded", 8), ("pmap", 8)])
def test_20_steps_agree_with_dropout_and_shift(strategy, devices):
    options = {"dropout": 0.3, "change": jc.augment.shift(2)}
    one, _ = trained("jit", 1, jc.optim.adam(1e-3), 20, **options)
    many, _ = trained(strategy, devices, jc.optim.adam(1e-3), 20, **options)
    assert distance(one.params, many.params) < 1e-5


@pytest.mark.slow
def test_eager_agrees():
    one, _ = trained("jit", 1, jc.optim.sgd(0.05), 3, per_call=3)
    eager, _ = trained("eager", 1, jc.optim.sgd(0.05), 3, per_call=3)
    assert distance(one.params, eager.params) < 1e-5


class Mask(Network):
    """Gives back the dropout mask itself."""

    num_classes: int = 16

    def setup(self):
        self.drop = Dropout(0.5)

    def features(self, x, *, train=False, row_mask=None):
        return {"x": self.drop(jnp.ones((x.shape[0], 16)), train=train)}

    def head(self, features, *, train=False):
        return features["x"]


@pytest.mark.parametrize("strategy", ["sharded", "pmap"])
def test_replicas_drop_different_units_and_together_those_of_one_device(strategy):
    from jax.sharding import Mesh

    model, x = Mask(), jnp.ones((16, 4, 4, 1))
    f = lambda x: model.apply({}, x, train=True, rngs={"dropout": jax.random.key(3)})
    whole = np.asarray(f(x))
    line = Mesh(np.array(jax.devices()), (collectives.AXIS,))
    if strategy == "pmap":
        split = np.asarray(jax.pmap(f, collectives.AXIS)(x.reshape(8, 2, 4, 4, 1))).reshape(16, 16)
    else:
        split = np.asarray(jax.jit(f)(jax.device_put(x, jax.NamedSharding(line, P(collectives.AXIS)))))
    np.testing.assert_array_equal(whole, split)
    replicas = split.reshape(8, -1)
    assert len({r.tobytes() for r in replicas}) == 8


@pytest.mark.parametrize("strategy, devices", STRATEGIES[:3])
def test_cutting_dispatches_differently_changes_no_bit(strategy, devices):
    a, _ = trained(strategy, devices, jc.optim.adam(1e-3), 12, dropout=0.3, per_call=12)
    b, _ = trained(strategy, devices, jc.optim.adam(1e-3), 12, dropout=0.3, per_call=5)
    chex.assert_trees_all_equal(a.params, b.params)


def test_one_program_serves_every_length():
    chex.clear_trace_counter()  # it goes by name, and other tests count steps too
    data, t, tx = rows(), task(), jc.optim.sgd(0.1)
    step = chex.assert_max_traces(jc.make_train_step(t, tx), n=1)
    run = jc.compile_step(step, "jit")
    state = run.put(jc.init_state(t, tx, data.example()))
    for count in (0, 1, 4, 3):
        state, sums = run.call(state, data.chunk(8, int(state.step), count, 4))
        assert sums["count"].compute() == 8 * count
    assert int(state.step) == 8


def test_resident_data_are_arguments_not_constants():
    data, t, tx = rows(), task(), jc.optim.sgd(0.1)
    run = jc.compile_step(jc.make_train_step(t, tx), "jit")
    state = run.put(jc.init_state(t, tx, data.example()))
    text = run.call.lower(state, data.chunk(8, 0, 1, 1)).as_text()
    assert len(text) < 2_000_000 and "96x8x8x1xui8" in text


def test_a_state_is_donated_and_the_variables_of_an_evaluation_are_not():
    data, t, tx = rows(), task(), jc.optim.sgd(0.1)
    state = jc.init_state(t, tx, data.example())
    run, ev = jc.compile_step(jc.make_train_step(t, tx), "jit"), jc.compile_step(jc.make_eval_step(t), "jit")
    state = run.put(state)
    ev.call(state.variables, data.chunk(8, 0, 1, 1))
    assert not jax.tree.leaves(state.params)[0].is_deleted()
    run.call(state, data.chunk(8, 0, 1, 1))
    assert jax.tree.leaves(state.params)[0].is_deleted()


@pytest.mark.parametrize("strategy, devices", [("jit", 1), ("sharded", 3), ("sharded", 8), ("pmap", 3), ("pmap", 8)])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_evaluation_is_exact(strategy, devices, batch_size):
    data, t = rows(97), task()
    variables = t.init(jax.random.key(1), data.example())
    reference = jc.make_eval_step(t)(variables, dict(data.arrays))[1]
    run = jc.compile_step(jc.make_eval_step(t), strategy, devices)
    values = jc.evaluate(run, variables, data, batch_size=batch_size)
    assert values["count"] == 97
    assert values["accuracy"] == reference["accuracy"].compute()
    assert values["loss"] == pytest.approx(reference["loss"].compute(), rel=1e-5)
    np.testing.assert_array_equal(values["confusion"], reference["confusion"].compute()["confusion"])


def test_uneven_weights_across_devices():
    """A mean of means would be wrong by a tenth here."""
    data = rows()
    weights = [1.0, 10.0, 0.1, 3.0]
    t = jc.tasks.classification(Small(), class_weights=weights)
    tx, batch = jc.optim.sgd(0.05), [{k: v[np.argsort(data.arrays["label"])][:24] for k, v in data.arrays.items()}]
    states = []
    for strategy, devices in (("jit", 1), ("sharded", 8), ("pmap", 8)):
        run = jc.compile_step(jc.make_train_step(t, tx), strategy, devices)
        states.append(jax.device_get(run.call(run.put(jc.init_state(t, tx, data.example())), chunk(batch))[0].params))
    assert distance(states[0], states[1]) < 1e-5 and distance(states[0], states[2]) < 1e-5


def test_auto_takes_one_device_by_jit_and_several_by_sharding():
    step = jc.make_eval_step(task())
    assert jc.compile_step(step, devices=1).strategy == "jit"
    auto = jc.compile_step(step)
    assert (auto.strategy, auto.devices) == ("sharded", 8)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("magic", None), "strategy='magic': must be one of"),
        (("auto", 9), "devices=9: JAX sees 8 of platform cpu"),
        (("auto", 0), "devices=0"),
        (("jit", 2), "devices=2: strategy 'jit' runs on one"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(jc.InputError, match=message):
        jc.compile_step(jc.make_eval_step(task()), *arguments)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"rule": mesh.split_all}, id="divided", marks=pytest.mark.slow),
        pytest.param({"model_devices": 2}, id="model", marks=pytest.mark.slow),
        pytest.param({"model_devices": 4, "rule": mesh.split_all}, id="both"),
    ],
)
def test_parameters_in_parts_agree(options, monkeypatch):
    monkeypatch.setattr(mesh, "LARGE", 16)  # the network here is small
    data, t, tx = rows(), task(dropout=0.3), jc.optim.adam(1e-3)
    states = []
    for more in ({"strategy": "jit"}, {"strategy": "sharded", **options}):
        run = jc.compile_step(jc.make_train_step(t, tx), **more)
        states.append(jc.fit(run, jc.init_state(t, tx, data.example()), data, batch_size=24, steps=20).state)
        values = jc.evaluate(jc.compile_step(jc.make_eval_step(t), **more), states[0].variables, data)
        assert values["count"] == data.size
    one, many = states
    divided = [x for x in jax.tree.leaves((many.params, many.opt_state)) if not x.sharding.is_fully_replicated]
    assert divided and all(x.addressable_shards[0].data.size < x.size for x in divided)
    assert distance(one.params, many.params) < 1e-5 and distance(one.model_state, many.model_state) < 1e-5


def test_the_rules():
    grid = mesh.make_mesh(jax.devices(), 2)  # data 4, model 2
    assert mesh.split_model((3, 3, 64, 128), grid) == P(None, None, None, "model")
    assert mesh.split_model((3, 3, 64, 129), grid) == P() and mesh.split_model((64,), grid) == P()
    assert mesh.split_all((3, 3, 64, 128), grid) == P(None, None, "data", "model")
    assert mesh.split_all((4097, 3), grid) == P() and mesh.split_all((), grid) == P()
    assert mesh.replicate((4096, 4096), grid) == P()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"model_devices": 3}, "model_devices=3: must divide the 8 devices"),
        ({"model_devices": 0}, "model_devices=0"),
        ({"strategy": "pmap", "rule": mesh.split_all}, "strategy='pmap': keeps parameters whole"),
    ],
)
def test_meshes_that_cannot_be(options, message):
    with pytest.raises(jc.InputError, match=message):
        jc.compile_step(jc.make_eval_step(task()), **{"strategy": "sharded", **options})
