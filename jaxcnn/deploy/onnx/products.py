"""Products of matrices: dense layers, attention, sums over products."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcnn.deploy.onnx.elementwise import Rule
from jaxcnn.deploy.onnx.graph import Graph, Value, numbers, same

# a factor, the axes to sum over, those of the batch, and the others
Operand = tuple[Value, Sequence[int], Sequence[int], Sequence[int]]


def _dot_general(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    """`[*batch, free, contracted]` times `[*batch, contracted, free]`, as MatMul has it."""
    (left, right), out = values, eqn.outvars[0].aval
    (sum_left, sum_right), (batch_left, batch_right) = eqn.params["dimension_numbers"]
    free_left, free_right = _rest(left, sum_left, batch_left), _rest(right, sum_right, batch_right)
    straight = ((left, sum_left, batch_left, free_left), (right, sum_right, batch_right, free_right))
    turned = straight[1], straight[0]
    batch, first = len(batch_left), len(free_left)
    if _moved(*turned) < _moved(*straight):
        order = [*range(batch), *range(batch + first, len(out.shape)), *range(batch, batch + first)]
        return [_multiplied(g, *turned, out, order)]
    return [_multiplied(g, *straight, out, list(range(len(out.shape))))]


def _moved(left: Operand, right: Operand) -> float:
    """Return how many elements must be moved before a product, the elements of one row for a symbolic batch."""
    total = 0.0
    for (x, sums, batch, free), last in ((left, True), (right, False)):
        wanted = (*batch, *free, *sums) if last else (*batch, *sums, *free)
        if x.constant is not None:  # a matrix is read fastest from the right
            total += 0.5 * last
        elif [a for a in wanted if not same(x.sizes[a], 1)] != [a for a in x.axes if not same(x.sizes[a], 1)]:
            total += numbers(x.shape)
    return total


def _rest(x: Value, *taken: Sequence[int]) -> list[int]:
    used = {int(a) for some in taken for a in some}
    return [a for a in range(len(x.shape)) if a not in used]


def _multiplied(g: Graph, one: Operand, other: Operand, out: Any, order: Sequence[int]) -> Value:
    """Return the product; `order[i]` is the axis of the result at place i of batch, free left and free right."""
    (left, sum_left, batch_left, free_left), (right, sum_right, batch_right, free_right) = one, other
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
