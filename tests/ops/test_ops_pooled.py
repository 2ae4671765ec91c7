"""Convolution with max pooling, a few images at a time, equals the two after another: values, both gradients, and
theirs.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError, layers, ops
from jaxcnn.ops import fused, pooled
from jaxcnn.ops.conv import geometry
from jaxcnn.ops.pooling import checked_window

CASES = {  # image, kernel, window, options
    "first layer": ((6, 8, 8, 1), (3, 3, 1, 4), 2, {"padding": "VALID"}),
    "what does not fit is left out": ((6, 9, 7, 2), (3, 3, 2, 3), 2, {}),
    "stride, dilation, groups": ((4, 13, 12, 4), (3, 3, 2, 6), (2, 3), {"strides": (2, 1), "dilation": 2, "groups": 2}),
    "1-d": ((6, 11, 2), (3, 2, 5), 3, {}),
    "3-d": ((4, 5, 6, 5, 1), (2, 2, 2, 1, 3), 2, {}),
}


def together(x, w, window, options):
    return ops.conv_max_pool(x, w, window, **options)


def apart(x, w, window, options):
    return ops.max_pool(ops.conv(x, w, **options), window)


def with_derivatives(function, x, w, *static):
    def total(x, w):
        return jnp.sin(function(x, w, *static)).sum()

    def twice(x, w):
        return sum((d * d * d).sum() for d in jax.grad(total, (0, 1))(x, w))

    return function(x, w, *static), jax.grad(total, (0, 1))(x, w), jax.grad(twice, (0, 1))(x, w)


def operands(name, rng, dtype=np.float64):
    shape, kernel, *static = CASES[name]
    return rng.normal(size=shape).astype(dtype), rng.normal(size=kernel).astype(dtype), *static


def hold(images, monkeypatch, x, w, window, options):
    """Let the cache hold so many images."""
    between = jax.eval_shape(functools.partial(ops.conv, **options), x, w)
    monkeypatch.setattr(pooled, "CACHED", images * 4 * int(np.prod(between.shape[1:])))


@pytest.mark.parametrize("name, images", [*((name, 1) for name in CASES), ("first layer", 2), ("first layer", 4)])
def test_it_is_the_two_after_another(name, images, monkeypatch, rng):
    given = operands(name, rng)
    hold(images, monkeypatch, *given)
    with jax.enable_x64(True):
        one, two = (jax.jit(functools.partial(with_derivatives, f, *given))() for f in (together, apart))
    chex.assert_trees_all_close(one, two, rtol=1e-10, atol=1e-10)
    assert any(np.abs(g).max() > 1e-3 for g in one[2])


@pytest.mark.parametrize(
    "images, loops", [(2, True), (3, True), (4, False), (6, False)]
)  # 4 of 6 do not go into 6: all at once
def test_how_many_at_a_time(images, loops, monkeypatch, rng):
    given = operands("first layer", rng)
    hold(images, monkeypatch, *given)
    program = jax.jit(lambda x, w: together(x, w, *given[2:])).lower(*given[:2]).as_text()
    assert ("stablehlo.while" in program) == loops


def test_what_is_between_is_not_kept():
    x, w = jax.ShapeDtypeStruct((256, 28, 28, 1), jnp.float32), jax.ShapeDtypeStruct((3, 3, 1, 32), jnp.float32)
    size = lambda f: (
        jax.jit(jax.grad(lambda w, x: jnp.square(f(x, w, 2, {})).sum())).lower(w, x).compile().memory_analysis()
    )  # noqa: E731
    between = 4 * 256 * 28 * 28 * 32
    assert size(together).temp_size_in_bytes < 0.8 * between < 1.6 * between < size(apart).temp_size_in_bytes


def test_native_programs_are_left_apart():
    x, w = jnp.zeros((512, 28, 28, 1)), jnp.zeros((3, 3, 1, 32))
    with ops.native_lowering():
        program = str(jax.make_jaxpr(functools.partial(together, window=2, options={}))(x, w))
    assert "reduce_window_max" in program and "scan" not in program


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_layer_and_its_dtype(dtype, monkeypatch, rng):
    monkeypatch.setattr(pooled, "CACHED", 4 * 8 * 8 * 4)
    x, layer = jnp.asarray(rng.normal(size=(6, 8, 8, 1)), dtype), layers.Conv(4, pool=2)
    variables = jax.tree.map(lambda v: v.astype(dtype), layer.init(jax.random.key(0), x))
    y, (kernel,) = layer.apply(variables, x), [variables["params"]["kernel"]]
    assert y.dtype == dtype and y.shape == (6, 4, 4, 4)
    chex.assert_trees_all_close(
        *(jnp.asarray(v, jnp.float32) for v in (y, apart(x, kernel, 2, {}))), rtol=1e-2, atol=1e-2
    )


def test_one_export_holds_the_form_of_every_platform(monkeypatch, rng):
    x, w, *static = operands("first layer", rng, np.float32)
    monkeypatch.setattr(pooled, "CACHED", 1)
    gradients = jax.jit(jax.grad(lambda x, w: jnp.sin(together(x, w, *static)).sum(), (0, 1)))
    exported = jax.export.export(gradients, platforms=("cpu", "cuda", "tpu"))(x, w)
    chex.assert_trees_all_close(exported.call(x, w), gradients(x, w), rtol=1e-5, atol=1e-5)
    assert "stablehlo.select_and_scatter" in exported.mlir_module() and "stablehlo.while" in exported.mlir_module()


def test_ties_go_to_the_first(monkeypatch):
    monkeypatch.setattr(pooled, "CACHED", 1)
    dx = jax.grad(lambda x: together(x, jnp.ones((1, 1, 1, 1)), 2, {}).sum())(jnp.ones((2, 2, 2, 1)))
    np.testing.assert_array_equal(dx[..., 0], [[[1, 0], [0, 0]]] * 2)


@pytest.mark.parametrize(
    "x, w, window, options, words",
    [
        ((2, 8, 8, 1), (3, 3, 2, 4), 2, {}, "1 channels"),
        ((2, 8, 8, 1), (3, 3, 1, 4), 0, {}, "window=0"),
        ((2, 8, 8, 1), (3, 3, 1, 4), 7, {"padding": "VALID"}, "window"),
        ((2, 2, 2, 1), (3, 3, 1, 4), 2, {"padding": "VALID"}, "window"),
    ],
)
def test_errors_are_one_line(x, w, window, options, words):
    with pytest.raises(InputError, match=words) as caught:
        ops.conv_max_pool(jnp.zeros(x), jnp.zeros(w), window, **options)
    assert "\n" not in str(caught.value)


ONE_PASS = {  # image, kernel, window, options
    "tutorial": ((6, 9, 11, 1), (3, 3, 1, 8), 2, {"padding": "VALID"}),
    "padding": ((2, 8, 8, 1), (3, 3, 1, 8), 2, {}),
    "stride and dilation": ((2, 13, 12, 2), (2, 2, 2, 8), 2, {"strides": (2, 1), "dilation": 2}),
    "1-d": ((3, 20, 3), (3, 3, 8), 3, {}),
    "3-d": ((2, 4, 5, 4, 1), (2, 1, 2, 1, 8), 2, {}),
}


@pytest.mark.parametrize("name", ONE_PASS)
def test_few_products_are_one_pass(name, rng):
    shape, kernel, window, options = ONE_PASS[name]
    x, w = rng.normal(size=shape).astype(np.float32), rng.normal(size=kernel).astype(np.float32)
    x[0] = 0  # ties
    one, two = (with_derivatives(f, x, w, window, options) for f in (together, apart))
    chex.assert_trees_all_close(one, two, rtol=1e-3, atol=2e-3)
    program = jax.jit(lambda x, w: together(x, w, window, options)).lower(x, w).compile().as_text()
    assert "convolution" not in program and " dot(" not in program


def test_a_pixel_that_is_nan_reaches_the_maxima_that_see_it(rng):
    x, w = rng.normal(size=(2, 10, 10, 1)).astype(np.float32), rng.normal(size=(3, 3, 1, 8)).astype(np.float32)
    x[0, 4, 4] = np.nan
    one, two = (f(x, w, 2, {"padding": "VALID"}) for f in (together, apart))
    assert (np.isnan(one) == np.isnan(two)).all() and np.isnan(one).any() and not np.isnan(one[1]).any()


@pytest.mark.parametrize(
    "shape, kernel, dtype, fits",
    [
        ((4, 28, 28, 1), (3, 3, 1, 32), np.float32, True),
        ((4, 28, 28, 1), (3, 3, 1, 32), np.float64, False),
        ((4, 28, 28, 3), (3, 3, 3, 32), np.float32, True),
        ((4, 28, 28, 3), (3, 3, 3, 64), np.float32, False),
        ((4, 28, 28, 1), (3, 3, 1, 128), np.float32, False),
        ((4, 28, 28, 1), (3, 3, 1, 4), np.float32, False),
    ],
)
def test_which_convolutions_are_one_pass(shape, kernel, dtype, fits):
    x, w = jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct(kernel, dtype)
    pool = checked_window(jax.ShapeDtypeStruct((*shape[:-1], kernel[-1]), dtype), 2)
    assert fused.suits(x, w, geometry(x, w), pool) == fits
