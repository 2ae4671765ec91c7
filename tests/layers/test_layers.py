"""Layers do what NumPy does, leave padding out, and agree however rows are spread over devices."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcnn import InputError, ops
from jaxcnn.core.collectives import AXIS, row_keys
from jaxcnn.core.remat import recompute
from jaxcnn.layers import (
    BatchNorm,
    Conv,
    ConvNorm,
    ConvTranspose,
    Dense,
    Dropout,
    SeparableConv,
    apply_block,
    check_dropout,
    check_image,
)

SHAPES = [(12, 5), (6, 7, 5), (6, 3, 4, 5), (4, 2, 3, 2, 5)]


def norm_variables(channels, rng):
    draw = lambda low, high: rng.uniform(low, high, channels).astype(np.float32)
    return {
        "params": {"scale": draw(0.5, 2), "bias": draw(-1, 1)},
        "batch_stats": {"mean": draw(-1, 1), "var": draw(0.5, 2)},
    }


def normalise(variables, x, row_mask=None, momentum=0.9, epsilon=1e-5, dtype=None):
    module = BatchNorm(momentum, epsilon, dtype)
    return jax.jit(lambda v, x, row_mask: module.apply(v, x, train=True, mask=row_mask, mutable=["batch_stats"]))(
        variables, x, row_mask
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_training_equals_numpy(shape, rng):
    variables, x = norm_variables(5, rng), rng.normal(1, 3, shape).astype(np.float32)
    y, changed = normalise(variables, x, momentum=0.8, epsilon=1e-3)
    rows = x.reshape(-1, 5).astype(np.float64)
    expected = (x - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-3) * variables["params"]["scale"] + variables["params"][
        "bias"
    ]
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
    row_mask = np.array([1, 1, 0, 1, 0, 1, 1, 0]).astype(kind)
    kept = row_mask.astype(bool)

    def loss(variables, x, row_mask):
        y, changed = BatchNorm().apply(variables, x, train=True, mask=row_mask, mutable=["batch_stats"])
        values = jnp.square(y - 1) * y
        return (
            values if row_mask is None else values * jnp.asarray(row_mask, jnp.float32)[:, None, None, None]
        ).sum(), (y, changed)

    compute = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (grads, dx), (y, changed) = compute(variables, x, row_mask)
    (grads_kept, dx_kept), (y_kept, changed_kept) = compute(variables, x[kept], None)
    chex.assert_trees_all_close((changed, y[kept], dx[kept]), (changed_kept, y_kept, dx_kept), rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(grads["params"], grads_kept["params"], rtol=1e-4, atol=1e-4)
    assert not dx[~kept].any()


def test_batch_norm_keeps_digits_of_a_large_mean(rng):
    x = (1e4 + rng.normal(size=(16, 8, 8, 3))).astype(np.float32)
    variables = {
        "params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)},
        "batch_stats": {"mean": jnp.zeros(3), "var": jnp.zeros(3)},
    }
    y, changed = normalise(variables, x, momentum=0.0)
    rows = x.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(changed["batch_stats"]["var"], rows.var(0, ddof=1), rtol=1e-4)
    np.testing.assert_allclose(y, (x - rows.mean(0)) / rows.std(0), atol=5e-3)


def test_batch_norm_over_devices_equals_one(rng):
    variables, x = norm_variables(5, rng), rng.normal(size=(8, 3, 5)).astype(np.float32)
    row_mask = np.array([1, 1, 1, 0, 0, 0, 1, 1], np.float32)  # the third device has only padding
    spread = jax.vmap(lambda x, row_mask: normalise(variables, x, row_mask), axis_name=AXIS)
    y, changed = spread(x.reshape(4, 2, 3, 5), row_mask.reshape(4, 2))
    expected, changed_expected = normalise(variables, x, row_mask)
    np.testing.assert_allclose(y.reshape(x.shape), expected, atol=1e-5)
    for i in range(4):
        chex.assert_trees_all_close(jax.tree.map(lambda v, i=i: v[i], changed), changed_expected, rtol=1e-5)


def norm_by_hand(variables, x, row_mask, momentum=0.9, epsilon=1e-5):
    """Batch norm in training, for automatic differentiation to take apart."""
    weight = (
        jnp.ones(x.shape) if row_mask is None else jnp.broadcast_to(row_mask.reshape(-1, *(1,) * (x.ndim - 1)), x.shape)
    )
    n = weight[..., 0].sum()
    total = lambda values: (values * weight).reshape(-1, x.shape[-1]).sum(0) / n
    spread = lambda c: c.reshape((1,) * (x.ndim - 1) + (-1,))
    mean = total(x)
    var = total((x - spread(mean)) ** 2)
    params, old = variables["params"], variables["batch_stats"]
    y = (x - spread(mean)) / jnp.sqrt(spread(var) + epsilon) * spread(params["scale"]) + spread(params["bias"])
    now = {"mean": mean, "var": var * n / (n - 1)}
    return y, {"batch_stats": {k: momentum * old[k] + (1 - momentum) * now[k] for k in old}}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_batch_norm_gradient_equals_automatic_differentiation(shape, padded, rng):
    """In double precision, through the output and the statistics, and once more through the gradient itself."""
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), norm_variables(5, rng))
        x, towards = jnp.asarray(rng.normal(1, 3, shape)), jnp.asarray(rng.normal(size=shape))
        row_mask = jnp.asarray([1, 0] + [1] * (shape[0] - 2), jnp.float64) if padded else None
        ours = lambda v, x, row_mask: BatchNorm().apply(v, x, train=True, mask=row_mask, mutable=["batch_stats"])

        def grads(form):
            def loss(params, x):
                y, changed = form({**variables, "params": params}, x, row_mask)
                stats = changed["batch_stats"]
                return (jnp.sin(y) * towards).sum() + 3 * stats["mean"].sum() + (stats["var"] ** 2).sum()

            first = lambda params, x: jax.grad(loss, (0, 1))(params, x)
            squared = lambda params, x: sum((g**2).sum() for g in jax.tree.leaves(first(params, x)))
            return jax.jit(lambda *a: (first(*a), jax.grad(squared, (0, 1))(*a)))(variables["params"], x)

        got, expected = grads(ours), grads(norm_by_hand)
        assert got[0][1].dtype == jnp.float64
        chex.assert_trees_all_close(got, expected, rtol=1e-9, atol=1e-9)


def test_batch_norm_gradient_over_devices_equals_one(rng):
    """Of the loss of all devices to each one's rows; that to the parameters is a share, which `plain` adds up."""
    variables, x = norm_variables(5, rng), rng.normal(size=(8, 3, 5)).astype(np.float32)
    row_mask = np.array([1, 1, 1, 0, 0, 0, 1, 1], np.float32)

    def grads(x, row_mask):
        loss = lambda params, x: jnp.sin(normalise({**variables, "params": params}, x, row_mask)[0]).sum()
        return jax.grad(loss, (0, 1))(variables["params"], x)

    shares, dx = jax.vmap(grads, axis_name=AXIS)(x.reshape(4, 2, 3, 5), row_mask.reshape(4, 2))
    expected, dx_expected = grads(x, row_mask)
    chex.assert_trees_all_close(dx.reshape(x.shape), dx_expected, atol=1e-5)
    chex.assert_trees_all_close(jax.tree.map(lambda g: g.sum(0), shares), expected, atol=1e-5)


def test_batch_norm_statistics_are_float32_for_narrow_inputs(rng):
    wide = (100 + rng.normal(size=(64, 8, 8, 3))).astype(np.float32)
    x = jnp.asarray(wide, jnp.bfloat16)  # 1 in 128 of digits left: means of it in bfloat16 would be off by a half
    variables = {
        "params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)},
        "batch_stats": {"mean": jnp.zeros(3), "var": jnp.zeros(3)},
    }
    y, changed = normalise(variables, x, momentum=0.0)
    rows = np.asarray(x, np.float64).reshape(-1, 3)
    chex.assert_trees_all_close(changed["batch_stats"], {"mean": rows.mean(0), "var": rows.var(0, ddof=1)}, rtol=1e-5)
    assert y.dtype == jnp.bfloat16 and changed["batch_stats"]["mean"].dtype == jnp.float32


def test_batch_norm_can_begin_at_zero():
    variables = BatchNorm(scale_init=jax.nn.initializers.zeros).init(jax.random.key(0), jnp.ones((2, 3)), train=True)
    assert not variables["params"]["scale"].any()


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
    kernel = jnp.asarray(rng.normal(size=(*module.kernel_size, 2, 6)), jnp.float32)
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


@pytest.mark.parametrize("padding", ["SAME", 1, ((0, 1), (1, 2))])
@pytest.mark.parametrize("strides, window", [(2, (2, 2)), (2, (4, 4)), ((1, 3), (3, 4))])
def test_conv_transpose_is_the_transpose_of_conv(strides, window, padding, rng):
    module = ConvTranspose(3, window, strides, padding)
    x = jnp.asarray(rng.normal(size=(2, 4, 5, 6)), jnp.float32)
    params = {"kernel": jnp.asarray(rng.normal(size=(*window, 6, 3)), jnp.float32), "bias": jnp.arange(3.0)}
    chex.assert_trees_all_equal_shapes(module.init(jax.random.key(0), x)["params"], params)
    y = module.apply({"params": params}, x)
    s = np.broadcast_to(strides, 2)
    pads = np.broadcast_to(padding, (2, 2)).sum(-1) if padding != "SAME" else None
    size = np.array([4, 5]) * s if padding == "SAME" else (np.array([4, 5]) - 1) * s + window - pads
    assert y.shape == (2, *size, 3)
    pads, layout = [(padding, padding)] * 2 if padding == 1 else padding, ("NHWC", "HWIO", "NHWC")
    back = lambda y: lax.conv_general_dilated(
        y, params["kernel"].swapaxes(-1, -2), tuple(s), pads, dimension_numbers=layout
    )
    (expected,) = jax.linear_transpose(back, y)(x)
    chex.assert_trees_all_close(y, expected + params["bias"].reshape(1, 1, 1, 3), atol=1e-4)


def test_conv_transpose_without_bias_in_bfloat16():
    variables = ConvTranspose(2, use_bias=False, dtype="bfloat16").init(jax.random.key(0), jnp.ones((1, 3, 3, 1)))
    assert set(variables["params"]) == {"kernel"} and variables["params"]["kernel"].dtype == jnp.float32
    assert ConvTranspose(2, use_bias=False, dtype="bf16").apply(variables, jnp.ones((1, 3, 3, 1))).dtype == jnp.bfloat16


def test_separable_conv_is_depthwise_then_pointwise(rng):
    module = SeparableConv(6, (3, 3), 2)
    x = jnp.asarray(rng.normal(size=(2, 8, 8, 4)), jnp.float32)
    variables = module.init(jax.random.key(0), x, train=False)
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes["depthwise"]["conv"] == {"kernel": (3, 3, 1, 4)} and shapes["pointwise"]["conv"] == {
        "kernel": (1, 1, 4, 6)
    }
    each = lambda name, made, x: made.apply({k: v[name] for k, v in variables.items()}, x, train=False)
    expected = each("pointwise", ConvNorm(6, (1, 1)), each("depthwise", ConvNorm(4, (3, 3), 2, groups=4), x))
    chex.assert_trees_all_close(module.apply(variables, x, train=False), expected, atol=1e-6)
    assert expected.shape == (2, 4, 4, 6)


def test_recompute_changes_neither_values_nor_gradients(rng):
    f = lambda x, rest: (jnp.tanh(x @ rest["w"]) ** 2, {"sum": x.sum() + rest["n"]})
    x, rest = (
        jnp.asarray(rng.normal(size=(4, 3)), jnp.float32),
        {"w": jnp.asarray(rng.normal(size=(3, 5)), jnp.float32), "n": jnp.int32(2)},
    )

    def both(f):
        loss = lambda x, w: (lambda y, more: y.sum() + more["sum"] ** 2)(*f(x, rest | {"w": w}))
        first = jax.grad(loss, (0, 1))
        second = jax.grad(lambda *a: sum(jnp.square(g).sum() for g in first(*a)), (0, 1))
        return jax.jit(lambda *a: (loss(*a), first(*a), second(*a)))(x, rest["w"])

    chex.assert_trees_all_close(both(recompute(f)), both(f), rtol=1e-5)


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, x, *, train, row_mask=None):
        return Dropout(0.5)(BatchNorm()(x, train=train, mask=row_mask), train=train)


class Parent(nn.Module):
    remat: bool = True

    @nn.compact
    def __call__(self, x, *, train, row_mask=None):
        return apply_block(Dropping(name="block"), x, train=train, row_mask=row_mask, remat=self.remat)


def test_a_recomputed_block_drops_the_same_units_and_changes_the_same_statistics(rng):
    x = jnp.asarray(rng.normal(size=(8, 16)), jnp.float32)
    row_mask = jnp.ones(8).at[6:].set(0)
    variables = Parent().init(jax.random.key(0), x, train=True)
    chex.assert_trees_all_equal(variables, Parent(False).init(jax.random.key(0), x, train=True))

    @functools.partial(jax.jit, static_argnums=0)
    def run(remat, bias):
        scale = variables["params"]["block"]["BatchNorm_0"]["scale"]
        options = {
            "train": True,
            "row_mask": row_mask,
            "rngs": {"dropout": jax.random.key(1)},
            "mutable": ["batch_stats"],
        }
        with_bias = lambda bias: {**variables, "params": {"block": {"BatchNorm_0": {"scale": scale, "bias": bias}}}}
        y, vjp, changed = jax.vjp(lambda bias: Parent(remat).apply(with_bias(bias), x, **options), bias, has_aux=True)
        return y, vjp(jnp.ones_like(y))[0], changed

    y, dbias, changed = run(True, jnp.full(16, 3.0))
    kept = y != 0
    assert 0.2 < kept.mean() < 0.8
    chex.assert_trees_all_close(dbias, 2.0 * kept.sum(0))  # the gradient knows which units the values lost
    chex.assert_trees_all_close(changed, run(False, jnp.full(16, 3.0))[2], rtol=1e-6)


def apply_to_other_channels(module):
    variables = module.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    return module.apply(variables, jnp.zeros((1, 4, 4, 3)))


ERRORS = {
    "rank": (lambda: check_image(jnp.zeros((4, 4, 1))), "image shape (4, 4, 1)"),
    "dtype": (lambda: check_image(jnp.zeros((1, 4, 4, 1), jnp.uint8)), "image dtype uint8"),
    "conv channels": (lambda: apply_to_other_channels(Conv(2)), "3 channels, but the parameters are for 1"),
    "dense width": (lambda: apply_to_other_channels(Dense(2)), "3 inputs to a dense layer of 1"),
    "conv transpose channels": (
        lambda: apply_to_other_channels(ConvTranspose(2)),
        "3 channels, but the parameters are for 1",
    ),
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


def test_pooling_before_the_bias_is_the_same(rng):
    x = rng.normal(size=(2, 9, 9, 3)).astype(np.float32)
    pooled, plain = Conv(4, pool=2), Conv(4)
    variables = {
        "params": {
            "kernel": rng.normal(size=(3, 3, 3, 4)).astype(np.float32),
            "bias": rng.normal(size=4).astype(np.float32),
        }
    }
    np.testing.assert_array_equal(pooled.apply(variables, x), ops.max_pool(plain.apply(variables, x), 2))
