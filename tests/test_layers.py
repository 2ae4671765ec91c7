"""Layers do what NumPy does, leave padding out, and agree however rows are spread over devices."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError
from jaxcnn.axis import AXIS, row_keys
from jaxcnn.layers import BatchNorm, Conv, ConvNorm, Dense, Dropout, check_dropout, check_image

SHAPES = [(12, 5), (6, 7, 5), (6, 3, 4, 5), (4, 2, 3, 2, 5)]


def norm_variables(channels, rng):
    draw = lambda low, high: rng.uniform(low, high, channels).astype(np.float32)
    return {
        "params": {"scale": draw(0.5, 2), "bias": draw(-1, 1)},
        "batch_stats": {"mean": draw(-1, 1), "var": draw(0.5, 2)},
    }


def normalise(variables, x, real=None, momentum=0.9, epsilon=1e-5, dtype=None):
    module = BatchNorm(momentum, epsilon, dtype)
    return jax.jit(lambda v, x, real: module.apply(v, x, train=True, real=real, mutable=["batch_stats"]))(variables, x, real)


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_training_equals_numpy(shape, rng):
    variables, x = norm_variables(5, rng), rng.normal(1, 3, shape).astype(np.float32)
    y, changed = normalise(variables, x, momentum=0.8, epsilon=1e-3)
    rows = x.reshape(-1, 5).astype(np.float64)
    expected = (x - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-3) * variables["params"]["scale"] + variables["params"]["bias"]
    np.testing.assert_allclose(y, expected, atol=1e-5)
    old = variables["batch_stats"]
    running = {"mean": 0.8 * old["mean"] + 0.2 * rows.mean(0), "var": 0.8 * old["var"] + 0.2 * rows.var(0, ddof=1)}
    chex.assert_trees_all_close(changed["batch_stats"], running, rtol=1e-5)


def test_batch_norm_evaluation_uses_running_statistics(rng):
    variables, x = norm_variables(5, rng), rng.normal(size=(3, 4, 4, 5)).astype(np.float32)
    y = BatchNorm().apply(variables, jnp.asarray(x), train=False)
    stats, params = variables["batch_stats"], variables["params"]
    expected = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [np.float32, np.int32, bool])
def test_batch_norm_leaves_padding_out(kind, rng):
    variables, x = norm_variables(5, rng), rng.normal(size=(8, 3, 3, 5)).astype(np.float32)
    real = np.array([1, 1, 0, 1, 0, 1, 1, 0]).astype(kind)
    kept = real.astype(bool)

    def loss(variables, x, real):
        y, changed = BatchNorm().apply(variables, x, train=True, real=real, mutable=["batch_stats"])
        values = jnp.square(y - 1) * y
        return (values if real is None else values * jnp.asarray(real, jnp.float32)[:, None, None, None]).sum(), (y, changed)

    compute = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (grads, dx), (y, changed) = compute(variables, x, real)
    (grads_kept, dx_kept), (y_kept, changed_kept) = compute(variables, x[kept], None)
    chex.assert_trees_all_close((changed, y[kept], dx[kept]), (changed_kept, y_kept, dx_kept), rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(grads["params"], grads_kept["params"], rtol=1e-4, atol=1e-4)
    assert not dx[~kept].any()


def test_batch_norm_keeps_digits_of_a_large_mean(rng):
    x = (1e4 + rng.normal(size=(16, 8, 8, 3))).astype(np.float32)
    variables = {"params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}, "batch_stats": {"mean": jnp.zeros(3), "var": jnp.zeros(3)}}
    y, changed = normalise(variables, x, momentum=0.0)
    rows = x.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(changed["batch_stats"]["var"], rows.var(0, ddof=1), rtol=1e-4)
    np.testing.assert_allclose(y, (x - rows.mean(0)) / rows.std(0), atol=5e-3)


def test_batch_norm_over_devices_equals_one(rng):
    variables, x = norm_variables(5, rng), rng.normal(size=(8, 3, 5)).astype(np.float32)
    real = np.array([1, 1, 1, 0, 0, 0, 1, 1], np.float32)  # the third device has only padding
    spread = jax.vmap(lambda x, real: normalise(variables, x, real), axis_name=AXIS)
    y, changed = spread(x.reshape(4, 2, 3, 5), real.reshape(4, 2))
    expected, changed_expected = normalise(variables, x, real)
    np.testing.assert_allclose(y.reshape(x.shape), expected, atol=1e-5)
    for i in range(4):
        chex.assert_trees_all_close(jax.tree.map(lambda v, i=i: v[i], changed), changed_expected, rtol=1e-5)


def test_batch_norm_init_changes_no_statistics(rng):
    x = jnp.asarray(rng.normal(size=(4, 5)), jnp.bfloat16)
    variables = BatchNorm().init(jax.random.key(0), x, train=True)
    chex.assert_trees_all_equal(variables["batch_stats"], {"mean": jnp.zeros(5), "var": jnp.ones(5)})
    assert BatchNorm().apply(variables, x, train=False).dtype == jnp.bfloat16
    assert BatchNorm(dtype=jnp.float32).apply(variables, x, train=False).dtype == jnp.float32


@functools.partial(jax.jit, static_argnums=(0, 3))
def drop(rate, x, key=0, train=True):
    return Dropout(rate).apply({}, x, train=train, rngs={"dropout": jax.random.key(key)})


def test_dropout_rate_and_scale():
    y = drop(0.3, jnp.ones((100, 10, 10), jnp.float32))
    kept = y != 0
    assert abs(kept.mean() - 0.7) < 0.02
    chex.assert_trees_all_close(y, jnp.where(kept, 1 / 0.7, 0), rtol=1e-6)


def test_dropout_depends_on_the_key_alone():
    x = jnp.ones((8, 16), jnp.bfloat16)
    chex.assert_trees_all_equal(drop(0.5, x, key=1), drop(0.5, x, key=1))
    assert (drop(0.5, x, key=1) != drop(0.5, x, key=2)).any()
    assert drop(0.5, x).dtype == jnp.bfloat16


def test_dropout_is_the_identity_in_evaluation(rng):
    x = jnp.asarray(rng.normal(size=(4, 5)))
    chex.assert_trees_all_equal(Dropout(0.5).apply({}, x, train=False), x)
    chex.assert_trees_all_equal(Dropout(0.0).apply({}, x, train=True), x)


def test_dropout_over_devices_equals_one():
    x = jnp.ones((8, 3, 4))
    spread = jax.vmap(lambda x: drop(0.5, x), axis_name=AXIS)(x.reshape(4, 2, 3, 4))
    chex.assert_trees_all_equal(spread.reshape(x.shape), drop(0.5, x))


def test_row_keys_are_those_of_the_global_row():
    spread = jax.vmap(lambda _: jax.random.key_data(row_keys(jax.random.key(0), 2)), axis_name=AXIS)(jnp.arange(4))
    whole = jax.random.key_data(row_keys(jax.random.key(0), 8))
    chex.assert_trees_all_equal(spread.reshape(whole.shape), whole)
    assert len(np.unique(whole, axis=0)) == 8


@pytest.mark.parametrize("shape", [(2, 9, 4), (2, 5, 6, 4), (2, 3, 4, 3, 4)])
def test_conv_adds_its_bias_at_every_place(shape, rng):
    module = Conv(6, (3,) * (len(shape) - 2), groups=2)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*module.window, 2, 6)), jnp.float32)
    chex.assert_trees_all_equal_shapes(jax.eval_shape(module.init, jax.random.key(0), x)["params"]["kernel"], kernel)
    apply = jax.jit(lambda bias: module.apply({"params": {"kernel": kernel, "bias": bias}}, x))
    bias = jnp.arange(6.0)
    plain = apply(jnp.zeros(6))
    chex.assert_trees_all_close(apply(bias) - plain, jnp.broadcast_to(bias, plain.shape), atol=1e-5)


def test_dense_equals_numpy(rng):
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    params = {"kernel": rng.normal(size=(4, 5)).astype(np.float32), "bias": rng.normal(size=5).astype(np.float32)}
    y = Dense(5).apply({"params": params}, jnp.asarray(x))
    np.testing.assert_allclose(y, x @ params["kernel"] + params["bias"], atol=1e-5)
    assert Dense(5, dtype=jnp.bfloat16).apply({"params": params}, jnp.asarray(x)).dtype == jnp.bfloat16


def test_conv_norm_is_conv_pool_norm_activation(rng):
    module = ConvNorm(6, pool=2)
    x = jnp.asarray(rng.normal(size=(3, 8, 8, 2)), jnp.float32)
    variables = module.init(jax.random.key(0), x, train=False)
    assert set(variables["params"]["conv"]) == {"kernel"}
    y = module.apply(variables, x, train=False)
    conv = Conv(6, use_bias=False).apply({"params": variables["params"]["conv"]}, x)
    expected = jnp.maximum(conv.reshape(3, 4, 2, 4, 2, 6).max((2, 4)) / jnp.sqrt(1 + 1e-5), 0)
    chex.assert_trees_all_close(y, expected, atol=1e-5)


def apply_to_other_channels(module):
    variables = module.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    return module.apply(variables, jnp.zeros((1, 4, 4, 3)))


ERRORS = {
    "rank": (lambda: check_image(jnp.zeros((4, 4, 1))), "image shape (4, 4, 1)"),
    "dtype": (lambda: check_image(jnp.zeros((1, 4, 4, 1), jnp.uint8)), "image dtype uint8"),
    "conv channels": (lambda: apply_to_other_channels(Conv(2)), "3 channels, but the parameters were made for 1"),
    "dense width": (lambda: apply_to_other_channels(Dense(2)), "3 inputs to a dense layer of 1"),
    "conv window": (lambda: apply_to_other_channels(Conv(2, (3,))), "spatial axes"),
    "dropout of 1": (lambda: drop(1.0, jnp.ones(3)), "dropout=1.0"),
    "negative dropout": (lambda: check_dropout(-0.1), "dropout=-0.1"),
    "dropout of nan": (lambda: drop(float("nan"), jnp.ones(3), train=False), "dropout=nan"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_quote_the_value_in_one_line(name):
    function, words = ERRORS[name]
    with pytest.raises(InputError) as caught:
        function()
    assert words in str(caught.value) and "\n" not in str(caught.value)
