"""Which arrays of a network are rounded when it runs in 8-bit integers: what convolutions read and make.

A runtime computes a convolution in integers if its input, its kernel and its result are integers. Its result is rounded
behind the norm and the activation where these can be part of the convolution (no activation, ReLU, ReLU6), otherwise in
front of the activation.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jaxcnn import ops
from jaxcnn.core import jaxprs
from jaxcnn.core.types import Batch, Tree
from jaxcnn.layers.calls import CONVS, KERNELS, Call, Path, changed_calls

READ, MADE = "read: ", "made: "
SAME = ("copy", "convert_element_type", "expand_dims", "reduce_window_max", "reshape", "squeeze", "transpose")
SUMS = ("add", "add_any", "div", "mul", "sub")  # with a constant, part of the convolution before


class Points(NamedTuple):
    """Where arrays are rounded.

    Attributes:
        made: paths of the modules whose results are rounded.
        read: path of each module with a kernel to the module in `made` whose grid its input has, or None for a grid of
            its own.

    """

    made: frozenset[Path]
    read: dict[Path, Path | None]


def find(predict: Callable[[Tree, Batch], Any], variables: Tree, batch: Batch) -> Points:
    """Find out where the arrays of a program are rounded.

    Args:
        predict: `(variables, batch) -> outputs`, which calls Linen modules; those inside a loop are left out.
        variables: its variables; only shapes and dtypes are used.
        batch: its inputs, likewise.

    """
    reads, convs = _graph(predict, variables, batch)
    made = {_at_end(conv) for conv in convs if any(node.op == READ for node in _after(conv))}  # a last one stays exact
    sources = [_source(read) for read in reads]
    made |= {mark for mark in sources if mark is not None and len(mark.readers) > 1}  # a block's, for its readers
    paths = {node.path for node in made if node.op == MADE}
    found: dict[Path, Path | None] = {}
    for read, mark in zip(reads, sources, strict=True):
        mark = mark if mark in made else None
        found[read.path] = None if mark is None or found.get(read.path, mark.path) != mark.path else mark.path
    return Points(frozenset(paths), found)


@dataclasses.dataclass(eq=False)
class _Node:
    """A value of a traced program: what makes it, and who reads it."""

    op: str
    operands: Sequence["_Node"] = ()
    fixed: bool = False  # a function of the variables alone
    path: Path = ()
    value: Any = None
    readers: list["_Node"] = dataclasses.field(default_factory=list)


def watched(change: Callable[[jax.Array, str, Call], jax.Array]) -> Any:
    """Return a context in which a function may change what modules with kernels read, and what all modules make.

    Args:
        change: `(array, READ or MADE, call of the module) -> array`.

    """

    def both(call: Call) -> Any:
        arguments = call.arguments
        if call.method != "__call__" or not arguments or not _is_float(arguments[0]):
            return call.run(*arguments, **call.keywords)
        if isinstance(call.module, KERNELS):
            arguments = (change(arguments[0], READ, call), *arguments[1:])
        y = call.run(*arguments, **call.keywords)
        return change(y, MADE, call) if _is_float(y) else y

    return changed_calls(both)


def _is_float(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray) and jnp.issubdtype(x.dtype, jnp.floating)


def _graph(predict: Any, variables: Tree, batch: Batch) -> tuple[list[_Node], list[_Node]]:
    """Return the nodes of what modules with kernels read, and of what convolutions make."""
    kinds: dict[Path, bool] = {}

    def named(x: jax.Array, kind: str, call: Call) -> jax.Array:
        kinds[call.path] = isinstance(call.module, CONVS)
        return checkpoint_name(x, kind + "/".join(call.path))

    with watched(named), ops.native_lowering():
        traced = jax.make_jaxpr(predict)(*jax.tree.map(_shape, (variables, dict(batch))))
    marks: list[_Node] = []

    def rule(eqn: Any, known: list[_Node]) -> list[_Node]:
        inner = jaxprs.called(eqn)
        if inner is not None:
            return jaxprs.walk(inner, known, rule, _constant)
        node = _Node(eqn.primitive.name, known, all(x.fixed for x in known))
        name = eqn.params.get("name", "") if node.op == "name" else ""
        for kind in (READ, MADE):
            if name.startswith(kind):
                node.op, node.path = kind, tuple(part for part in name.removeprefix(kind).split("/") if part)
                marks.append(node)
        for x in known:
            x.readers.append(node)
        return [node] * len(eqn.outvars)

    held = len(jax.tree.leaves(variables))
    inputs = [_Node("input", fixed=i < held) for i in range(len(traced.jaxpr.invars))]
    outputs = jaxprs.walk(traced, inputs, rule, _constant)
    for node in outputs:
        node.readers.append(_Node("output", [node]))
    reads = [node for node in marks if node.op == READ]
    return reads, [node for node in marks if node.op == MADE and kinds.get(node.path)]


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(x), x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype)


def _constant(value: Any) -> _Node:
    return _Node("constant", fixed=True, value=value)


def _at_end(conv: _Node) -> _Node:
    """Follow the result of a convolution through norm and activation to the last mark; names alone do not move it."""
    best, node, changed = conv, conv, False
    while len(node.readers) == 1:
        node = node.readers[0]
        if node.op in (READ, MADE):
            best, changed = (node, False) if changed else (best, changed)
        elif node.op in SAME or _with_constant(node):
            changed = True
        else:
            break
    return best


def _with_constant(node: _Node) -> bool:
    """Whether a node is a sum or product with something fixed, or a ReLU or ReLU6."""
    if len(node.operands) != 2 or sum(x.fixed for x in node.operands) != 1:
        return False
    (other,) = (x for x in node.operands if x.fixed)
    if node.op == "max":
        return other.value is not None and not np.any(np.asarray(other.value))
    return node.op in SUMS or (node.op == "min" and other.value is not None)


def _source(read: _Node) -> _Node | None:
    """Return the first mark of the value that a module reads, or that only places of it are taken from."""
    node, best = read.operands[0], None
    while node.op in (*SAME, READ, MADE):
        if node.op == MADE:
            best = node
        elif node.op != READ and best is not None:
            break
        node = node.operands[0]
    return best


def _after(start: _Node) -> Iterator[_Node]:
    """Yield all nodes that depend on one."""
    seen, left = {id(start)}, [start]
    while left:
        for node in left.pop().readers:
            if id(node) not in seen:
                seen.add(id(node))
                left.append(node)
                yield node
