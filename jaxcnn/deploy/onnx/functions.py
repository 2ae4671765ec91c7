"""Passes that find the functions of a network, such as GELU or layer normalisation, in chains of simple nodes."""

import math

import numpy as np

from jaxcnn.deploy.onnx.graph import Node
from jaxcnn.deploy.onnx.view import View, replaced

ROOT_HALF = math.sqrt(0.5)


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
    replaced(g, node, "Clip", [other[0], g.store(np.float32(low)), g.store(np.float32(high))])
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
    replaced(view.g, node, "HardSigmoid", [inner[0]], alpha=1 / 6, beta=0.5)
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
                replaced(view.g, node, "HardSwish", [x])
                return True
        return False
    for x, gate in (node.inputs, node.inputs[::-1]) if node.op == "Mul" else ():
        made = view.only(gate, "HardSigmoid")
        if made is not None and made.inputs[0] == x:
            replaced(view.g, node, "HardSwish", [x])
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
        replaced(g, node, "Mul", [names[3], part])
        return True
    return False


def gelu_tanh(view: View, node: Node) -> bool:
    """Write the tanh form of GELU in the order of factors that ONNX Runtime makes one node of (arXiv:1606.08415)."""
    g = view.g
    for x, share in (node.inputs, node.inputs[::-1]) if node.op == "Mul" else ():
        chain = ("Mul", 0.5), ("Add", 1.0), ("Tanh", None), ("Mul", math.sqrt(2 / math.pi))
        name = share
        for op, value in chain:
            made = view.only(name, op)
            found = None if made is None else (made.inputs[0], 0.0) if value is None else view.scalar(made, value)
            if found is None:
                break
            name = found[0]
        else:
            if _is_cubic(view, name, x):
                break
    else:
        return False
    half, one, root, cubic = (g.store(np.float32(n)) for n in (0.5, 1.0, math.sqrt(2 / math.pi), 0.044715))
    names = [g.fresh(op) for op in ("Mul", "Mul", "Add", "Mul", "Mul", "Tanh", "Add", "Mul")]
    for name in names:
        g.shapes[name] = g.shapes.get(x, ())
    inputs = [
        [x, cubic], [names[0], x], [names[1], one], [x, root], [names[2], names[3]], [names[4]], [names[5], one],
        [x, half],
    ]  # fmt: skip
    at = g.nodes.index(node)
    g.nodes[at:at] = [Node(n.partition("_")[0], i, [n], {}) for n, i in zip(names, inputs, strict=True)]
    replaced(g, node, "Mul", [names[6], names[7]])
    return True


def _is_cubic(view: View, name: str, x: str) -> bool:
    """Whether a tensor is `x + 0.044715 x**3`."""
    total = view.only(name, "Add")
    other = next((n for n in total.inputs if n != x), None) if total is not None and x in total.inputs else None
    part = view.only(other, "Mul") if other is not None else None
    cube = view.scalar(part, 0.044715) if part is not None else None
    product = view.only(cube[0], "Mul") if cube is not None else None
    square = next((n for n in product.inputs if n != x), None) if product is not None and x in product.inputs else None
    made = view.only(square, "Mul") if square is not None else None
    return made is not None and made.inputs == [x, x]


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
    replaced(g, node, "Softmax", [shifted.inputs[0]], axis=axes[0])
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
            replaced(g, node, "LayerNormalization", [x, *names], axis=-1, epsilon=epsilon)
            return True
        order = [a for a in range(rank) if a != axis] + [axis]
        moved, done, at = g.fresh("Transpose"), g.fresh("LayerNormalization"), g.nodes.index(node)
        g.shapes[moved] = g.shapes[done] = tuple(shape[a] for a in order)
        g.nodes[at:at] = [
            Node("Transpose", [x], [moved], {"perm": order}),
            Node("LayerNormalization", [moved, *names], [done], {"axis": -1, "epsilon": epsilon}),
        ]
        replaced(g, node, "Transpose", [done], perm=[order.index(a) for a in range(rank)])
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
