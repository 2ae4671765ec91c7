"""ONNX graphs of traced functions: every operation equals ours in ONNX Runtime, and the graphs are small."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

import jaxcnn as jc
from jaxcnn import InputError, ops
from jaxcnn.deploy import onnx
from tests.fixtures import pseudo

CONVS = {
    "strides": {"strides": 2},
    "dilated": {"dilation": 2, "padding": "VALID"},
    "uneven": {"padding": ((2, 0), (0, 1)), "strides": (1, 3)},
    "grouped": {"groups": 2},
}
SMALL = {
    "cnn": ((28, 28, 1), {"widths": (3, 4, 4, 5)}),
    "lenet5": ((28, 28, 1), {}),
    "tutorial": ((28, 28, 1), {}),
    "resnet20": ((16, 16, 3), {"width": 4}),
    "mobilenet_v2": ((32, 32, 3), {"width": 0.1}),
    "cct_2_3x2_32": ((32, 32, 3), {"width": 32}),
}


def graph(function, *shapes, dtype=jnp.float32):
    """The graph of a function of arrays with any number of rows."""
    b = export.symbolic_shape("batch")[0]
    inputs = {f"x{i}": jax.ShapeDtypeStruct((b, *shape), dtype) for i, shape in enumerate(shapes)}
    return onnx.simplify(onnx.trace(lambda d: {"y": function(*d.values())}, inputs, ["y"], b))


def check(function, *shapes, rows=3, tolerance=2e-6, low=-1.0, high=1.0):
    """Compare a function with its graph in ONNX Runtime, and return the number of nodes by kind."""
    rng = np.random.default_rng(0)
    x = [rng.uniform(low, high, (rows, *shape)).astype(np.float32) for shape in shapes]
    made = graph(function, *shapes)
    session = onnx.session(onnx.to_bytes(made, {}), threads=1)
    with ops.native_lowering():  # compiled in less time
        ours = np.asarray(jax.jit(function)(*x))
    for count in (1, rows):  # any number of rows
        got = onnx.run(session, {f"x{i}": a[:count] for i, a in enumerate(x)})["y"]
        assert got.shape == ours[:count].shape and got.dtype == ours.dtype
        np.testing.assert_allclose(got, ours[:count], rtol=0, atol=tolerance * max(np.abs(ours).max(), 1e-6))
    return collections.Counter(node.op for node in made.nodes)


def kernel(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", CONVS)
def test_convolutions(name):
    groups = CONVS[name].get("groups", 1)
    counts = check(lambda x: ops.conv(x, kernel(3, 3, 4 // groups, 6), **CONVS[name]), (9, 10, 4))
    assert counts == {"Transpose": 2, "Conv": 1}


@pytest.mark.parametrize("options", [{}, {"strides": 2}, {"strides": 2, "padding": 1, "output_padding": 1}])
def test_transposed_convolutions(options):
    counts = check(lambda x: ops.conv_transpose(x, kernel(3, 3, 2, 4), **options), (5, 6, 2))
    assert counts["Conv"] + counts["ConvTranspose"] == 1 and sum(counts.values()) == 3


def test_pooling_is_one_node_each():
    pools = [
        (lambda x: ops.max_pool(x, 3, strides=2, padding=1), "MaxPool"),
        (lambda x: ops.max_pool(x, 2, ceil=True), "MaxPool"),
        (lambda x: ops.avg_pool(x, 3, strides=1, padding="SAME"), "AveragePool"),
        (lambda x: ops.global_avg_pool(ops.max_pool(x)), "GlobalAveragePool"),
        (ops.global_max_pool, "ReduceMax"),
        (lambda x: ops.resize_linear(x, (7, 20)), "Resize"),
    ]
    for function, kind in pools:
        counts = check(function, (9, 11, 3))
        assert counts[kind] == 1 and set(counts) <= {
            kind,
            "MaxPool",
            "Transpose",
            "Flatten",
            "Reshape",
            "Shape",
            "Gather",
            "Concat",
        }


@pytest.mark.parametrize("scale, left", [(1.0, 0), (-1.0, 1)])
def test_norms_go_into_the_convolution_also_over_a_maximum_where_they_rise(scale, left):
    def function(x):
        y = ops.max_pool(ops.conv(x, kernel(3, 3, 2, 4)), 2)
        return jax.nn.relu((y - kernel(1, 1, 1, 4)) * (scale * (1 + kernel(1, 1, 1, 4) ** 2)) + kernel(1, 1, 1, 4))

    counts = check(function, (8, 8, 2))
    assert counts["BatchNormalization"] == left and not set(counts) & {"Mul", "Add", "Sub"}


def test_what_runtimes_know_by_name():
    def norm(x):
        centred = x - x.mean(-1, keepdims=True)
        inverse = lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)
        return centred * inverse * kernel(1, 1, 6) + kernel(1, 1, 6)

    assert check(norm, (5, 6))["LayerNormalization"] == 1
    assert check(lambda x: jax.nn.softmax(x, -1), (5, 6)) == {"Softmax": 1}
    assert check(jax.nn.hard_swish, (5, 6), low=-5, high=5) == {"HardSwish": 1}
    assert check(jax.nn.relu6, (5,), low=-9, high=9) == {"Clip": 1}
    assert "Neg" not in check(lambda x: jax.nn.gelu(x, approximate=False), (40,), low=-4, high=4)
    # no power of the input: the order of factors that ONNX Runtime makes one node of
    assert check(jax.nn.gelu, (40,), low=-4, high=4) == {"Mul": 6, "Add": 2, "Tanh": 1}
    square = next(node for node in graph(jax.nn.gelu, (40,)).nodes if node.op == "Mul")
    assert len(set(square.inputs)) == 2


ARITHMETIC = {
    "powers": lambda x: x**3 + jnp.abs(x) ** 0.5 + jnp.square(x) - x**-2,
    "curves": lambda x: jnp.exp(x) + jnp.log1p(jnp.abs(x)) + jnp.tanh(x) + jnp.expm1(x) + jax.lax.erfc(x),
    "choices": lambda x: jnp.where((x > 0) & ~(x > 0.5) | (x == 0), x, jnp.clip(x, -0.2, 0.1)),
    "casts": lambda x: (x * 5).astype(jnp.int32).astype(jnp.float32) + jnp.floor(x) + jnp.round(3 * x),
    "reductions": lambda x: x.max(1) + x.min(1) + x.sum(1) + x.argmax(1) + jnp.cumsum(x, 1)[:, -1],
    "finite": lambda x: jnp.isfinite(jnp.where(x > 0, x, jnp.inf)).astype(jnp.float32) + (x > 0).any(1, keepdims=True),
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic(name):
    check(ARITHMETIC[name], (7,))


MOVES = {
    "reshapes": lambda x: x.reshape(x.shape[0], -1)[:, None].swapaxes(1, 2).reshape(x.shape[0], 6, -1),
    "steps": lambda x: x[:, ::2, 1::2],
    "turned": lambda x: x[:, ::-1, ::-1],
    "joined": lambda x: jnp.concatenate([x, jnp.stack([x[..., 0]] * 2, -1)], -1),
    "padded": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 0), (0, 1)), constant_values=0.5),
    "cropped": lambda x: lax.pad(x, 0.0, [(0, 0, 0), (-1, 2, 0), (0, -1, 0), (0, 0, 0)]),
    "taken": lambda x: jnp.take(x, jnp.array([2, 0, 2]), 1),
    "chosen": lambda x: jnp.take_along_axis(x, (x > 0).astype(jnp.int32), 1),
    "sorted": lambda x: lax.top_k(x, 2)[0] + lax.top_k(x, 2)[1],
    "ascending": lambda x: jnp.sort(x, -1) + jnp.sort(x, 1)[:, :, ::-1],
    "edges": lambda x: jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0)), mode="edge"),
    "with nothing": lambda x: jnp.concatenate([x[:, :0], x, x[:, 3:]], 1),
    "einsum": lambda x: jnp.einsum("bhwc,bkwc->bwhk", x, x),
    "matrices": lambda x: jnp.einsum("hk,bhwc->bkwc", kernel(3, 5), x) + 1,
    "repeated": lambda x: jnp.broadcast_to(x[:, :1], x.shape) @ jnp.ones((3, 2)),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves_and_products(name):
    check(MOVES[name], (3, 4, 3), rows=2)


def test_loops_of_known_length_are_unrolled():
    def function(x):
        return lax.scan(lambda c, row: (c * 0.5 + row, jnp.tanh(c)), x[:, 0], x.swapaxes(0, 1), reverse=True)[1]

    check(lambda x: function(x).swapaxes(0, 1), (4, 3))


def test_suppression_and_roi_align():
    rng = np.random.default_rng(2)
    low = rng.uniform(0, 0.7, (2, 60, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.05, 0.3, (2, 60, 2))], -1).astype(np.float32)
    kinds = jnp.arange(60, dtype=jnp.int32) % 3
    how = {"iou_threshold": 0.4, "score_threshold": 0.2, "max_outputs": 70}

    def suppressed(boxes, scores):
        kept = jax.vmap(lambda b, s: ops.boxes.nms(b, s[:, 0], classes=kinds, **how))(boxes, scores)
        return jnp.concatenate([kept.index, kept.scores, kept.mask], 1, dtype=jnp.float32)

    b = export.symbolic_shape("batch")[0]
    shapes = {"boxes": (60, 4), "scores": (60, 1)}
    inputs = {name: jax.ShapeDtypeStruct((b, *shape), jnp.float32) for name, shape in shapes.items()}
    made = onnx.simplify(onnx.trace(lambda d: {"y": suppressed(**d)}, inputs, ["y"], b))
    assert [node.op for node in made.nodes].count("NonMaxSuppression") == 1
    given = {"boxes": boxes, "scores": rng.random((2, 60, 1), np.float32)}
    ours = np.asarray(suppressed(**given))
    assert 10 < ours[:, 140:].sum() < 110
    np.testing.assert_array_equal(onnx.run(onnx.session(onnx.to_bytes(made, {})), given)["y"], ours)

    level = jnp.asarray(rng.integers(0, 2, (1, 60)), jnp.int32)
    edge = np.concatenate([boxes[:, :59], np.array([[[0.98, 0.1, 1.0, 1.0]]] * 2, np.float32)], 1)

    def sampled(x):
        maps = [x, x[:, ::2, ::2]]
        where, which = (jnp.broadcast_to(a, (x.shape[0], *a.shape[1:])) for a in (jnp.asarray(edge[:1]), level))
        return ops.roi_align(maps, where, size=3, level=which)

    assert check(sampled, (10, 12, 3), tolerance=1e-5)["RoiAlign"] == 2


@pytest.mark.parametrize("name", SMALL)
def test_small_networks(name):
    (*sides, channels), options = SMALL[name]
    model = jc.models.MODELS[name](num_classes=7, **options)
    variables = pseudo.variables(model, (*sides, channels))
    counts = check(lambda x: model.apply(variables, x, train=False), (*sides, channels), tolerance=1e-5)
    assert not set(counts) & {"Sub", "BatchNormalization", "Identity"}
    if name in ("resnet20", "mobilenet_v2"):
        assert counts["Transpose"] == 1 and counts["Conv"] >= 19 and counts["Gemm"] == 1
        assert set(counts) <= {"Transpose", "Conv", "Relu", "Clip", "Add", "Slice", "Pad", "GlobalAveragePool",
                               "Flatten", "Gemm"}  # fmt: skip


def test_what_has_no_form_is_named_in_one_line():
    with pytest.raises(InputError, match="^clz: ") as error:
        graph(lambda x: lax.clz(x.astype(jnp.int32)), (4,))
    assert "no form in ONNX" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError, match="sort of several arrays"):
        graph(lambda x: jnp.argsort(x, 1), (4,))
    with pytest.raises(InputError, match="sort along the batch"):
        graph(lambda x: jnp.sort(x, 0), (4,))
    with pytest.raises(InputError, match="while"):
        graph(lambda x: lax.while_loop(lambda c: c.sum() < 9, lambda c: c + 1, x), (4,))
    with pytest.raises(InputError, match="scan over 600 steps"):
        graph(lambda x: lax.scan(lambda c, _: (c + 1, None), x, None, 600)[0], (4,))
    with pytest.raises(InputError, match="batch"):
        graph(lambda x: x + jnp.arange(x.shape[0], dtype=jnp.float32)[:, None], (4,))
