"""Sums and maxima along axes, the places of maxima, the best few, and values in order."""

from typing import Any

import numpy as np

from jaxcnn.core.types import InputError
from jaxcnn.deploy.onnx.elementwise import Rule, element_type
from jaxcnn.deploy.onnx.graph import Graph, Value
from jaxcnn.deploy.onnx.shapes import laid


def _reduce(op: str) -> Rule:
    def rule(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
        (x,), out = values, eqn.outvars[0].aval
        return [reduced(g, op, x, [int(a) for a in eqn.params["axes"]], out)]

    return rule


def reduced(g: Graph, op: str, x: Value, axes: list[int], out: Any) -> Value:
    """Reduce a value along axes of JAX."""
    kept = [a for a in range(len(x.shape)) if a not in axes]
    order = laid(x, len(x.shape))
    name, places = g.tensor(x, order, whole=axes), [i for i, a in enumerate(order) if a in axes]
    if op == "ReduceSum":
        made = g.emit(op, name, g.store(places, np.int64), keepdims=0)
    else:
        made = g.emit(op, name, axes=places, keepdims=0)
    g.reduced[made] = g.node(made), order, axes
    return g.made(made, out, tuple(kept.index(a) for a in order if a in kept), [x.sizes[a] for a in kept])


def _logical(op: str) -> Rule:
    def rule(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
        (x,), out = values, eqn.outvars[0].aval
        order = laid(x, len(x.shape))
        cast = g.emit("Cast", g.tensor(x, order, whole=False), to=element_type(np.int32))
        numbers = Value(x.shape, np.dtype(np.int32), cast, order, x.sizes)
        found = reduced(g, op, numbers, [int(a) for a in eqn.params["axes"]], out)
        name = g.emit("Cast", found.name, to=element_type(bool))
        return [g.made(name, out, found.axes, found.sizes)]

    return rule


def _place(op: str) -> Rule:
    def rule(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
        (x,), out, (axis,) = values, eqn.outvars[0].aval, eqn.params["axes"]
        order = laid(x, len(x.shape))
        found = g.emit(op, g.tensor(x, order), axis=order.index(axis), keepdims=0)
        name = g.emit("Cast", found, to=element_type(out.dtype))
        kept = [a for a in range(len(x.shape)) if a != axis]
        return [g.made(name, out, tuple(kept.index(a) for a in order if a != axis))]

    return rule


def _top_k(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    (x,), (best, index) = values, (v.aval for v in eqn.outvars)
    count = g.store([eqn.params["k"]], np.int64)
    found, places = g.several("TopK", g.tensor(x), count, outputs=2, axis=-1, largest=1, sorted=1)
    return [g.made(found, best), g.made(g.emit("Cast", places, to=element_type(index.dtype)), index)]


def _sort(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    """Sort one array, ascending, as the least K of K values."""
    axis, out = int(eqn.params["dimension"]), eqn.outvars[0].aval
    if len(values) > 1:
        raise InputError("sort of several arrays at once (argsort) has no form here; use top_k")
    if not isinstance(out.shape[axis], int):
        raise InputError("sort along the batch has no form here; export with a fixed batch")
    order = laid(values[0], len(out.shape))
    count = g.store([out.shape[axis]], np.int64)
    found, _ = g.several(
        "TopK", g.tensor(values[0], order), count, outputs=2, axis=order.index(axis), largest=0, sorted=1
    )
    return [g.made(found, out, order)]


def _cumsum(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    (x,), order = values, laid(values[0], len(values[0].shape))
    axis = g.store(np.int64(order.index(eqn.params["axis"])))
    name = g.emit("CumSum", g.tensor(x, order), axis, reverse=int(eqn.params["reverse"]))
    return [g.made(name, eqn.outvars[0].aval, order)]


RULES: dict[str, Rule] = {
    "argmax": _place("ArgMax"), "argmin": _place("ArgMin"), "cumsum": _cumsum, "reduce_and": _logical("ReduceMin"),
    "reduce_max": _reduce("ReduceMax"), "reduce_min": _reduce("ReduceMin"), "reduce_or": _logical("ReduceMax"),
    "reduce_prod": _reduce("ReduceProd"), "reduce_sum": _reduce("ReduceSum"), "sort": _sort,
    "top_k": _top_k,
}  # fmt: skip
