"""Your own models are trained and used: Linen modules without `train` or `row_mask`, function pairs, NNX modules."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxcnn as jc
from tests.small import rows

DATA = {name: np.asarray(x) for name, x in rows(48).arrays.items() if name in ("image", "label")}
SHAPE = DATA["image"].shape[1:]
CLASSES = 4


class Bare(nn.Module):
    num_classes: int = CLASSES

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


class Modes(nn.Module):
    """With dropout that the argument `train` decides, and Flax's own norm."""

    num_classes: int = CLASSES

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x))
        return nn.Dense(self.num_classes)(nn.Dropout(0.2, deterministic=not train)(nn.relu(x).mean((1, 2))))


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(SHAPE[-1], 4, (3, 3), rngs=rngs)
        self.norm, self.drop = nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.2, rngs=rngs)
        self.out = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.out(self.drop(nnx.relu(self.norm(self.conv(x))).mean((1, 2))))


def start(key, x):
    return {"w": jax.random.normal(key, (x.shape[-1], CLASSES)) * 0.1, "b": jnp.zeros(CLASSES)}


def affine(params, x):
    return x.mean((1, 2)) @ params["w"] + params["b"][None]


def start_with_state(key, x):
    return start(key, x), {"mean": jnp.zeros(x.shape[-1])}


def centred(params, state, x, train, row_mask=None):
    mean = 0.9 * state["mean"] + 0.1 * x.mean((0, 1, 2)) if train else state["mean"]
    return affine(params, x - mean[None, None, None]), {"mean": mean}


MODELS = {
    "bare": Bare(),
    "modes": Modes(),
    "functions": jc.models.from_functions(start, affine, CLASSES),
    "functions with state": jc.models.from_functions(start_with_state, centred, CLASSES, stateful=True),
    "nnx": jc.models.from_nnx(Net, CLASSES),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_trains_and_is_measured(name):
    task, tx = jc.tasks.classification(MODELS[name]), jc.optim.adam(3e-2)
    run = jc.compile_step(jc.make_train_step(task, tx), "jit", 1)
    state = jc.init_state(task, tx, {k: x[:1] for k, x in DATA.items()})
    fitted = jc.fit(run, state, DATA, batch_size=16, steps=30, every=15, log=None)
    assert fitted.history[1]["train/loss"] < fitted.history[0]["train/loss"]
    ev = jc.compile_step(jc.make_eval_step(task), "jit", 1)
    found = jc.evaluate(ev, fitted.state.variables, DATA, batch_size=20)
    assert found["count"] == 48 and np.isfinite(found["loss"])
    if fitted.state.model_state:
        moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.model_state, fitted.state.model_state)
        assert max(jax.tree.leaves(moved)) > 0


def test_dropout_of_an_nnx_module_is_a_function_of_the_key():
    model = MODELS["nnx"]
    variables = model.init(jax.random.key(0), jnp.asarray(DATA["image"], jnp.float32))
    assert set(variables) == {"params", "batch_stats"}
    call = jax.jit(lambda key: model.apply(variables, jnp.ones((2, *SHAPE)), train=True, rngs={"dropout": key}))
    one, same, other = (call(jax.random.key(i)) for i in (1, 1, 2))
    chex.assert_trees_all_equal(one, same)
    assert (one != other).any()
    predict = model.apply(variables, jnp.ones((2, *SHAPE)))
    chex.assert_trees_all_equal(
        predict, model.apply(variables, jnp.ones((2, *SHAPE)), rngs={"dropout": jax.random.key(5)})
    )


def test_an_nnx_model_is_what_the_module_computes():
    module = Net(nnx.Rngs(0))
    module.eval()
    model = jc.models.from_nnx(Net, CLASSES)
    graph, params, stats, _ = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
    variables = {"params": nnx.to_pure_dict(params), "batch_stats": nnx.to_pure_dict(stats)}
    x = jax.random.normal(jax.random.key(1), (3, *SHAPE))
    chex.assert_trees_all_close(model.apply(variables, x), module(x), rtol=1e-6)


def test_functions_see_what_they_take():
    seen = {}

    def apply(params, x, *, train, row_mask, key):
        seen[train] = (row_mask is None, key is None)
        return affine(params, x)

    task = jc.tasks.classification(jc.models.from_functions(start, apply, CLASSES))
    variables = task.init(jax.random.key(0), {k: x[:1] for k, x in DATA.items()})
    batch = {**DATA, "row_mask": np.ones(48, np.float32)}
    task.loss(variables["params"], {}, batch, jax.random.key(0))
    task.predict(variables, batch)
    assert seen == {True: (False, False), False: (True, True)}


def test_a_pair_that_is_none_is_refused():
    model = jc.models.from_functions(start, affine, CLASSES, stateful=True)
    with pytest.raises(jc.InputError, match="init returned dict: with stateful=True it must return .params, state."):
        model.init(jax.random.key(0), jnp.ones((1, *SHAPE)))
