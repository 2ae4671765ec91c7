"""Derivatives of every order and in both modes, `vmap` on either side, devices and symbolic sizes: operations equal
XLA's own.
"""

import functools
import pathlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxcnn import ops
from jaxcnn.core.remat import recompute
from jaxcnn.ops import pooled
from jaxcnn.ops.native import native_forward
from jaxcnn.ops.sums import channel_sums, spread
from tests.ops import test_ops_pooled
from tests.ops.test_ops import CONVS, POOLS, QUICK, max_pool, mean_pool, operands

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOME = ("dilation, stride, padding", "depthwise 1-d", "3-d")  # the others are slow


def total(function, *arrays):
    return jnp.sin(function(*arrays)).sum()


def derivatives(function, arrays, moved):
    """All that can be asked of a function of several arrays, along one direction."""
    every, f = tuple(range(len(arrays))), functools.partial(total, function)
    gradients, pushed = jax.grad(f, every), lambda *arrays: jax.jvp(f, arrays, moved)[1]
    along = lambda *arrays: sum(jnp.vdot(g, t) for g, t in zip(gradients(*arrays), moved, strict=True))
    line = lambda t: f(*(a + t * m for a, m in zip(arrays, moved, strict=True)))
    return {
        "jvp": jax.jvp(function, arrays, moved),
        "linearize": jax.linearize(function, *arrays)[1](*moved),
        "forward over reverse": jax.jvp(gradients, arrays, moved),
        "reverse over forward": jax.grad(pushed, every)(*arrays),
        "reverse over reverse": jax.grad(along, every)(*arrays),
        "forward over forward": jax.jvp(pushed, arrays, moved),
        "jacfwd": jax.jacfwd(line)(0.0),
        "hessian": jax.hessian(line)(0.0),
    }


def mapped(function, arrays, moved):
    """Gradients and their tangents with some or all operands mapped, once and twice; gradients per example."""

    def some(*arrays):
        gradients = jax.grad(functools.partial(total, function), tuple(range(len(arrays))))
        return gradients(*arrays), jax.jvp(
            gradients, arrays, tuple(m[: len(a)] for a, m in zip(arrays, moved, strict=True))
        )[1]

    many, only = (
        [jnp.stack([a, m], 1) for a, m in zip(arrays, moved, strict=True)],
        lambda i: [1 if i == j else None for j in range(2)],
    )
    out = {
        "per example": jax.vmap(lambda row, *rest: some(row[None], *rest), (0, *(None for _ in arrays[1:])))(*arrays)
    }
    if len(arrays) == 1:
        return out | {"mapped": jax.vmap(some, 1)(*many)}
    out |= {
        "kernel" if i else "image": jax.vmap(some, only(i))(*(many[j] if i == j else arrays[j] for j in range(2)))
        for i in range(2)
    }
    return out | {"both": jax.vmap(some, 1)(*many), "twice": jax.vmap(jax.vmap(some, only(0)), only(1))(*many)}


def check(own, reference, arrays, rng, tolerance=1e-10):
    with jax.enable_x64(True):
        arrays = tuple(jnp.asarray(a, jnp.float64) for a in arrays)
        moved = tuple(jnp.asarray(rng.normal(size=a.shape)) for a in arrays)
        everything = lambda f: (derivatives(f, arrays, moved), mapped(f, arrays, moved))
        found, expected = jax.jit(lambda: (everything(own), everything(reference)), compiler_options=QUICK)()
    chex.assert_trees_all_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in SOME else pytest.mark.slow) for name in CONVS])
def test_conv(name, rng):
    x, w, _, g = operands(name)
    if x.size > 1 << 12:  # what goes through Winograd in float32 is the exact form in float64
        x = x[:2]
    check(
        functools.partial(ops.conv, **CONVS[name][3]),
        functools.partial(native_forward, g=g),
        (x[:, :12] / 4, w / 4),
        rng,
    )


def test_conv_transpose(rng):
    x, w = rng.normal(size=(2, 4, 5, 3)), rng.normal(size=(3, 2, 3, 4)) / 4
    own = functools.partial(ops.conv_transpose, strides=(2, 1), padding=((1, 0), (0, 1)))

    def native(x, w):
        with ops.native_lowering():
            return own(x, w)

    check(own, native, (x, w), rng)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "uneven" else pytest.mark.slow) for n in POOLS])
@pytest.mark.parametrize("own, reference", [(ops.max_pool, max_pool), (ops.avg_pool, mean_pool)], ids=["max", "mean"])
def test_pool(own, reference, name, rng):
    shape, window, options = POOLS[name]
    x = (
        rng.permutation(int(np.prod(shape))).reshape(shape) / 50
    )  # no ties: what XLA gives to them depends on the order of derivatives
    check(
        functools.partial(own, window=window, **options),
        functools.partial(reference, window=window, **options),
        (x,),
        rng,
    )


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "1-d" else pytest.mark.slow) for n in test_ops_pooled.CASES]
)
def test_conv_max_pool(name, monkeypatch, rng):
    x, w, *static = test_ops_pooled.operands(name, rng)
    monkeypatch.setattr(pooled, "CACHED", 1)
    one, two = (
        functools.partial(lambda f, x, w: f(x, w, *static), f)
        for f in (test_ops_pooled.together, test_ops_pooled.apart)
    )
    check(one, two, (x, w), rng)


def test_sums_are_each_others_transposes(rng):
    scaled = lambda x: x * spread(channel_sums(x), x)
    check(scaled, lambda x: x * x.sum((0, 1, 2)).reshape(1, 1, 1, -1), (rng.normal(size=(2, 3, 5, 4)) / 4,), rng)


def test_recompute(rng):
    def f(x, rest):
        w, count = rest
        return jnp.tanh(x @ w) * count, {"mean": x.mean(), "count": count + 1}

    def summed(f, x, w):
        y, more = f(x, (w, 2))
        return y + more["mean"]

    arrays = rng.normal(size=(4, 3)), rng.normal(size=(3, 3))
    check(functools.partial(summed, recompute(f)), functools.partial(summed, f), arrays, rng)


def small(x, w):
    return ops.avg_pool(ops.max_pool(ops.depthwise_conv(ops.conv(x, w, strides=2), w[..., :1, :]), 3, strides=1), 2)


@pytest.fixture
def image_and_kernel(rng):
    return jnp.asarray(rng.normal(size=(4, 12, 12, 3)), jnp.float32), jnp.asarray(
        rng.normal(size=(3, 3, 3, 3)), jnp.float32
    ) / 4


def test_shard_map_with_its_checks(image_and_kernel):
    x, w = image_and_kernel
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    gradients = jax.grad(lambda w, x: total(small, x, w))
    spread_out = functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    chex.assert_trees_all_close(jax.jit(spread_out(gradients))(w, x), gradients(w, x), rtol=1e-4, atol=1e-4)
    pushed = lambda w, x: jax.lax.psum(jax.jvp(lambda w: total(small, x, w), (w,), (w,))[1], "data")
    chex.assert_trees_all_close(
        spread_out(pushed)(w, x), jax.jvp(lambda w: total(small, x, w), (w,), (w,))[1], rtol=1e-4
    )


def test_pmap_checkpoint_and_donation(image_and_kernel):
    x, w = image_and_kernel
    gradients = jax.grad(lambda w, x: total(small, x, w))
    of_parts = jax.pmap(
        lambda w, x: jax.lax.psum(gradients(w, x), "data"), "data", in_axes=(None, 0), devices=jax.devices()[:2]
    )
    chex.assert_trees_all_close(of_parts(w, x.reshape(2, 2, *x.shape[1:]))[0], gradients(w, x), rtol=1e-4, atol=1e-4)
    kept = jax.grad(lambda w, x: jax.checkpoint(functools.partial(total, small))(x, w))
    chex.assert_trees_all_close(jax.jit(kept)(w, x), gradients(w, x), rtol=1e-4, atol=1e-4)
    donated = jax.jit(lambda w, x: w - gradients(w, x), donate_argnums=0)
    given = w + 0
    chex.assert_trees_all_close(donated(given, x), w - gradients(w, x), rtol=1e-4, atol=1e-4)
    assert given.is_deleted()


def test_native_lowering_reaches_what_jit_has_traced(image_and_kernel):
    function = jax.jit(jax.value_and_grad(functools.partial(total, small)))
    outside = str(jax.make_jaxpr(function)(*image_and_kernel))
    with ops.native_lowering():
        inside = str(jax.make_jaxpr(function)(*image_and_kernel))
        native = function(*image_and_kernel)
    assert "jaxcnn_" in outside and "jaxcnn_" not in inside and "select_and_scatter" in inside
    chex.assert_trees_all_close(native, function(*image_and_kernel), rtol=1e-4, atol=1e-4)
    assert str(jax.make_jaxpr(function)(*image_and_kernel)) == outside


def test_without_jit(image_and_kernel):
    gradients = jax.value_and_grad(functools.partial(total, small))
    with jax.disable_jit():
        eager = gradients(*image_and_kernel)
    chex.assert_trees_all_close(eager, jax.jit(gradients)(*image_and_kernel), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", ["b, 12, 12, 3", "b, h, w, 3", "2, h, 12, 3"])
def test_symbolic_sizes(size, image_and_kernel):
    x, w = image_and_kernel
    shape = export.symbolic_shape(size, constraints=[f"{n} >= 12" for n in "hw" if n in size])
    exported = export.export(jax.jit(small), platforms=("cpu", "cuda", "tpu"))(
        jax.ShapeDtypeStruct(shape, x.dtype), jax.ShapeDtypeStruct(w.shape, w.dtype)
    )
    again = export.deserialize(exported.serialize())
    for rows, height, width in ((2, 12, 12), (4, 17, 14)):
        given = jnp.resize(
            x, (rows if "b" in size else 2, height if "h" in size else 12, width if "w" in size else 12, 3)
        )
        chex.assert_trees_all_close(again.call(given, w), small(given, w), rtol=1e-4, atol=1e-5)


def test_a_gradient_of_a_symbolic_batch(image_and_kernel):
    x, w = image_and_kernel
    rows = jax.ShapeDtypeStruct(export.symbolic_shape("b, 12, 12, 3"), x.dtype)
    gradients = jax.grad(functools.partial(total, small), (0, 1))
    exported = export.export(jax.jit(gradients))(rows, jax.ShapeDtypeStruct(w.shape, w.dtype))
    chex.assert_trees_all_close(exported.call(x, w), gradients(x, w), rtol=1e-4, atol=1e-4)


def test_what_has_a_backward_pass_alone_says_why():
    """`jax.custom_vjp` forbids forward mode, so it is for rules that are no derivatives."""
    for path in (ROOT / "jaxcnn").rglob("*.py"):
        text = path.read_text()
        if "custom_vjp(" in text or "@jax.custom_vjp" in text:
            assert path.name in ("lrp.py", "gradients.py") and re.search(r"backward pass", text), path
