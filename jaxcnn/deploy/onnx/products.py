"""Products of matrices: dense layers, attention, sums over products."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcnn.deploy.onnx.elementwise import Rule
from jaxcnn.deploy.onnx.graph import Graph, Value, same


def _dot_general(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    """`[*batch, free, contracted]` times `[*batch, contracted, free]`, as MatMul has it."""
    (left, right), out = values, eqn.outvars[0].aval
    (sum_left, sum_right), (batch_left, batch_right) = eqn.params["dimension_numbers"]
    free_left, free_right = _rest(left, sum_left, batch_left), _rest(right, sum_right, batch_right)
    if not batch_left and right.constant is None and left.constant is not None and len(free_left) == 1:
        # the constant matrix goes to the right, so that the other operand keeps its axes together
        swapped = [*range(len(free_left), len(out.shape)), *range(len(free_left))]
        made = _multiplied(g, right, left, sum_right, sum_left, (), (), free_right, free_left, out, swapped)
        return [made]
    order = list(range(len(out.shape)))
    sums, batches = (sum_left, sum_right), (batch_left, batch_right)
    return [_multiplied(g, left, right, *sums, *batches, free_left, free_right, out, order)]


def _rest(x: Value, *taken: Sequence[int]) -> list[int]:
    used = {int(a) for some in taken for a in some}
    return [a for a in range(len(x.shape)) if a not in used]


def _multiplied(
    g: Graph, left: Value, right: Value, sum_left: Sequence[int], sum_right: Sequence[int], batch_left: Sequence[int],
    batch_right: Sequence[int], free_left: Sequence[int], free_right: Sequence[int], out: Any, order: Sequence[int],
) -> Value:  # fmt: skip
    """Return the product; `order[i]` is the axis of the result at place i of batch, free left and free right."""
    a = g.tensor(left, (*batch_left, *free_left, *sum_left))
    b = g.tensor(right, (*batch_right, *sum_right, *free_right))
    plain = len(sum_left) == 1 and len(free_right) == 1 and (len(free_left) == 1 if batch_left else bool(free_left))
    if not plain:
        a = _merged(g, a, left, batch_left, free_left, sum_left)
        b = _merged(g, b, right, batch_right, sum_right, free_right)
    name = g.emit("MatMul", a, b)
    shape = [out.shape[i] for i in order]
    if not plain:
        name = g.emit("Reshape", name, g.target(shape))
    return g.made(name, out, tuple(order))


def _merged(g: Graph, name: str, x: Value, batch: Sequence[int], *groups: Sequence[int]) -> str:
    """Reshape to the batch axes and one axis for each group."""
    sizes = [x.shape[a] for a in batch]
    for group in groups:
        size: Any = 1
        for axis in group:
            size = size * x.shape[axis]
        sizes.append(int(size) if isinstance(size, int | np.integer) else size)
    before = [x.shape[a] for a in (*batch, *groups[0], *groups[1])]
    if len(before) == len(sizes) and all(same(p, q) for p, q in zip(before, sizes, strict=True)):
        return name
    if name in g.constants:
        return g.store(g.constants[name].reshape([n for n in sizes]))
    return g.emit("Reshape", name, g.target(sizes))


RULES: dict[str, Rule] = {"dot_general": _dot_general}
