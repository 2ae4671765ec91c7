"""Programs in 8-bit integers: rounding becomes a pair of nodes, kernels and biases become integers.

A runtime computes a convolution in integers if its input and kernel come from `DequantizeLinear`, its bias has their
product as its step, and its result goes to `QuantizeLinear`.
"""

import collections
from typing import Any

import numpy as np

from jaxcnn.deploy.onnx.elementwise import Rule, apply
from jaxcnn.deploy.onnx.graph import Graph, Node, Value
from jaxcnn.deploy.onnx.view import View
from jaxcnn.ops.quantise import LARGEST

Q, DQ = "QuantizeLinear", "DequantizeLinear"
LAYERS = {"Conv": 0, "Gemm": 1, "MatMul": 1}  # and the axis of the channels that they make
ORDERED = ("Relu", "Clip", Q)  # what rises with its input, so that a maximum may come before or after
MOVES = ("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
FACTORS = ("Div", "Mul", "Sigmoid")
OFF = 1e-2  # largest distance from a whole number of a kernel that was rounded, in steps
MOST_BIAS = 2.0**30
MIDDLE = 128  # what stands for 0 in uint8


def _fake_quantise(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    x, step, zero = values
    if step.constant is None or zero.constant is None:
        raise AssertionError("grids are constants of an exported program")
    grid = g.store(np.asarray(step.constant, np.float32)), g.store(np.asarray(zero.constant, np.uint8))

    def make(name: str) -> str:
        rounded = g.emit(Q, name, *grid)
        g.shapes[rounded] = g.shapes.get(name, ())
        return g.emit(DQ, rounded, *grid)

    return [apply(g, [x], eqn.outvars[0].aval, make)]


def to_integers(g: Graph) -> Graph:
    """Write kernels and biases as integers, and bring the roundings to where runtimes look for them.

    Args:
        g: a graph from `simplify`, in which `QuantizeLinear` and `DequantizeLinear` stand for roundings; it is changed.
            One without them stays as it is.

    """
    if all(node.op != Q for node in g.nodes):
        return g
    _drop_repeated(g)
    while _swapped(g):
        pass
    _share(g)
    layers = [node for node in g.nodes if node.op in LAYERS]
    readers = collections.Counter(node.inputs[1] for node in layers)
    for node in layers:
        _layer(g, node, readers[node.inputs[1]] > 1)
    _read_once(g)
    return g


def _drop_repeated(g: Graph) -> None:
    """Drop a rounding of what the same rounding has just made."""
    view, same = View(g), {}
    for node in g.nodes:
        node.inputs = [same.get(name, name) for name in node.inputs]
        before = view.made.get(node.inputs[0]) if node.op == Q else None
        if before is not None and before.op == DQ and before.inputs[1:] == node.inputs[1:]:
            for reader in view.readers.get(node.outputs[0], []):
                same[reader.outputs[0]] = before.outputs[0]
    read = {name for node in g.nodes for name in node.inputs} | set(g.outputs)
    for op in (DQ, Q):
        g.nodes = [node for node in g.nodes if node.op != op or set(node.outputs) & read]
        read = {name for node in g.nodes for name in node.inputs} | set(g.outputs)


def _share(g: Graph) -> None:
    """Let all readers of a maximum of rounded values, which is on their grid, read it as integers."""
    view = View(g)
    for pool in [node for node in g.nodes if node.op == "MaxPool" and node.outputs[0] not in g.outputs]:
        source, readers = view.made.get(pool.inputs[0]), view.readers.get(pool.outputs[0], [])
        if source is None or source.op != DQ:
            continue
        rounded = next((node for node in readers if node.op == Q and node.inputs[1:] == source.inputs[1:]), None)
        if rounded is None:
            continue
        back = next(node for node in view.readers[rounded.outputs[0]] if node.op == DQ)
        for reader in readers:
            if reader is not rounded:
                reader.inputs = [back.outputs[0] if n == pool.outputs[0] else n for n in reader.inputs]
        for node in (back, rounded):  # before all readers
            g.nodes.remove(node)
            g.nodes.insert(g.nodes.index(pool) + 1, node)


def _read_once(g: Graph) -> None:
    """Give functions of several nodes, such as GELU, an input that is not from `DequantizeLinear` itself.

    ONNX Runtime copies that node for each of its readers, and then no longer sees that they read the same.
    """
    view = View(g)
    for node in [node for node in g.nodes if node.op == DQ]:
        name, readers = node.outputs[0], view.readers.get(node.outputs[0], [])
        if len({id(reader) for reader in readers}) < 2 or any(reader.op not in FACTORS for reader in readers):
            continue
        held = g.fresh("Clip")
        g.shapes[held] = g.shapes.get(name, ())
        widest = np.finfo(np.float32)
        bounds = [g.store(np.float32(n)) for n in (widest.min, widest.max)]
        for reader in readers:
            reader.inputs = [held if n == name else n for n in reader.inputs]
        g.nodes.insert(g.nodes.index(node) + 1, Node("Clip", [name, *bounds], [held], {}))


def _swapped(g: Graph) -> bool:
    """Let what rises with its input come before the max pooling of a convolution, and moves before `DequantizeLinear`.

    What is swapped is read by nothing else.
    """
    view = View(g)
    for second in g.nodes:
        name = second.inputs[0] if second.inputs else ""
        before = "MaxPool" if second.op in ORDERED else DQ if second.op in MOVES else ""
        first = view.only(name, before)
        source = view.made.get(first.inputs[0]) if first is not None else None
        if first is None or source is None or first.op == "MaxPool" and source.op not in ("Conv", *ORDERED[:2]):
            continue
        start, between, end = first.inputs[0], first.outputs[0], second.outputs[0]
        g.shapes[between] = g.shapes.get(end if first.op == DQ else start, ())
        second.inputs[0], second.outputs = start, [between]
        first.inputs[0], first.outputs = between, [end]
        g.nodes.remove(second)
        g.nodes.insert(g.nodes.index(first), second)
        return True
    return False


def _layer(g: Graph, node: Node, shared: bool) -> None:
    """Write kernel and bias of a layer as integers, if its input is rounded and its kernel was.

    A kernel that several layers share becomes uint8. Of the others ONNX Runtime itself makes uint8 where sums could
    overflow (see `model.EXACT`), which fails for a tensor that is read twice.
    """
    view, (x, w, *rest), axis = View(g), node.inputs, LAYERS[node.op]
    source, kernel = view.made.get(x), g.constants.get(w)
    if source is None or source.op != DQ or kernel is None or kernel.ndim < 2:
        return
    if any(name not in g.constants for name in rest):
        return
    most, of_input = np.abs(np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)).max(1), source.inputs[1]
    step, shape = np.where(most > 0, most, 1) / LARGEST, [-1 if a == axis else 1 for a in range(kernel.ndim)]
    whole = kernel / step.reshape(shape)
    if np.abs(whole - np.round(whole)).max(initial=0) > OFF:
        return  # a kernel that is not a layer's
    bias = g.constants[rest[0]].reshape(-1) if rest else np.zeros_like(step)
    least = np.abs(bias) / (g.constants[of_input] * MOST_BIAS)  # where there is almost nothing but bias
    step = np.maximum(step, least).astype(np.float32)
    whole = np.round(kernel / step.reshape(shape)).astype(np.int8)
    if shared:
        whole = (whole.astype(np.int16) + MIDDLE).astype(np.uint8)
    inputs = [x, _restored(g, node, whole, step, axis)]
    if rest:
        unit = (g.constants[of_input] * step).astype(np.float32)
        inputs.append(_restored(g, node, np.round(bias / unit).astype(np.int32), unit, 0))
    node.inputs = inputs


def _restored(g: Graph, before: Node, whole: np.ndarray, step: np.ndarray, axis: int) -> str:
    """Return the tensor that integers with a step per channel stand for."""
    name = g.fresh(DQ)
    g.shapes[name] = whole.shape
    integers = [whole, np.full(step.shape, MIDDLE if whole.dtype == np.uint8 else 0, whole.dtype)]
    store = g.store_own if whole.dtype == np.int8 else g.store
    values, zero = (store(x) for x in integers)
    g.nodes.insert(g.nodes.index(before), Node(DQ, [values, g.store(step), zero], [name], {"axis": axis}))
    return name


RULES: dict[str, Rule] = {"jaxcnn_fake_quantise": _fake_quantise}
