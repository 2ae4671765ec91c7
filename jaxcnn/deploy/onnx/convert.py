"""From a traced function to an ONNX graph, equation by equation."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxcnn import ops
from jaxcnn.core import jaxprs
from jaxcnn.core.types import InputError
from jaxcnn.deploy.onnx import detection, elementwise, indexing, integers, products, reductions, shapes, spatial
from jaxcnn.deploy.onnx.graph import Graph, Value, constant

RULES: dict[str, elementwise.Rule] = {
    **detection.RULES, **elementwise.RULES, **indexing.RULES, **integers.RULES, **products.RULES,
    **reductions.RULES, **shapes.RULES, **spatial.RULES,
}  # fmt: skip
LAZY = {"broadcast_in_dim", "iota", "reshape", "transpose", "squeeze", "expand_dims", "slice", "stop_gradient", "copy"}
LONGEST_LOOP = 512  # steps of a loop that is unrolled


def trace(function: Callable[..., Any], inputs: Mapping[str, Any], outputs: Sequence[str], batch: Any = None) -> Graph:
    """Trace a function and turn it into a graph.

    Args:
        function: from a dict of arrays to a dict of arrays with the names `outputs`.
        inputs: shape and dtype of each array by its name.
        outputs: names of the results, in their order.
        batch: the symbolic dimension of the batch; None if all are numbers.

    Raises:
        InputError: an operation of the program has no form in ONNX.

    """
    names = list(inputs)
    with ops.native_lowering(), ops.whole_operations():
        closed = jax.make_jaxpr(lambda *arrays: [function(dict(zip(names, arrays, strict=True)))[n] for n in outputs])(
            *inputs.values()
        )
    lacking = sorted(_unknown(closed))
    if lacking:
        raise InputError(f"{', '.join(lacking)}: no form in ONNX here; change the model, or export it to stablehlo")
    g = Graph()
    g.batch = batch
    for name, aval in inputs.items():
        value = g.made(name, aval)
        g.inputs.append((name, value))
    found = convert(g, closed, [value for _, value in g.inputs])
    for name, value in zip(outputs, found, strict=True):
        g.nodes.append(_output(g, name, value))
        g.outputs.append(name)
        g.results[name], g.shapes[name] = value, value.shape
    return g


def _output(g: Graph, name: str, value: Value) -> Any:
    g.emit("Identity", g.tensor(value))
    node = g.nodes.pop()
    if node.op != "Identity":
        raise AssertionError("an identity is always a node of its own")
    node.outputs = [name]
    g._known.pop(("Identity", (node.inputs[0],), 1, "[]"), None)
    return node


def _unknown(traced: Any) -> set[str]:
    """Return the primitives without a rule, other than those that are computed when the graph is made."""
    found: set[str] = set()

    def rule(eqn: Any, known: list[bool]) -> list[bool]:
        inner = jaxprs.called(eqn)
        if inner is not None:
            return jaxprs.walk(inner, known, rule, lambda _: True)
        fixed = all(known) and bool(known)
        if not fixed and eqn.primitive.name not in (*RULES, "scan"):
            found.add(eqn.primitive.name)
        if eqn.primitive.name == "scan" and not fixed:
            jaxprs.walk(eqn.params["jaxpr"], [False] * len(known), rule, lambda _: True)
        return [fixed] * len(eqn.outvars)

    jaxprs.walk(traced, [False] * len(traced.jaxpr.invars), rule, lambda _: True)
    return found


def convert(g: Graph, traced: Any, values: Sequence[Value]) -> list[Value]:
    """Append what a jaxpr computes to a graph, and return the values of its results."""

    def rule(eqn: Any, known: list[Value]) -> list[Value]:
        inner = jaxprs.called(eqn)
        if inner is not None:
            return convert(g, inner, known)
        name = eqn.primitive.name
        if known and name not in LAZY and all(v.constant is not None for v in known):
            folded = _computed(eqn, known)
            if folded is not None:
                return folded
        if name == "scan":
            return _unrolled(g, eqn, known)
        return RULES[name](g, eqn, known)

    return jaxprs.walk(traced, values, rule, _constant)


def _constant(array: Any) -> Value:
    array = np.asarray(array)
    return constant(array.astype(jax.dtypes.canonicalize_dtype(array.dtype)))  # Python's numbers have 64 bits


def _computed(eqn: Any, values: Sequence[Value]) -> list[Value] | None:
    """Compute an equation of constants; None if its shapes are symbolic and it does not act on each element."""
    alike = eqn.primitive.name in elementwise.RULES
    arrays = [v.constant for v in values if v.constant is not None]
    sizes = [x.shape for x in arrays]
    if not all(isinstance(n, int) for v in eqn.outvars for n in v.aval.shape) and not alike:
        return None
    if alike:
        full = np.broadcast_shapes(*(s for s in sizes if s)) if any(sizes) else ()
        arrays = [np.broadcast_to(a, full) if np.ndim(a) else a for a in arrays]
    else:
        arrays = [np.broadcast_to(x, v.shape) for x, v in zip(arrays, values, strict=True)]
    with jax.ensure_compile_time_eval(), ops.native_lowering():
        out = eqn.primitive.bind(*arrays, **eqn.primitive.get_bind_params(eqn.params))
    found = out if eqn.primitive.multiple_results else [out]
    return [constant(np.asarray(a), v.aval.shape) for a, v in zip(found, eqn.outvars, strict=True)]


def _unrolled(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    """Repeat the body of a loop of known length."""
    p = eqn.params
    length, consts, carried, body = p["length"], p["num_consts"], p["num_carry"], p["jaxpr"]
    if not isinstance(length, int) or length > LONGEST_LOOP:
        raise InputError(f"scan over {length} steps has no form here; {LONGEST_LOOP} at most")
    fixed, carry, rows = values[:consts], values[consts : consts + carried], values[consts + carried :]
    steps = range(length - 1, -1, -1) if p["reverse"] else range(length)
    made: list[list[Value]] = []
    for i in steps:
        out = convert(g, body, [*fixed, *carry, *(_row(g, x, i) for x in rows)])
        carry = out[:carried]
        made.append(out[carried:])
    if p["reverse"]:
        made.reverse()
    stacked = []
    for k, v in enumerate(eqn.outvars[carried:]):
        names = [g.emit("Unsqueeze", g.tensor(step[k]), g.store([0], np.int64)) for step in made]
        stacked.append(g.made(g.emit("Concat", *names, axis=0), v.aval))
    return [*carry, *stacked]


def _row(g: Graph, x: Value, i: int) -> Value:
    like = type("Like", (), {"shape": (1, *x.shape[1:]), "dtype": x.dtype})
    starts, ends = [i, *[0] * (len(x.shape) - 1)], [i + 1, *x.shape[1:]]
    piece = shapes.cut(g, x, like, starts, ends, [1] * len(x.shape))
    return shapes.squeezed(g, piece, [0], type("Like", (), {"shape": x.shape[1:], "dtype": x.dtype}))


def nearest(name: str, names: Sequence[str]) -> str:
    """Return a hint for a name that does not exist."""
    near = difflib.get_close_matches(name, names, 1, 0.4)
    return f"did you mean {near[0]!r}?" if near else f"must be one of {', '.join(names)}"
