"""Mixed precision, recomputation and accumulation keep their promises, also combined, on one device and on eight."""

import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import InputError
from jaxcnn.core.precision import checked, policy, promote_float32
from jaxcnn.layers import BatchNorm, Conv, ConvTranspose, Dense, Dropout, DropPath, LayerNorm, LayerScale
from jaxcnn.models import MODELS, ResNet
from jaxcnn.runs import build
from tests.small import distance, rows

# every kind of model, small enough for images of 8x8
MAKE = {
    "cnn": functools.partial(MODELS["cnn"], widths=(8, 16)),
    "lenet5": MODELS["lenet5"],
    "mlp": functools.partial(MODELS["mlp"], widths=(16,)),
    "tutorial": MODELS["tutorial"],
    "mobilenet_v1": functools.partial(MODELS["mobilenet_v1"], cifar_stem=True, width=0.25),
    "resnet": functools.partial(ResNet, blocks=(1, 1), cifar_stem=True, width=8),
    "bottlenecks": functools.partial(ResNet, blocks=(1, 1), cifar_stem=True, width=4, bottleneck=True),
}
DEEP = [name for name in MAKE if hasattr(MAKE[name](4), "remat")]
F32, BF16 = jnp.dtype("float32"), jnp.dtype("bfloat16")


def task(name, **options):
    return jc.tasks.classification(MAKE[name](4, **options), mean=0.3, std=0.3)


@functools.cache
def batch(n=32):
    return {k: jnp.asarray(v) for k, v in rows(n).arrays.items()}


@functools.cache
def ran(name, **options):
    return differentiated(task(name, **options), batch())


def differentiated(t, batch, variables=None):
    """Loss, gradients, changed statistics and outputs of one training pass, from the variables of seed 0."""

    def run(variables):
        params, state = variables["params"], {k: v for k, v in variables.items() if k != "params"}

        def loss(params):
            mean, aux = t.loss(params, state, batch, jax.random.key(1))
            return mean.total, (mean, *aux)

        grads, (mean, outputs, changed) = jax.grad(loss, has_aux=True)(params)
        return {"loss": mean, "grads": grads, "outputs": outputs, "state": changed}

    return quick(run)(quick(t.init)(jax.random.key(0), batch) if variables is None else variables)


quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # half the time to compile


# --- the policy


def test_the_policy():
    assert policy() == (F32, F32, F32) == policy("f32") == policy(jnp.float32)
    assert (
        policy("bfloat16")
        == (F32, BF16, F32)
        == policy("bf16")
        == policy(jnp.bfloat16)
        == policy(None, jnp.zeros(1, jnp.bfloat16))
    )
    assert policy("float64") == (F32, np.float64, np.float64)


@pytest.mark.parametrize("dtype", ["float16", "int8", "half", "bfloat", "", 16, jnp.int32, float("nan")])
def test_other_dtypes_are_refused_in_one_line(dtype):
    for use in (checked, policy, lambda dtype: MODELS["cnn"](10, dtype=dtype)):
        with pytest.raises(InputError) as caught:
            use(dtype)
        assert (
            str(caught.value)
            == f"dtype={dtype!r}: must be one of float32, bfloat16, float64, or None for that of the input"
        )


def test_widened_leaves_what_is_wide_or_whole():
    tree = {
        "a": jnp.zeros(1, jnp.bfloat16),
        "b": jnp.zeros(1, jnp.int8),
        "c": np.zeros(1, np.float64),
        "d": jnp.zeros(1, jnp.float16),
    }
    assert {k: v.dtype.name for k, v in promote_float32(tree).items()} == {
        "a": "float32",
        "b": "int8",
        "c": "float64",
        "d": "float32",
    }


def test_a_description_from_json_may_name_the_dtype():
    model = {"name": "cnn", "options": {"num_classes": 4, "dtype": "bfloat16"}}
    model, _ = build(json.loads(json.dumps({"model": model, "task": {"name": "classification", "options": {}}})))
    assert model.dtype == BF16 and model == MODELS["cnn"](4, dtype=jnp.bfloat16)


@pytest.mark.parametrize("name", MAKE)
def test_only_what_lies_between_is_bfloat16(name):
    """Parameters, gradients, statistics, logits, loss and metrics are float32; the layers compute in bfloat16."""
    t, model = task(name, dtype="bfloat16"), MAKE[name](4, dtype="bfloat16")
    variables = jax.eval_shape(t.init, jax.random.key(0), batch())
    tx = jc.optim.adam(1e-3)
    state = jax.eval_shape(lambda variables: jc.init_state(t, tx, batch(), variables=variables), variables)
    after, sums = jax.eval_shape(jc.make_train_step(t, tx), state, batch())
    for tree in (variables, after.variables, sums, jax.eval_shape(t.predict, variables, batch())):
        assert {x.dtype for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)} == {F32}
    chex.assert_trees_all_equal_dtypes(state, after)
    features = jax.eval_shape(lambda v: model.apply(v, batch()["image"] / 255.0, method="features"), variables)
    assert {x.dtype for x in jax.tree.leaves(features)} == {BF16}


@pytest.mark.parametrize("name", ["cnn", pytest.param("lenet5", marks=pytest.mark.slow), "mlp", "tutorial", "resnet"])
def test_one_step_in_bfloat16_is_close_to_float32(name):
    narrow, wide = ran(name, dtype="bfloat16"), ran(name)
    assert {g.dtype for g in jax.tree.leaves(narrow["grads"])} == {F32} and narrow["loss"].total.dtype == F32
    assert narrow["loss"].compute() == pytest.approx(wide["loss"].compute(), rel=0.03)
    assert 0 < distance(wide["grads"], narrow["grads"]) < 0.12
    assert distance(wide["outputs"], narrow["outputs"]) < 0.05
    if wide["state"]:
        assert distance(wide["state"], narrow["state"]) < 0.02


def test_outputs_of_any_model_are_widened(rng):
    class Narrow(jc.layers.Network):
        num_classes: int = 3

        def features(self, x, *, train=False, row_mask=None):
            return {"x": x}

        def head(self, features, *, train=False):
            return features["x"].mean((1, 2)).astype(jnp.bfloat16)

    t = jc.tasks.classification(Narrow())
    given = {"image": jnp.asarray(rng.random((2, 4, 4, 3)), jnp.float32), "label": jnp.arange(2)}
    mean, (outputs, _) = t.loss({}, {}, given, jax.random.key(0))
    assert mean.total.dtype == outputs.dtype == t.predict({}, given).dtype == F32


# --- training, on one device and on eight


def trained(t, steps, strategy="jit", devices=1, grads=jc.plain, tx=None):
    data, tx = rows(32), tx or jc.optim.sgd(0.05, momentum=0.9)
    run = jc.compile_step(jc.make_train_step(t, tx, grads), strategy, devices)
    state = run.put(jc.init_state(t, tx, data.example()))
    return jax.device_get(run.call(state, data.put(run.replicate).chunk(32, 0, steps, steps)))


@pytest.mark.slow
def test_overfits_32_rows_in_bfloat16():
    t = task("cnn", dtype="bfloat16")
    state, _ = trained(t, 60, tx=jc.optim.adam(1e-2))
    assert jc.make_eval_step(t)(state.variables, batch())[1]["accuracy"].compute() == 1.0
    assert {x.dtype for x in jax.tree.leaves(state.opt_state) if jnp.issubdtype(x.dtype, jnp.floating)} == {F32}


@pytest.mark.parametrize("strategy", [pytest.param("sharded", marks=pytest.mark.slow), "pmap"])
@pytest.mark.parametrize("dtype, near", [(None, 1e-5), pytest.param("bfloat16", 1e-2, marks=pytest.mark.slow)])
def test_devices_agree(dtype, near, strategy):
    """With recomputation and dropout. In bfloat16, a different order of summation may change a value by 1/256."""
    t = task("resnet", dtype=dtype, remat=True, dropout=0.2)
    (one, s1), (many, s8) = alone(dtype), trained(t, 4, strategy, 8)
    assert distance(one.variables, many.variables) < near
    assert s1["loss"].compute() == pytest.approx(s8["loss"].compute(), rel=near)
    assert s1["count"] == s8["count"]


@functools.cache
def alone(dtype):
    return trained(task("resnet", dtype=dtype, remat=True, dropout=0.2), 4)


@pytest.mark.parametrize(
    "strategy, devices", [("jit", 1), *(pytest.param(s, 4, marks=pytest.mark.slow) for s in ("sharded", "pmap"))]
)
def test_accumulation_goes_with_norm_and_remat(strategy, devices):
    """Four parts of 8 rows, each normalised by itself: the gradient is the mean of theirs."""
    t, tx, data = task("resnet", remat=True), jc.optim.sgd(0.05), rows(32)
    run, chunk = (
        jc.compile_step(jc.make_train_step(t, tx, jc.accumulate(4)), strategy, devices),
        data.chunk(32, 0, 1, 1),
    )
    state, _ = run.call(run.put(jc.init_state(t, tx, data.example())), chunk)
    expected = by_parts()
    chex.assert_trees_all_close(jax.device_get(state.params), expected, rtol=1e-4, atol=1e-6)


@functools.cache
def by_parts():
    t, data = task("resnet"), rows(32)
    params, state = (lambda s: (s.params, s.model_state))(jc.init_state(t, jc.optim.sgd(0.05), data.example()))
    grad = quick(jax.grad(lambda params, batch: t.loss(params, state, batch, jax.random.key(1))[0].total))
    parts = [{k: v[i::4] for k, v in data.chunk(32, 0, 1, 1).at(0).items()} for i in range(4)]
    grads = [grad(params, part) for part in parts]
    return jax.tree.map(lambda p, *g: p - 0.05 * sum(g) / 32, params, *grads)


@pytest.mark.parametrize("strategy, devices", [pytest.param("jit", 1, marks=pytest.mark.slow), ("sharded", 4)])
def test_accumulation_goes_with_bfloat16(strategy, devices):
    wide, narrow = (
        trained(task("cnn", dtype=dtype), 4, strategy, devices, jc.accumulate(4))[0] for dtype in (None, "bfloat16")
    )
    assert 0 < distance(wide.variables, narrow.variables) < 0.03


# --- recomputation


def slow_but_resnet(names):
    return [pytest.param(name, marks=() if name == "resnet" else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", slow_but_resnet(DEEP))
def test_remat_changes_no_gradient(name):
    """But for rounding: XLA fuses the second computation differently from the first."""
    plain, again = ran(name, dropout=0.3), ran(name, dropout=0.3, remat=True)
    chex.assert_trees_all_equal(again["outputs"], plain["outputs"])
    chex.assert_trees_all_equal(again["state"], plain["state"])
    assert distance(plain["grads"], again["grads"]) < 1e-5


LARGER = {
    "resnet": (functools.partial(ResNet, blocks=(4,), cifar_stem=True, width=8), (16, 32, 32, 3)),
    "bottlenecks": (functools.partial(ResNet, blocks=(4,), cifar_stem=True, width=4, bottleneck=True), (16, 32, 32, 3)),
    "mobilenet_v1": (functools.partial(MODELS["mobilenet_v1"], cifar_stem=True, width=0.25), (16, 32, 32, 3)),
}


@pytest.mark.parametrize("name", slow_but_resnet(LARGER))  # not cnn: nearly all that it keeps is in the stem
def test_remat_takes_less_memory(name):
    make, shape = LARGER[name]

    def temporary(remat):
        t = jc.tasks.classification(make(4, remat=remat))
        given = {"image": jax.ShapeDtypeStruct(shape, jnp.uint8), "label": jax.ShapeDtypeStruct(shape[:1], jnp.int32)}
        variables = jax.eval_shape(t.init, jax.random.key(0), given)
        params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
        loss = lambda params, state, batch: t.loss(params, state, batch, jax.random.key(1))[0].total
        return quick(jax.grad(loss)).lower(params, state, given).compile().memory_analysis().temp_size_in_bytes

    assert temporary(True) < 0.75 * temporary(False)


@pytest.mark.slow
def test_remat_can_be_differentiated_twice():
    """As a gradient penalty does."""

    def penalty(remat):
        t = task("cnn", remat=remat)
        variables = quick(t.init)(jax.random.key(0), batch(8))
        state = {"batch_stats": variables["batch_stats"]}
        loss = lambda params, image: t.loss(params, state, {**batch(8), "image": image}, jax.random.key(1))[0].total
        slope = lambda params: jnp.square(jax.grad(loss, 1)(params, batch(8)["image"] / 255.0)).sum()
        return quick(jax.grad(slope))(variables["params"])

    assert distance(penalty(False), penalty(True)) < 1e-4


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, bool, np.float16, np.complex64])
@pytest.mark.parametrize(
    "module", [Conv(2), ConvTranspose(2), Dense(2), LayerNorm(), LayerScale(), BatchNorm(), Dropout(0.5), DropPath(0.5)]
)
def test_layers_refuse_what_they_would_round(module, dtype):
    """Kernels cast to the dtype of integers are zeros."""
    if isinstance(module, (Dropout, DropPath)) and jnp.issubdtype(dtype, jnp.inexact):
        return
    options = {"train": True} if isinstance(module, (BatchNorm, Dropout, DropPath)) else {}
    with pytest.raises(InputError) as refused:
        module.init(
            {"params": jax.random.key(0), "dropout": jax.random.key(1)}, jnp.ones((2, 4, 4, 3), dtype), **options
        )
    assert (
        "(2, 4, 4, 3)" in str(refused.value)
        and jnp.dtype(dtype).name in str(refused.value)
        and "\n" not in str(refused.value)
    )


def test_a_dtype_that_was_asked_for_takes_integers():
    x = jnp.arange(4 * 3).reshape(4, 3)
    y, _ = Dense(2, dtype="float32").init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.float32 and jnp.abs(y).max() > 0
