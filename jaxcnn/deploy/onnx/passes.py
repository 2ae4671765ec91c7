"""Making a graph small: affine maps go into convolutions, and chains of nodes become the one that they compute.

Each pass looks for nodes whose result nothing else reads. The results differ from those before by rounding alone.
"""

import math

import numpy as np

from jaxcnn.deploy.onnx.functions import clip, gelu, gelu_tanh, hard_sigmoid, hard_swish, layer_norm, softmax
from jaxcnn.deploy.onnx.graph import Graph, Node
from jaxcnn.deploy.onnx.view import Pass, View, replaced


def simplify(g: Graph) -> Graph:
    """Apply all passes until none changes the graph, and drop what nothing reads; the graph itself is changed."""
    for one in PASSES:
        while _sweep(g, one):
            pass
    _name_outputs(g)
    return g


def _name_outputs(g: Graph) -> None:
    """Let the last nodes make the outputs themselves."""
    for last in [node for node in g.nodes if node.op == "Identity" and node.outputs[0] in g.outputs]:
        view, name = View(g), last.inputs[0]
        node = view.made.get(name)
        if node is None or name in g.outputs:
            continue
        new = last.outputs[0]
        node.outputs = [new if n == name else n for n in node.outputs]
        g.nodes.remove(last)
        for other in g.nodes:
            other.inputs = [new if n == name else n for n in other.inputs]


def _sweep(g: Graph, one: Pass) -> bool:
    """Apply a pass to every node once; nodes that it changes are visited again in the next sweep."""
    view, changed = View(g), False
    touched: set[int] = set()
    for node in list(g.nodes):
        around = {id(view.made[name]) for name in node.inputs if name in view.made} | {id(node)}
        if around & touched:
            continue
        after = {id(other) for name in node.outputs for other in view.readers.get(name, ())}
        if one(view, node):
            changed, touched = True, touched | around | after
    _drop_unread(g)
    return changed


def _drop_unread(g: Graph) -> None:
    read = set(g.outputs)
    kept = []
    for node in reversed(g.nodes):
        if read & set(node.outputs):
            kept.append(node)
            read |= set(node.inputs)
    g.nodes = kept[::-1]


def _per_channel(x: np.ndarray, rank: int, channels: int) -> np.ndarray | None:
    """Return a constant as one number per channel, the second axis; None if it changes along another axis."""
    shape = (1,) * (rank - x.ndim) + x.shape
    if any(n != 1 for i, n in enumerate(shape) if i != 1) or shape[1] not in (1, channels):
        return None
    return np.broadcast_to(x.reshape(-1), (channels,))


def _affine(view: View, node: Node) -> tuple[str, np.ndarray | None, np.ndarray | None] | None:
    """Read a node as `x * factor + term`: return x, factor and term, one of them None."""
    found = view.split(node)
    if node.op not in ("Add", "Sub", "Mul", "Div") or found is None or not np.issubdtype(found[1].dtype, np.floating):
        return None
    x, c = found
    if node.op in ("Sub", "Div") and node.inputs[0] != x:
        return None
    if node.op in ("Mul", "Div"):
        return x, c if node.op == "Mul" else 1 / c, None
    return x, None, c if node.op == "Add" else -c


def fold_affine(view: View, node: Node) -> bool:
    """Put a product or a sum per channel into the convolution before it (Jacob et al., 2017, arXiv:1712.05877)."""
    g, found = view.g, _affine(view, node)
    if found is None:
        return False
    x, factor, term = found
    pool = view.only(x, "MaxPool")
    if pool is not None and (factor is None or (factor > 0).all()):  # a maximum follows what rises
        x = pool.inputs[0]
    conv = view.only(x, "Conv") or view.only(x, "ConvTranspose")
    if conv is None or conv.inputs[1] not in g.constants or any(n not in g.constants for n in conv.inputs[2:]):
        return False
    kernel = g.constants[conv.inputs[1]]
    out = 0 if conv.op == "Conv" else 1
    bias = g.constants[conv.inputs[2]] if len(conv.inputs) > 2 else np.zeros(kernel.shape[out], kernel.dtype)
    change = _per_channel(factor if factor is not None else term, kernel.ndim, kernel.shape[out])  # pyright: ignore[reportArgumentType]
    if change is None:
        return False
    if factor is not None:
        kernel = kernel * change.reshape([-1 if a == out else 1 for a in range(kernel.ndim)])
        bias = bias * change
    else:
        bias = bias + change
    conv.inputs = [conv.inputs[0], g.store(kernel.astype(np.float32)), g.store(bias.astype(np.float32))]
    (conv if pool is None else pool).outputs = node.outputs
    g.nodes.remove(node)
    return True


def batch_norm(view: View, node: Node) -> bool:
    """Make one BatchNormalization of `(x - mean) * factor + bias` per channel that no convolution takes."""
    g, mean, factor = view.g, None, None
    last = _affine(view, node)
    if last is None or last[2] is None:
        return False
    product = view.only(last[0], "Mul")
    second = _affine(view, product) if product else None
    if second is None or second[1] is None:
        return False
    x, factor, bias = second[0], second[1], last[2]
    first = view.only(x, "Sub")
    shift = _affine(view, first) if first else None
    if shift is not None and shift[2] is not None:
        x, mean = shift[0], -shift[2]
    shape = g.shapes.get(node.outputs[0])
    if shape is None or len(shape) < 3 or not isinstance(shape[1], int):
        return False
    found = [
        _per_channel(c, len(shape), shape[1]) for c in (factor, bias, np.zeros(1) if mean is None else mean)
    ]  # fmt: skip
    if any(c is None for c in found) or max(c.size for c in (factor, bias)) == 1:
        return False
    names = [g.store(np.asarray(c, np.float32)) for c in found]
    ones = g.store(np.ones(shape[1], np.float32))
    replaced(g, node, "BatchNormalization", [x, *names, ones], epsilon=0.0)
    return True


def gemm(view: View, node: Node) -> bool:
    """Make a dense layer of a product of matrices and a sum."""
    g = view.g
    found = view.split(node) if node.op == "Add" else None
    product = view.only(found[0], "MatMul") if found else None
    if found is None or product is None or product.inputs[1] not in g.constants:
        return False
    matrix, bias = g.constants[product.inputs[1]], found[1].reshape(-1)
    shape = g.shapes.get(product.outputs[0], ())
    if len(shape) != 2 or matrix.ndim != 2 or found[1].shape[-1:] != (matrix.shape[1],) or bias.size != matrix.shape[1]:
        return False
    replaced(g, node, "Gemm", [*product.inputs, g.store(bias)])
    return True


def mean(view: View, node: Node) -> bool:
    """Make a mean of a sum over axes that is divided by their size."""
    g = view.g
    found = view.scalar(node) if node.op == "Div" and node.inputs[0] not in view.g.constants else None
    total = view.only(found[0], "ReduceSum") if found else None
    if found is None or total is None:
        return False
    axes = [int(a) for a in g.constants[total.inputs[1]]]
    shape = g.shapes.get(total.inputs[0], ())
    sizes = [shape[a] for a in axes if a < len(shape) and isinstance(shape[a], int)]
    if len(sizes) < len(axes) or math.prod(sizes) != found[1]:
        return False
    replaced(g, node, "ReduceMean", [total.inputs[0]], axes=axes, keepdims=total.attributes["keepdims"])
    return True


def global_pool(view: View, node: Node) -> bool:
    """Name the mean over all places of an image what it is."""
    g = view.g
    shape = g.shapes.get(node.inputs[0], ()) if node.op == "ReduceMean" else ()
    if len(shape) < 4 or sorted(node.attributes["axes"]) != list(range(2, len(shape))):
        return False
    if node.attributes["keepdims"]:
        replaced(g, node, "GlobalAveragePool", [node.inputs[0]])
        return True
    name = g.fresh("GlobalAveragePool")
    g.nodes.insert(g.nodes.index(node), Node("GlobalAveragePool", [node.inputs[0]], [name], {}))
    replaced(g, node, "Flatten", [name], axis=1)
    return True


def reshapes(view: View, node: Node) -> bool:
    """Let the second of two reshapes do the work of both."""
    if node.op != "Reshape":
        return False
    inner = view.made.get(node.inputs[0])
    if inner is None or inner.op not in ("Reshape", "Unsqueeze", "Squeeze", "Flatten"):
        return False
    if 0 in view.g.constants.get(node.inputs[1], np.zeros(1)):
        return False
    node.inputs = [inner.inputs[0], node.inputs[1]]
    return True


def transposes(view: View, node: Node) -> bool:
    """Let the second of two transposes do the work of both, and drop one that moves nothing."""
    if node.op != "Transpose":
        return False
    perm = node.attributes["perm"]
    inner = view.made.get(node.inputs[0])
    if inner is not None and inner.op == "Transpose":
        replaced(view.g, node, "Transpose", list(inner.inputs), perm=[inner.attributes["perm"][a] for a in perm])
        return True
    if perm == list(range(len(perm))) and node.outputs[0] not in view.g.outputs:
        for other in view.g.nodes:
            other.inputs = [node.inputs[0] if n == node.outputs[0] else n for n in other.inputs]
        view.g.nodes.remove(node)
        view.made.clear()  # names have changed: no more in this sweep
        view.count.clear()
        return True
    return False


PASSES: tuple[Pass, ...] = (
    clip, hard_swish, hard_sigmoid, hard_swish, gelu, gelu_tanh, fold_affine, mean, global_pool, softmax,
    layer_norm, transposes, batch_norm, gemm, reshapes,
)  # fmt: skip
