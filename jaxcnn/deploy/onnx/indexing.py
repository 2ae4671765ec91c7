"""Gathering elements at known or computed places."""

from typing import Any

import numpy as np

from jaxcnn.core.types import InputError
from jaxcnn.deploy.onnx.elementwise import Rule
from jaxcnn.deploy.onnx.graph import Graph, Value, same
from jaxcnn.deploy.onnx.shapes import cut, laid, reshaped, transposed


def _gather(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    (x, index), out, p = values, eqn.outvars[0].aval, eqn.params
    d, sizes = p["dimension_numbers"], p["slice_sizes"]
    if index.constant is not None and len(index.constant.reshape(-1)) == len(d.start_index_map) and not (
        d.operand_batching_dims
    ):  # fmt: skip
        return [_one_slice(g, x, index, out, d, sizes)]
    grid = _grid(x, index, d, sizes)
    if grid is not None:
        return [_strided(g, x, grid, out, d)]
    whole = [a for a in range(len(x.shape)) if same(sizes[a], x.shape[a]) and a not in d.start_index_map]
    picked = [int(a) for a in d.start_index_map]
    if any(int(sizes[a]) != 1 for a in picked) or len(whole) + len(picked) + len(d.operand_batching_dims) != len(
        x.shape
    ):  # fmt: skip
        raise InputError("gather of slices at computed places has no form here; take single elements or whole axes")
    index = _inside(g, index, [x.shape[a] for a in picked]) if "CLIP" in str(p["mode"]) else index
    kept = [a for a in whole if a not in d.operand_batching_dims]
    before = tuple(a for a in range(len(out.shape)) if a not in d.offset_dims)  # axes of the result from the indices
    if len(picked) == 1 and not d.operand_batching_dims:
        return [_along(g, x, index, out, picked[0], before, d)]
    outer = [a for a in d.start_indices_batching_dims]
    inner = [a for a in range(len(index.shape) - 1) if a not in outer]
    data = g.tensor(x, (*d.operand_batching_dims, *picked, *kept))
    places = g.emit("Cast", g.tensor(index, (*outer, *inner, len(index.shape) - 1)), to=7)  # int64
    name = g.emit("GatherND", data, places, batch_dims=len(outer))
    return [_placed(g, name, out, [before[a] for a in (*outer, *inner)], len(picked), d)]


def _placed(g: Graph, name: str, out: Any, first: list[int], picked: int, d: Any) -> Value:
    """Return the result of GatherND, whose axes are those of the indices, then those that are taken whole."""
    rest = [int(a) for a in d.offset_dims]
    ones = len(rest) + len(first) - len(out.shape)
    if ones == 0 and len(d.collapsed_slice_dims) < picked:  # axes of size 1 that JAX keeps
        raise InputError("gather that keeps axes of size 1 has no form here")
    return g.made(name, out, (*first, *rest))


def _one_slice(g: Graph, x: Value, index: Value, out: Any, d: Any, sizes: Any) -> Value:
    """Take one slice at a known place."""
    found = dict(zip(d.start_index_map, np.asarray(index.constant).reshape(-1).tolist(), strict=True))
    starts: list[Any] = [0] * len(x.shape)
    for axis, place in found.items():
        if not isinstance(x.shape[axis], int):
            if int(place) or not (same(sizes[axis], x.shape[axis]) or same(sizes[axis], 1)):
                raise InputError("gather along the batch has no form here; export with a fixed batch")
            continue
        starts[axis] = min(max(int(place), 0), x.shape[axis] - int(sizes[axis]))
    ends = [n if same(m, n) else a + m for a, n, m in zip(starts, x.shape, sizes, strict=True)]
    like = type("Like", (), {"shape": tuple(sizes), "dtype": x.dtype})
    piece = cut(g, x, like, starts, ends, [1] * len(starts))
    return reshaped(g, piece, out)  # drops the axes of the index


def _grid(x: Value, index: Value, d: Any, sizes: Any) -> dict[int, np.ndarray] | None:
    """Return the places along each axis, where known indices are a grid with equal steps and its axes stay in order."""
    if index.constant is None or d.operand_batching_dims or any(int(sizes[a]) != 1 for a in d.start_index_map):
        return None
    places = np.broadcast_to(index.constant, index.shape)
    picked = [int(a) for a in d.start_index_map]
    if len(index.shape) - 1 != len(picked) or picked != sorted(picked) or list(d.collapsed_slice_dims) != picked:
        return None
    found = {}
    for k, axis in enumerate(picked):
        along = places[..., k]
        row = np.moveaxis(along, k, 0).reshape(along.shape[k], -1)[:, 0]
        shape = [-1 if i == k else 1 for i in range(len(picked))]
        steps = np.diff(row)
        same_everywhere = (along == row.reshape(shape)).all()
        if not same_everywhere or row.min() < 0 or row.max() >= x.shape[axis]:
            return None
        if len(steps) and (steps.min() < 1 or steps.min() != steps.max()):
            return None
        found[axis] = row
    return found


def _strided(g: Graph, x: Value, grid: dict[int, np.ndarray], out: Any, d: Any) -> Value:
    """Take a grid of places as a slice with steps."""
    rank, before = len(x.shape), [a for a in range(len(out.shape)) if a not in d.offset_dims]
    starts, ends, steps, shape = [0] * rank, list(x.shape), [1] * rank, list(x.shape)
    for axis, row in grid.items():
        starts[axis], ends[axis] = int(row[0]), int(row[-1]) + 1
        steps[axis], shape[axis] = int(row[1] - row[0]) if len(row) > 1 else 1, len(row)
    like = type("Like", (), {"shape": tuple(shape), "dtype": x.dtype})
    piece = cut(g, x, like, starts, ends, steps)
    rest = iter(d.offset_dims)
    to = [before[list(grid).index(a)] if a in grid else int(next(rest)) for a in range(rank)]
    return transposed(piece, [to.index(a) for a in range(rank)], out)


def _inside(g: Graph, index: Value, sizes: list[Any]) -> Value:
    top = np.asarray([n - 1 for n in sizes], index.dtype)
    name = g.emit("Max", g.tensor(index), g.store(np.zeros((), index.dtype)))
    name = g.emit("Min", name, g.store(top))
    return Value(index.shape, index.dtype, name, tuple(range(len(index.shape))), index.shape)


def _along(g: Graph, x: Value, index: Value, out: Any, axis: int, before: Any, d: Any) -> Value:
    """Take whole slices along one axis, as `jnp.take` does."""
    order = laid(x, len(x.shape))
    rank = len(index.shape) - 1
    places = g.emit("Squeeze", g.tensor(index), g.store([rank], np.int64))
    name = g.emit("Gather", g.tensor(x, order), places, axis=order.index(axis))
    offset = dict(zip([a for a in range(len(x.shape)) if a != axis], d.offset_dims, strict=True))
    axes: list[int] = []
    for a in order:
        axes += list(before) if a == axis else [offset[a]]
    return g.made(name, out, tuple(axes))


RULES: dict[str, Rule] = {"gather": _gather}
