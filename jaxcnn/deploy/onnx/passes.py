"""Making a graph small: affine maps go into convolutions, and chains of nodes become the one that they compute.

Each pass looks for nodes whose result nothing else reads. The results differ from those before by rounding alone.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxcnn.deploy.onnx.graph import Graph, Node

ROOT_HALF = math.sqrt(0.5)


class View:
    """Who makes and who reads each tensor of a graph; it is made again after each change."""

    def __init__(self, g: Graph) -> None:
        self.g = g
        self.made: dict[str, Node] = {name: node for node in g.nodes for name in node.outputs}
        self.count: dict[str, int] = dict.fromkeys(g.outputs, 1)
        self.readers: dict[str, list[Node]] = {}
        for node in g.nodes:
            for name in node.inputs:
                self.count[name] = self.count.get(name, 0) + 1
                self.readers.setdefault(name, []).append(node)

    def only(self, name: str, op: str, reads: int = 1) -> Node | None:
        """Return the node that makes a tensor, if it is of this kind and no more than `reads` others read it."""
        node = self.made.get(name)
        return node if node is not None and node.op == op and self.count.get(name, 0) <= reads else None

    def split(self, node: Node) -> tuple[str, np.ndarray] | None:
        """Return the tensor and the constant that a node of two operands reads."""
        for x, c in (node.inputs, node.inputs[::-1]) if len(node.inputs) == 2 else ():
            if c in self.g.constants and x not in self.g.constants:
                return x, self.g.constants[c]
        return None

    def scalar(self, node: Node, value: float | None = None) -> tuple[str, float] | None:
        """Return the tensor and the number that a node reads, if the constant is a single number (this one)."""
        found = self.split(node)
        if found is None or found[1].size != 1:
            return None
        number = float(found[1].reshape(()))
        return (found[0], number) if value is None or math.isclose(number, value, rel_tol=1e-6) else None


Pass = Callable[[View, Node], bool]


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
    """Apply a pass to every node once; nodes that it changes are seen anew in the next sweep."""
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
    _replace(g, node, "BatchNormalization", [x, *names, ones], epsilon=0.0)
    return True


def _replace(g: Graph, node: Node, op: str, inputs: list[str], **attributes: Any) -> None:
    """Let a node compute something else."""
    node.op, node.inputs, node.attributes = op, inputs, attributes


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
    _replace(g, node, "Gemm", [*product.inputs, g.store(bias)])
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
    _replace(g, node, "ReduceMean", [total.inputs[0]], axes=axes, keepdims=total.attributes["keepdims"])
    return True


def global_pool(view: View, node: Node) -> bool:
    """Name the mean over all places of an image what it is."""
    g = view.g
    shape = g.shapes.get(node.inputs[0], ()) if node.op == "ReduceMean" else ()
    if len(shape) < 4 or sorted(node.attributes["axes"]) != list(range(2, len(shape))):
        return False
    if node.attributes["keepdims"]:
        _replace(g, node, "GlobalAveragePool", [node.inputs[0]])
        return True
    name = g.fresh("GlobalAveragePool")
    g.nodes.insert(g.nodes.index(node), Node("GlobalAveragePool", [node.inputs[0]], [name], {}))
    _replace(g, node, "Flatten", [name], axis=1)
    return True


def clip(view: View, node: Node) -> bool:
    """Make one Clip of a minimum and a maximum."""
    g = view.g
    found = view.scalar(node) if node.op in ("Min", "Max") else None
    if found is None:
        return False
    x, bound = found
    inner = view.only(x, "Relu") or view.only(x, "Max" if node.op == "Min" else "Min")
    other = (inner.inputs[0], 0.0) if inner and inner.op == "Relu" else view.scalar(inner) if inner else None
    shape = g.shapes.get(node.outputs[0])
    if other is None or shape is None or (inner is not None and inner.op == "Relu" and node.op == "Max"):
        return False
    low, high = (other[1], bound) if node.op == "Min" else (bound, other[1])
    constant = next(g.constants[n] for n in node.inputs if n in g.constants)
    if low > high or constant.dtype != np.float32:
        return False
    _replace(g, node, "Clip", [other[0], g.store(np.float32(low)), g.store(np.float32(high))])
    return True


def hard_sigmoid(view: View, node: Node) -> bool:
    """Name `clip(x + 3, 0, 6) / 6` what it is."""
    found = view.scalar(node, 6.0) if node.op == "Div" and node.inputs[0] not in view.g.constants else None
    limited = view.only(found[0], "Clip") if found else None
    if limited is None or [float(view.g.constants[n]) for n in limited.inputs[1:]] != [0.0, 6.0]:
        return False
    shifted = view.only(limited.inputs[0], "Add")
    inner = view.scalar(shifted, 3.0) if shifted else None
    if inner is None:
        return False
    _replace(view.g, node, "HardSigmoid", [inner[0]], alpha=1 / 6, beta=0.5)
    return True


def hard_swish(view: View, node: Node) -> bool:
    """Name `x * hard_sigmoid(x)` what it is, also where the division by 6 comes last."""
    if node.op == "Div":
        found = view.scalar(node, 6.0)
        product = view.only(found[0], "Mul") if found and node.inputs[0] == found[0] else None
        if product is None:
            return False
        for x, gate in (product.inputs, product.inputs[::-1]):
            limited = view.only(gate, "Clip")
            shifted = view.only(limited.inputs[0], "Add") if limited else None
            inner = view.scalar(shifted, 3.0) if shifted else None
            bounds = [float(view.g.constants[n]) for n in limited.inputs[1:]] if limited else []
            if inner is not None and inner[0] == x and bounds == [0.0, 6.0]:
                _replace(view.g, node, "HardSwish", [x])
                return True
        return False
    for x, gate in (node.inputs, node.inputs[::-1]) if node.op == "Mul" else ():
        made = view.only(gate, "HardSigmoid")
        if made is not None and made.inputs[0] == x:
            _replace(view.g, node, "HardSwish", [x])
            return True
    return False


def gelu(view: View, node: Node) -> bool:
    """Write `0.5 x erfc(-x / sqrt(2))` as `0.5 x (1 + erf(x / sqrt(2)))`, which runtimes know (arXiv:1606.08415)."""
    g = view.g
    for half, tail in (node.inputs, node.inputs[::-1]) if node.op == "Mul" else ():
        halved, one_minus = view.only(half, "Mul"), view.only(tail, "Sub")
        x = view.scalar(halved, 0.5) if halved else None
        if x is None or one_minus is None or one_minus.inputs[0] not in g.constants:
            continue
        curve = view.only(one_minus.inputs[1], "Erf")
        scaled = view.only(curve.inputs[0], "Mul") if curve else None
        inner = view.scalar(scaled, ROOT_HALF) if scaled else None
        turned = view.only(inner[0], "Neg") if inner else None
        if turned is None or turned.inputs[0] != x[0] or float(g.constants[one_minus.inputs[0]]) != 1:
            continue
        at = g.nodes.index(node)
        names = [g.fresh(op) for op in ("Div", "Erf", "Add", "Mul")]
        for name in names:
            g.shapes[name] = g.shapes.get(x[0], ())
        one, root, part = (g.store(np.float32(n)) for n in (1.0, math.sqrt(2), 0.5))
        g.nodes[at:at] = [
            Node("Div", [x[0], root], [names[0]], {}), Node("Erf", [names[0]], [names[1]], {}),
            Node("Add", [names[1], one], [names[2]], {}), Node("Mul", [x[0], names[2]], [names[3]], {}),
        ]  # fmt: skip
        _replace(g, node, "Mul", [names[3], part])
        return True
    return False


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


def softmax(view: View, node: Node) -> bool:
    """Name `exp(x - m) / sum(exp(x - m))` what it is, for any m that is the same along the axis of the sum."""
    g = view.g
    curve = view.made.get(node.inputs[0]) if node.op == "Div" else None
    total = view.made.get(node.inputs[1]) if curve is not None and curve.op == "Exp" else None
    if curve is None or total is None or total.op != "ReduceSum" or total.inputs[0] != node.inputs[0]:
        return False
    axes, shape = g.constants[total.inputs[1]].tolist(), g.shapes.get(node.inputs[0], ())
    shifted = view.made.get(curve.inputs[0])
    if len(axes) != 1 or not total.attributes["keepdims"] or shifted is None or shifted.op != "Sub":
        return False
    one = g.shapes.get(shifted.inputs[1], ())
    if len(one) != len(shape) or one[axes[0]] != 1:
        return False
    _replace(g, node, "Softmax", [shifted.inputs[0]], axis=axes[0])
    return True


def layer_norm(view: View, node: Node) -> bool:
    """Make one LayerNormalization of the mean, the variance and what is done with them (arXiv:1607.06450)."""
    g = view.g
    affine = view.split(node) if node.op == "Add" else None
    scaled = view.only(affine[0], "Mul") if affine else None
    factor = view.split(scaled) if scaled else None
    normal = view.only(factor[0], "Mul") if factor else None
    if affine is None or factor is None or normal is None:
        return False
    for centred, inverse in (normal.inputs, normal.inputs[::-1]):
        found = _moments(view, centred, inverse)
        if found is None:
            continue
        x, axis, epsilon = found
        shape = g.shapes.get(x, ())
        rank, width = len(shape), shape[axis]
        parts = [c.reshape(-1) for c in (factor[1], affine[1])]
        if any(c.size != width or np.broadcast_shapes(c0.shape, (1,) * rank)[axis] != width
               for c, c0 in zip(parts, (factor[1], affine[1]), strict=True)):  # fmt: skip
            return False
        names = [g.store(c) for c in parts]
        if axis == rank - 1:
            _replace(g, node, "LayerNormalization", [x, *names], axis=-1, epsilon=epsilon)
            return True
        order = [a for a in range(rank) if a != axis] + [axis]
        moved, done, at = g.fresh("Transpose"), g.fresh("LayerNormalization"), g.nodes.index(node)
        g.shapes[moved] = g.shapes[done] = tuple(shape[a] for a in order)
        g.nodes[at:at] = [
            Node("Transpose", [x], [moved], {"perm": order}),
            Node("LayerNormalization", [moved, *names], [done], {"axis": -1, "epsilon": epsilon}),
        ]
        _replace(g, node, "Transpose", [done], perm=[order.index(a) for a in range(rank)])
        return True
    return False


def _moments(view: View, centred: str, inverse: str) -> tuple[str, int, float] | None:
    """Return x, axis and epsilon if `centred` is x minus its mean, and `inverse` one over its deviation."""
    sub, one_over = view.made.get(centred), view.made.get(inverse)
    average = view.made.get(sub.inputs[1]) if sub is not None and sub.op == "Sub" else None
    root = view.made.get(one_over.inputs[0]) if one_over is not None and one_over.op == "Reciprocal" else None
    wide = view.made.get(root.inputs[0]) if root is not None and root.op == "Sqrt" else None
    epsilon = view.scalar(wide) if wide is not None and wide.op == "Add" else None
    variance = view.made.get(epsilon[0]) if epsilon is not None else None
    if sub is None or average is None or epsilon is None or variance is None:
        return None
    squared = view.made.get(variance.inputs[0])
    means = average.op == variance.op == "ReduceMean" and squared is not None and squared.op == "Mul"
    if not means or squared is None or squared.inputs != [centred, centred] or average.inputs[0] != sub.inputs[0]:
        return None
    axes = average.attributes["axes"]
    if len(axes) != 1 or axes != variance.attributes["axes"]:
        return None
    if not (average.attributes["keepdims"] and variance.attributes["keepdims"]):
        return None
    return sub.inputs[0], axes[0], epsilon[1]


def transposes(view: View, node: Node) -> bool:
    """Let the second of two transposes do the work of both, and drop one that moves nothing."""
    if node.op != "Transpose":
        return False
    perm = node.attributes["perm"]
    inner = view.made.get(node.inputs[0])
    if inner is not None and inner.op == "Transpose":
        _replace(view.g, node, "Transpose", list(inner.inputs), perm=[inner.attributes["perm"][a] for a in perm])
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
    clip, hard_swish, hard_sigmoid, hard_swish, gelu, fold_affine, mean, global_pool, softmax,
    layer_norm, transposes, batch_norm, gemm, reshapes,
)  # fmt: skip
