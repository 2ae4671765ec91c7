"""Convolution and pooling equal a plain reference: a NumPy loop over taps, and XLA's own operations with their
derivatives.
"""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from jaxcnn import InputError, ops
from jaxcnn.core.types import whole_numbers
from jaxcnn.ops.geometry import Geometry, out_sizes, resolve_padding
from jaxcnn.ops.lowering import im2col, slabs, space_to_depth, table, winograd
from jaxcnn.ops.lowering.record import Case
from jaxcnn.ops.native import native_forward, native_input_grad, native_kernel_grad, once

CONVS = {  # image, window, output channels, options
    "pointwise": ((2, 5, 7, 3), (1, 1), 4, {}),
    "pointwise stride": ((2, 6, 7, 3), (1, 1), 4, {"strides": 2}),
    "pointwise padded": ((2, 5, 4, 3), (1, 1), 4, {"padding": 1}),
    "same": ((2, 7, 6, 3), (3, 3), 4, {}),
    "same, even window": ((2, 7, 6, 3), (4, 2), 5, {}),
    "valid, one channel": ((2, 9, 8, 1), (5, 5), 6, {"padding": "VALID"}),
    "window of the image's size": ((3, 4, 5, 2), (4, 5), 3, {"padding": "VALID"}),
    "stride": ((2, 9, 7, 3), (3, 3), 4, {"strides": 2}),
    "stride with remainder": ((2, 11, 8, 2), (3, 3), 4, {"strides": (3, 2), "padding": "VALID"}),
    "stride beyond the window": ((2, 10, 9, 3), (2, 2), 4, {"strides": 3, "padding": 1}),
    "asymmetric padding": ((2, 6, 7, 3), (3, 3), 4, {"padding": ((2, 0), (0, 3))}),
    "padding beyond the window": ((2, 6, 5, 3), (2, 2), 4, {"padding": 2}),
    "dilation": ((2, 9, 10, 3), (3, 3), 4, {"dilation": (2, 3)}),
    "dilation, stride, padding": (
        (2, 11, 9, 2), (3, 2), 4, {"dilation": 2, "strides": (2, 1), "padding": ((3, 1), (0, 2))},
    ),
    "groups": ((2, 7, 6, 4), (3, 3), 6, {"groups": 2}),
    "depthwise stride": ((2, 7, 8, 3), (3, 3), 6, {"groups": 3, "strides": 2}),
    "depthwise": ((8, 7, 8, 5), (3, 3), 5, {"groups": 5}),
    "depthwise, multiplier": ((3, 7, 6, 3), (3, 2), 6, {"groups": 3, "padding": ((1, 2), (0, 1))}),
    "depthwise, padding beyond the window": ((2, 5, 6, 3), (2, 2), 3, {"groups": 3, "padding": 2}),
    "depthwise, dilation": ((2, 9, 8, 4), (3, 3), 4, {"groups": 4, "dilation": 2, "strides": (1, 2)}),
    "depthwise 1-d": ((4, 9, 3), (5,), 3, {"groups": 3, "strides": 2}),
    "depthwise 3-d": ((2, 4, 5, 3, 2), (3, 3, 1), 2, {"groups": 2, "strides": (2, 1, 1)}),
    "groups joined to blocks": ((2, 6, 5, 64), (3, 3), 32, {"groups": 16}),
    "wide groups": ((2, 5, 6, 80), (1, 3), 70, {"groups": 2, "strides": 2}),
    "stride of the window": ((3, 6, 8, 3), (2, 2), 4, {"strides": 2}),
    "phases": ((2, 10, 8, 4), (4, 4), 5, {"strides": 2, "padding": 1}),
    "phases, remainder": ((2, 15, 12, 3), (7, 5), 6, {"strides": (2, 3), "padding": ((3, 2), (1, 3))}),
    "blocks": ((2, 8, 12, 16), (4, 6), 20, {"strides": (2, 3), "padding": 1}),
    "blocks, remainder": ((3, 9, 11, 17), (4, 4), 18, {"strides": 2, "padding": ((3, 0), (0, 2))}),
    "blocks, 1-d": ((3, 23, 16), (12,), 8, {"strides": 3, "padding": "VALID"}),
    "many outputs": ((2, 6, 5, 4), (3, 3), 130, {}),
    "patches": ((4, 6, 5, 16), (3, 3), 48, {"strides": (1, 2)}),
    "groups, dilation": ((2, 9, 8, 4), (3, 2), 4, {"groups": 2, "dilation": 2, "padding": "VALID"}),
    "1-d": ((2, 11, 3), (4,), 5, {"strides": 3}),
    "1-d dilation": ((2, 12, 3), (3,), 4, {"dilation": 3, "padding": 1}),
    "3-d": ((2, 5, 4, 6, 2), (3, 2, 3), 3, {"strides": (1, 2, 1)}),
    "3-d, all options": (
        (2, 9, 6, 5, 2), (3, 2, 2), 3,
        {"strides": (2, 1, 2), "dilation": (2, 2, 1), "padding": ((1, 3), (0, 1), (2, 0))},
    ),
    "3-d groups": ((2, 4, 5, 3, 4), (2, 2, 2), 4, {"groups": 2, "padding": "VALID"}),
    "winograd same": ((8, 23, 21, 16), (3, 3), 16, {}),
    "winograd valid": ((16, 18, 19, 17), (3, 3), 19, {"padding": "VALID"}),
    "winograd volumes": ((4, 6, 12, 11, 8), (3, 3, 3), 16, {}),
    "winograd volumes, all options": (
        (4, 9, 12, 9, 9), (2, 3, 3), 17,
        {"strides": (2, 1, 1), "dilation": (3, 1, 1), "padding": ((2, 1), (1, 2), (0, 1))},
    ),
    "winograd uneven": ((16, 15, 14, 16), (3, 3), 18, {"padding": ((3, 0), (1, 2))}),
}  # fmt: skip
# a quarter of the time to compile; the program is the same
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
BLOCKS = [name for name in CONVS if name.startswith("blocks")]
WINOGRAD = [name for name in CONVS if name.startswith("winograd")]


def geometry(shape, window, strides=1, padding="SAME", dilation=1, groups=1):
    rank = len(window)
    strides, dilation = whole_numbers("strides", strides, rank), whole_numbers("dilation", dilation, rank)
    extent = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    return Geometry(strides, resolve_padding(padding, shape[1:-1], extent, strides), dilation, groups)


@functools.cache
def operands(name):
    """Image, kernel and cotangent in float64, and the geometry."""
    rng = np.random.default_rng(1)
    shape, window, features, options = CONVS[name]
    g = geometry(shape, window, **options)
    x, w = rng.normal(size=shape), rng.normal(size=(*window, shape[-1] // g.groups, features))
    out = jax.eval_shape(lambda x, w: native_forward(x, w, g), x.astype(np.float32), w.astype(np.float32)).shape
    return x, w, rng.normal(size=out), g


def loop(x, w, dy, g):
    """Output and gradients of a convolution, one tap and group at a time."""
    window = w.shape[:-2]
    x = np.pad(x, ((0, 0), *g.padding, (0, 0)))
    y, dx, dw = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(w)
    places = list(zip(dy.shape[1:-1], g.strides, g.dilation, strict=True))
    for tap in np.ndindex(*window):
        at = tuple(slice(i * d, i * d + (o - 1) * s + 1, s) for i, (o, s, d) in zip(tap, places, strict=True))
        for c_in, c_out in zip(
            np.split(np.arange(x.shape[-1]), g.groups), np.split(np.arange(w.shape[-1]), g.groups), strict=True
        ):
            seen, kernel, ct = x[:, *at][..., c_in], w[tap][:, c_out], dy[..., c_out]
            y[..., c_out] += seen @ kernel
            dx[:, *at, c_in[0] : c_in[-1] + 1] += ct @ kernel.T
            dw[*tap, :, c_out[0] : c_out[-1] + 1] += np.tensordot(seen, ct, (range(dy.ndim - 1),) * 2)
    inner = tuple(slice(low, n - high) for n, (low, high) in zip(x.shape[1:-1], g.padding, strict=True))
    return y, dx[:, *inner], dw


def with_gradients(x, w, dy, options):
    y, pull = jax.vjp(lambda x, w: ops.conv(x, w, **options), x, w)
    return y, *pull(dy)


def error(actual, expected):
    """Largest difference, relative to the largest value."""
    chex.assert_equal_shape([actual, expected])
    return np.abs(np.asarray(actual, np.float64) - expected).max() / np.abs(expected).max()


def compute(data):
    return {name: with_gradients(*arrays, CONVS[name][3]) for name, arrays in data.items()}


def compute_in_loop(data):
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(compute, data))
    return lax.fori_loop(0, 2, lambda i, _: compute(jax.tree.map(lambda x: x * i, data)), zero)


@pytest.mark.parametrize(
    "function, dtype, most_taps",
    [
        (compute, np.float64, im2col.MOST_TAPS),
        pytest.param(compute_in_loop, np.float32, im2col.MOST_TAPS, marks=pytest.mark.slow),
        pytest.param(compute_in_loop, np.float32, 0, marks=pytest.mark.slow),
    ],
    ids=["float64", "loop, small chunks", "loop without patches"],
)
def test_conv_and_gradients_equal_numpy(function, dtype, most_taps, monkeypatch):
    monkeypatch.setattr(im2col, "MOST_TAPS", most_taps)
    monkeypatch.setattr(im2col, "cores", lambda: 8)  # with which patches are made with and without strides
    for name in ("geometry.PATCH_BYTES", "lowering.winograd.CHUNK_BYTES") if function is compute_in_loop else ():
        monkeypatch.setattr(f"jaxcnn.ops.{name}", 1 << 12)
    names = [name for name in CONVS if most_taps or name not in WINOGRAD]
    with jax.enable_x64(dtype == np.float64):
        data = {name: tuple(jnp.asarray(a, dtype) for a in operands(name)[:3]) for name in names}
        actual = jax.jit(function, compiler_options=QUICK)(data)
    for name in names:
        tolerance = 1e-12 if dtype == np.float64 else 3e-5 if name in WINOGRAD else 2e-6
        for part, a, b in zip(("y", "dx", "dw"), actual[name], loop(*operands(name)), strict=True):
            assert a.dtype == dtype
            assert error(a, b) < tolerance, (name, part)


def test_large_channels_reach_winograd():
    for name in WINOGRAD:
        x, w, _, g = operands(name)
        assert winograd.suits(Case(x.shape, w.shape, jnp.float32, g))
        assert not winograd.suits(Case(x.shape, w.shape, jnp.float64, g))


@pytest.mark.parametrize("padding", ["SAME", ((0, 2), (1, 1), (2, 0))], ids=["same", "uneven"])
def test_large_volumes_become_slabs(padding, monkeypatch):
    rng = np.random.default_rng(2)
    x, w = rng.normal(size=(2, 11, 9, 10, 8)), rng.normal(size=(3, 3, 3, 8, 16))
    g = geometry(x.shape, w.shape[:3], padding=padding)
    dy = rng.normal(size=(2, *out_sizes(x.shape[1:-1], w.shape[:-2], g), 16))
    monkeypatch.setattr(slabs, "SLAB_BYTES", winograd.volume_bytes(dy.shape, w.shape) // 3)
    a, b, c = (jnp.asarray(z, jnp.float32) for z in (x, w, dy))
    whole, gradient = slabs.lowerings(table.WHOLE)
    assert whole.forward and whole.kernel_grad and gradient.input_grad
    found = whole.forward(a, b, g), gradient.input_grad(c, b, g, x.shape), whole.kernel_grad(a, c, g, w.shape)
    for actual, expected in zip(found, loop(x, w, dy, g), strict=True):
        assert error(actual, expected) < 3e-5


def test_only_volumes_larger_than_the_cache_become_slabs():
    whole, gradient = slabs.lowerings(table.WHOLE)
    shape, kernel = (2, 48, 48, 48, 16), (3, 3, 3, 16, 16)
    case = Case(shape, kernel, jnp.float32, geometry(shape, kernel[:3]))
    assert whole.suits(case) and gradient.suits(case)
    few, strided = (2, 8, 48, 48, 16), geometry(shape, kernel[:3], strides=(2, 1, 1))
    for other in ({"image": few}, {"geometry": strided}, {"image": shape[1:], "kernel": kernel[1:]}):
        assert not whole.suits(case._replace(**other)) and not gradient.suits(case._replace(**other))


@pytest.mark.parametrize(
    "cores, window, strides, channels, forward, input_grad",
    [
        (8, 5, 1, 64, True, True),
        (2, 5, 1, 64, False, False),
        (2, 2, 1, 64, False, True),
        (2, 3, 2, 64, True, True),
        (1, 3, 2, 64, False, True),
        (1, 3, 2, 128, True, True),
        (1, 2, 2, 64, True, True),
        (8, 5, 1, 128, False, False),
    ],
)
def test_few_cores_make_fewer_patches(cores, window, strides, channels, forward, input_grad, monkeypatch):
    monkeypatch.setattr(im2col, "cores", lambda: cores)
    shape, kernel = (8, 20, 20, channels), (window, window, channels, channels)
    case = Case(shape, kernel, jnp.float32, geometry(shape, kernel[:2], strides=(strides, strides)))
    assert (im2col.suits_forward(case), im2col.suits_input_grad(case)) == (forward, input_grad)


def test_windows_of_whole_strides_become_blocks():
    cases = {name: Case(x.shape, w.shape, jnp.float64, g) for name in CONVS for x, w, _, g in [operands(name)]}
    assert [name for name in CONVS if space_to_depth.suits(cases[name])] == BLOCKS


def test_no_rows_are_no_rows():
    x, w = jnp.zeros((0, 8, 8, 16)), jnp.zeros((3, 3, 16, 64))
    for strides in (1, 2):
        y, pull = jax.vjp(lambda x, w, s=strides: ops.conv(x, w, strides=s), x, w)
        chex.assert_shape(pull(y), [x.shape, w.shape])


def test_tiles_mostly_over_the_border_do_not_reach_winograd():
    """The input gradient of 6x6 images without padding has as many products either way, from 4x4 places."""
    padded = Geometry((1, 1), ((2, 2), (2, 2)), (1, 1))
    assert not winograd.suits(Case((128, 4, 4, 128), (3, 3, 128, 64), jnp.float32, padded))
    assert winograd.suits(Case((128, 10, 10, 128), (3, 3, 128, 64), jnp.float32, padded))


def test_native_forms_equal_numpy():
    names = ["stride with remainder", "asymmetric padding", "groups, dilation", "1-d", "3-d groups"]

    def native(x, w, dy, g):
        return native_forward(x, w, g), native_input_grad(dy, w, g, x.shape), native_kernel_grad(x, dy, g, w.shape)

    with jax.enable_x64(True):
        actual = jax.jit(
            lambda: {name: native(*map(jnp.asarray, operands(name)[:3]), operands(name)[3]) for name in names}
        )()
    for name in names:
        for a, b in zip(actual[name], loop(*operands(name)), strict=True):
            assert error(a, b) < 1e-12, name


def second_derivative(conv):
    """Gradient of a function of the gradients, so that every map is differentiated once more."""

    def function(x, w):
        first = jax.grad(lambda x, w: jnp.sin(conv(x, w)).sum(), (0, 1))(x, w)
        return sum((jnp.square(d) * d).sum() for d in first)

    return jax.grad(function, (0, 1))


def test_second_derivative_equals_native():
    names = ["pointwise", "dilation, stride, padding", "groups", "depthwise", "phases", "3-d", "winograd valid"]
    data = {name: [jnp.asarray(a, jnp.float32) / 8 for a in operands(name)[:2]] for name in names}

    @functools.partial(jax.jit, compiler_options=QUICK)
    def both(data):
        own = {name: second_derivative(functools.partial(ops.conv, **CONVS[name][3]))(*data[name]) for name in names}
        return own, {
            name: second_derivative(functools.partial(native_forward, g=operands(name)[3]))(*data[name])
            for name in names
        }

    own, native = both(data)
    for name in names:
        for a, b in zip(own[name], native[name], strict=True):
            assert error(a, np.asarray(b)) < (1e-4 if name in WINOGRAD else 5e-6), name


@pytest.mark.parametrize("options", [{"strides": 2}, {"groups": 2, "padding": "VALID"}])
def test_conv_check_grads(options, rng):
    with jax.enable_x64(True):
        x, w = (
            jnp.asarray(rng.normal(size=(1, 4, 5, 2))),
            jnp.asarray(rng.normal(size=(2, 3, 2 // options.get("groups", 1), 2))),
        )
        check_grads(jax.jit(functools.partial(ops.conv, **options)), (x, w), order=2, modes=["fwd", "rev"])


def test_conv_keeps_bfloat16():
    names = ["pointwise", "same", "stride", "groups", "depthwise", "winograd valid"]
    low = {name: tuple(jnp.asarray(a, jnp.bfloat16) for a in operands(name)[:3]) for name in names}
    actual = jax.jit(compute, compiler_options=QUICK)(low)
    chex.assert_trees_all_equal_dtypes(actual, jax.tree.map(lambda _: jnp.zeros((), jnp.bfloat16), actual))
    for name in names:
        for a, b in zip(actual[name], loop(*operands(name)), strict=True):
            assert error(a.astype(jnp.float32), b) < 0.03, name


TRANSPOSED = {  # size of the image, window, options, size of the result
    "same": ((5, 4), (3, 3), {"strides": 2}, (10, 8)),
    "same, window below the stride": ((3, 4), (1, 2), {"strides": 3}, (9, 12)),
    "valid": ((5, 4), (2, 2), {"strides": 2, "padding": "VALID"}, (10, 8)),
    "padded": ((5, 4), (4, 4), {"strides": 2, "padding": 1}, (10, 8)),
    "output padding": ((5, 4), (3, 3), {"strides": 2, "padding": 1, "output_padding": (1, 0)}, (10, 7)),
    "dilation": ((5, 4), (3, 2), {"dilation": 2, "padding": ((1, 0), (2, 0))}, (8, 4)),
    "1-d": ((6,), (4,), {"strides": 3, "padding": "VALID"}, (19,)),
    "3-d": ((2, 3, 2), (2, 3, 2), {"strides": (2, 1, 2)}, (4, 3, 4)),
}


def test_conv_transpose_and_gradients_are_the_transpose_of_conv(rng):
    data = {}
    for name, (sizes, window, _, _) in TRANSPOSED.items():
        data[name] = (
            jnp.asarray(rng.normal(size=(2, *sizes, 3)), jnp.float32),
            jnp.asarray(rng.normal(size=(*window, 3, 4)), jnp.float32),
        )

    def own(name, x, w):
        options = TRANSPOSED[name][2]
        y = ops.conv_transpose(x, w, **options)
        return y, jax.grad(lambda x, w: (ops.conv_transpose(x, w, **options) ** 2).sum(), (0, 1))(x, w)

    def reference(name, x, w):
        sizes, window, options, out = TRANSPOSED[name]
        kept = {key: value for key, value in options.items() if key != "output_padding"}
        g = geometry((2, *out, 4), window, **kept)
        transpose = lambda x, w: jax.linear_transpose(
            lambda y: native_forward(y, w.swapaxes(-1, -2), g), jax.ShapeDtypeStruct((2, *out, 4), x.dtype)
        )(x)[0]
        return transpose(x, w), jax.grad(lambda x, w: (transpose(x, w) ** 2).sum(), (0, 1))(x, w)

    both = lambda data: [{name: f(name, *arrays) for name, arrays in data.items()} for f in (own, reference)]
    actual, expected = jax.jit(both, compiler_options=QUICK)(data)
    for name in TRANSPOSED:
        assert actual[name][0].shape == (2, *TRANSPOSED[name][3], 4), name
        chex.assert_trees_all_close(actual[name], expected[name], rtol=2e-5, atol=2e-4, custom_message=name)


TRANSPOSED_ERRORS = {
    "channels": ((1, 4, 4, 3), (2, 2, 4, 2), {}, "3 channels"),
    "output padding": ((1, 4, 4, 1), (2, 2, 1, 2), {"strides": 2, "output_padding": 2}, "output_padding=2"),
    "padding": ((1, 2, 2, 1), (3, 3, 1, 2), {"padding": 2}, "leaves nothing"),
    "no pixels": ((1, 0, 4, 1), (3, 3, 1, 2), {}, "leaves nothing of (0, 4)"),
}


@pytest.mark.parametrize("name", TRANSPOSED_ERRORS)
def test_conv_transpose_errors_are_one_line(name):
    x, w, options, words = TRANSPOSED_ERRORS[name]
    with pytest.raises(InputError) as caught:
        ops.conv_transpose(jnp.zeros(x), jnp.zeros(w), **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_depthwise_is_conv_with_as_many_groups(rng):
    x, w = (
        jnp.asarray(rng.normal(size=(2, 6, 5, 3)), jnp.float32),
        jnp.asarray(rng.normal(size=(3, 3, 1, 6)), jnp.float32),
    )
    chex.assert_trees_all_equal(ops.depthwise_conv(x, w, strides=2), ops.conv(x, w, strides=2, groups=3))


def test_native_lowering_leaves_xla_its_convolution():
    x, w = jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 1, 3, 2))
    with ops.native_lowering():
        native = str(jax.make_jaxpr(lambda x, w: ops.max_pool(ops.conv(x, w), 2))(x, w))
    assert "conv_general_dilated" in native and "reduce_window" in native and "jaxcnn_" not in native
    assert "jaxcnn_conv" in str(jax.make_jaxpr(lambda x, w: ops.conv(x, w))(x, w))


def test_what_xla_does_best_is_left_to_it_to_the_last_instruction():
    def own(x, w):
        return ops.conv(x, w, padding=2)

    def native(x, w):
        return lax.conv_general_dilated(x, w, (1,), ((2, 2),), dimension_numbers=("NWC", "WIO", "NWC"))

    def instructions(function):
        grad = jax.jit(jax.grad(lambda x, w: jnp.square(function(x, w)).sum(), (0, 1)))
        text = grad.lower(jnp.ones((4, 60, 128)), jnp.ones((5, 128, 128))).compile().as_text()
        lines = (re.sub(r"%[\w.-]+|\w+(\.\d+)*: |, metadata=\{[^}]*\}", "", line) for line in text.splitlines())
        return sorted(line for line in lines if " = " in line)  # of every computation, whatever their names and order

    assert instructions(own) == instructions(native)


def test_one_export_holds_the_form_of_every_platform():
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 6, 6, 3), (3, 3, 1, 3))]
    conv = jax.jit(lambda x, w: jax.grad(lambda w: jnp.square(ops.conv(x, w, groups=3)).sum())(w))
    exported = jax.export.export(conv, platforms=("cpu", "cuda", "tpu"))(*shapes)
    x, w = (jnp.linspace(-1, 1, int(np.prod(s.shape))).reshape(s.shape) for s in shapes)
    chex.assert_trees_all_close(exported.call(x, w), conv(x, w), rtol=1e-6)
    assert "stablehlo.convolution" in exported.mlir_module()
    assert "stablehlo.convolution" not in conv.lower(x, w).as_text()  # the depthwise form of a CPU


@pytest.mark.parametrize("first", [0.0, np.nan, np.inf, -np.inf])
def test_once_is_the_function(first):
    x, w = jnp.arange(4.0), jnp.array([first, 1.0])
    chex.assert_trees_all_equal(jax.jit(lambda x, w: once(lambda x, w: (x + 1, w * 2), x, w))(x, w), (x + 1, w * 2))


@pytest.mark.parametrize("extent, strides", [((3, 2), (1, 1)), ((3, 2), (2, 3)), ((5, 3), (1, 2)), ((1, 1), (2, 2))])
def test_same_padding_is_xlas(extent, strides):
    for height in (5, 6, 7):
        expected = lax.padtype_to_pads((height, 9), extent, strides, "SAME")
        assert resolve_padding("SAME", (height, 9), extent, strides) == tuple(expected)


CONV_ERRORS = {
    "image rank": ((4, 4), (3, 3, 1, 2), {}, "spatial axes"),
    "kernel rank": ((1, 4, 4, 1), (3, 1, 2), {}, "spatial axes"),
    "four axes": ((1, 4, 4, 4, 4, 1), (1, 1, 1, 1, 1, 2), {}, "spatial axes"),
    "channels": ((1, 4, 4, 3), (3, 3, 1, 2), {}, "3 channels"),
    "groups": ((1, 4, 4, 4), (3, 3, 2, 3), {"groups": 2}, "groups=2 does not divide the 3"),
    "strides": ((1, 4, 4, 1), (3, 3, 1, 2), {"strides": 0}, "strides=0"),
    "strides rank": ((1, 4, 4, 1), (3, 3, 1, 2), {"strides": (1, 1, 1)}, "strides=(1, 1, 1)"),
    "padding name": ((1, 4, 4, 1), (3, 3, 1, 2), {"padding": "same"}, "padding='same'"),
    "padding pair": ((1, 4, 4, 1), (3, 3, 1, 2), {"padding": (1, 1)}, "padding=(1, 1)"),
    "padding rank": ((1, 4, 4, 1), (3, 3, 1, 2), {"padding": ((1, 1),)}, "padding=((1, 1),)"),
    "padding sign": ((1, 4, 4, 1), (3, 3, 1, 2), {"padding": ((-1, 0), (0, 0))}, "must not be negative"),
    "image size": ((1, 2, 4, 1), (3, 3, 1, 2), {"padding": "VALID"}, "smaller than the window (3, 3)"),
    "dilation": ((1, 4, 4, 1), (3, 3, 1, 2), {"dilation": 2, "padding": "VALID"}, "smaller than the window (5, 5)"),
}


@pytest.mark.parametrize("name", CONV_ERRORS)
def test_conv_errors_are_one_line(name):
    x, w, options, words = CONV_ERRORS[name]
    with pytest.raises(InputError) as caught:
        ops.conv(jnp.zeros(x), jnp.zeros(w), **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)


POOLS = {  # image, window, options
    "2x2": ((3, 6, 8, 4), 2, {}),
    "remainder": ((2, 7, 9, 3), 2, {}),
    "overlap": ((2, 9, 7, 3), 3, {"strides": 2}),
    "overlap, padded": ((2, 7, 8, 3), 3, {"strides": 1, "padding": 1}),
    "same": ((2, 7, 6, 3), 3, {"strides": 2, "padding": "SAME"}),
    "uneven": ((2, 11, 9, 2), (2, 3), {"strides": (3, 2), "padding": ((1, 0), (0, 2))}),
    "stride beyond the window": ((2, 9, 8, 2), 2, {"strides": 3}),
    "1-d": ((2, 11, 3), 3, {"strides": 2}),
    "3-d": ((2, 5, 4, 6, 2), 2, {"strides": (2, 1, 2)}),
}


def pools(rng):
    """Images full of ties, as after a ReLU, and what each window's gradient is weighed with."""
    images = {
        name: np.maximum(np.round(rng.normal(size=shape)), 0).astype(np.float32)
        for name, (shape, _, _) in POOLS.items()
    }
    return {name: jnp.asarray(x) for name, x in images.items()}


def reduced(x, window, identity, function, strides=None, padding="VALID"):
    rank = x.ndim - 2
    window = whole_numbers("window", window, rank)
    steps = window if strides is None else whole_numbers("strides", strides, rank)
    pads = padding
    if not isinstance(padding, str):
        pads = ((0, 0), *(((padding, padding),) * rank if isinstance(padding, int) else padding), (0, 0))
    return lax.reduce_window(x, identity, function, (1, *window, 1), (1, *steps, 1), pads)


def mean_pool(x, window, **options):
    return reduced(x, window, 0.0, lax.add, **options) / np.prod(whole_numbers("window", window, x.ndim - 2))


def max_pool(x, window, **options):
    return reduced(x, window, -jnp.inf, lax.max, **options)


@pytest.mark.parametrize("own, reference", [(ops.max_pool, max_pool), (ops.avg_pool, mean_pool)], ids=["max", "avg"])
def test_pool_and_gradient_equal_reduce_window(own, reference, rng):
    def evaluate(pool, x, name):
        y, pull = jax.vjp(lambda x: pool(x, POOLS[name][1], **POOLS[name][2]), x)
        return y, *pull(jnp.arange(1.0, y.size + 1).reshape(y.shape))

    compute = lambda pool, images: {name: evaluate(pool, x, name) for name, x in images.items()}
    images = pools(rng)
    both = lambda images: (compute(own, images), compute(reference, images))
    actual, expected = jax.jit(both, compiler_options=QUICK)(images)
    for name in POOLS:
        chex.assert_trees_all_close(actual[name], expected[name], rtol=1e-6, custom_message=name)


def test_max_pool_gives_a_tie_to_the_first():
    dx = jax.grad(lambda x: ops.max_pool(x, 2).sum())(jnp.zeros((1, 4, 4, 1)))
    chex.assert_trees_all_equal(dx[0, :, :, 0], jnp.tile(jnp.array([[1.0, 0.0], [0.0, 0.0]]), (2, 2)))


def test_padding_never_wins():
    y = ops.max_pool(-jnp.ones((1, 3, 3, 1), jnp.bfloat16), 3, strides=1, padding=1)
    assert y.dtype == jnp.bfloat16
    chex.assert_trees_all_equal(y, -jnp.ones_like(y))


def test_max_pool_has_a_second_derivative(rng):
    x = jnp.asarray(rng.normal(size=(1, 4, 6, 1)), jnp.float32)
    inner = jax.grad(lambda x: (ops.max_pool(x, 2) ** 3).sum())
    first, second = jax.jit(lambda x: (inner(x), jax.grad(lambda x: inner(x).sum())(x)))(x)
    chex.assert_trees_all_close(second, jnp.where(first != 0, 6 * x, 0), rtol=1e-6)


def test_mean_of_tiles_has_a_second_derivative(rng):
    x = jnp.asarray(rng.normal(size=(1, 5, 6, 1)), jnp.float32)
    second = lambda pool: jax.grad(lambda x: jnp.cos(jax.grad(lambda x: (pool(x, 2) ** 3).sum())(x)).sum())
    chex.assert_trees_all_close(
        jax.jit(second(ops.avg_pool))(x), second(lambda x, k: mean_pool(x, k, strides=k))(x), rtol=1e-5, atol=1e-6
    )


POOL_ERRORS = {
    "rank": ((1, 3), 2, {}, "spatial axes"),
    "window": ((1, 4, 4, 1), 0, {}, "window=0"),
    "image size": ((1, 4, 4, 1), 5, {}, "smaller than the window (5, 5)"),
    "strides": ((1, 4, 4, 1), 2, {"strides": (1, 0)}, "strides=(1, 0)"),
    "padding": ((1, 4, 4, 1), 2, {"padding": -1}, "padding=-1"),
}


@pytest.mark.parametrize("name", POOL_ERRORS)
@pytest.mark.parametrize("pool", [ops.max_pool, ops.avg_pool])
def test_pool_errors_are_one_line(pool, name):
    shape, window, options, words = POOL_ERRORS[name]
    with pytest.raises(InputError) as caught:
        pool(jnp.zeros(shape), window, **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 5, 4, 3), (2, 3, 4, 2, 3)])
def test_global_pools(shape, rng):
    x = rng.normal(size=shape).astype(np.float32)
    axes = tuple(range(1, len(shape) - 1))
    chex.assert_trees_all_close(ops.global_avg_pool(jnp.asarray(x)), x.mean(axes), rtol=1e-5)
    chex.assert_trees_all_equal(ops.global_max_pool(jnp.asarray(x)), x.max(axes))


SHAPE = (2, 8, 8, 4)
OPERATIONS = {
    "conv": lambda x: ops.conv(x, np.ones((3, 3, 4, 4), x.dtype)),
    "1x1": lambda x: ops.conv(x, np.ones((1, 1, 4, 4), x.dtype)),
    "grouped": lambda x: ops.conv(x, np.ones((3, 3, 2, 4), x.dtype), groups=2),
    "depthwise": lambda x: ops.depthwise_conv(x, np.ones((3, 3, 1, 4), x.dtype)),
    "transposed": lambda x: ops.conv_transpose(x, np.ones((2, 2, 4, 4), x.dtype), strides=2),
    "conv and pool": lambda x: ops.conv_max_pool(x, np.ones((3, 3, 4, 4), x.dtype)),
    "max pool": ops.max_pool,
    "mean pool": ops.avg_pool,
    "adaptive": lambda x: ops.adaptive_avg_pool(x, (3, 3)),
    "global mean": ops.global_avg_pool,
    "global maximum": ops.global_max_pool,
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint8, bool, np.complex64, jnp.float8_e4m3fn])
def test_what_is_not_floating_point_is_refused(name, dtype):
    with pytest.raises(InputError) as refused:
        OPERATIONS[name](jnp.ones(SHAPE, dtype))
    assert (
        str(SHAPE) in str(refused.value)
        and jnp.dtype(dtype).name in str(refused.value)
        and "\n" not in str(refused.value)
    )


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_16_bits_stay_16_bits(name, dtype):
    assert jax.eval_shape(OPERATIONS[name], jax.ShapeDtypeStruct(SHAPE, dtype)).dtype == dtype


def test_image_and_kernel_of_two_dtypes_are_refused():
    with pytest.raises(InputError, match="conv: image is float32 and kernel is bfloat16"):
        ops.conv(jnp.ones(SHAPE), jnp.ones((3, 3, 4, 4), jnp.bfloat16))
    with pytest.raises(InputError, match="kernel .* is int32"):
        ops.conv(jnp.ones(SHAPE), jnp.ones((3, 3, 4, 4), jnp.int32))


def test_top_k_as_a_sort_is_top_k():
    x = np.random.default_rng(0).integers(0, 9, (4, 3, 40)).astype(np.float32)  # with equal values
    x[0, 0, 7] = np.nan
    for array in (x, np.nan_to_num(x).astype(np.int32)):
        expected = lax.top_k(array, 5)
        with ops.without_top_k():
            found = jax.jit(ops.top_k, static_argnums=1)(array, 5)
            assert "top_k" not in str(jax.make_jaxpr(ops.top_k, static_argnums=1)(array, 5)).split("name=")[0]
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
