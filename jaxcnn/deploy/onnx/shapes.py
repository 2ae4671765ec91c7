"""Operations that move elements: reshapes, slices, padding, joining; most reorderings of axes cost nothing here."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcnn.core.types import InputError
from jaxcnn.deploy.onnx.elementwise import Rule, common_axes
from jaxcnn.deploy.onnx.graph import Axes, Graph, Value, constant, same


def _broadcast(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    """Axes are inserted with size 1; nothing is repeated before an operation needs it."""
    (x,), out, places = values, eqn.outvars[0].aval, eqn.params["broadcast_dimensions"]
    sizes: list[Any] = [1] * len(out.shape)
    for axis, place in enumerate(places):
        sizes[place] = x.sizes[axis]
    if x.constant is not None:
        return [constant(x.constant.reshape(sizes), out.shape)]
    return [inserted(g, x, out, [int(a) for a in places], sizes)]


def inserted(g: Graph, x: Value, out: Any, places: Sequence[int], sizes: Sequence[Any]) -> Value:
    """Return a value with axes of size 1 between its own, which go to `places`."""
    if x.name in g.reduced:
        node, order, gone = g.reduced[x.name]
        if len(order) == len(out.shape) and list(places) == [a for a in range(len(order)) if a not in gone]:
            kept = g.emit(node.op, *node.inputs, **{**node.attributes, "keepdims": 1})
            return g.made(kept, out, order, sizes)
    return with_ones(g, x, out, [places[a] for a in x.axes], sizes)


def with_ones(g: Graph, x: Value, out: Any, order: Sequence[int], sizes: Sequence[Any]) -> Value:
    """Insert axes of size 1 into a value whose own axes become `order`, where the result is in JAX's order, or last."""
    rank = len(out.shape)
    if len(order) == rank:
        return g.made(x.name, out, tuple(order), sizes)
    new = [a for a in range(rank) if a not in order]
    # beside the axes of an image in the order of ONNX, else where JAX has them
    axes = sorted([*order, *new]) if list(order) == sorted(order) and len(order) != 2 else [*order, *new]
    places = [i for i, a in enumerate(axes) if a in new]
    name = g.emit("Unsqueeze", x.name, g.store(places, np.int64))
    return g.made(name, out, tuple(axes), sizes)


def _groups(before: Sequence[Any], after: Sequence[Any]) -> list[tuple[list[int], list[int]]] | None:
    """Split two shapes of equally many elements into the shortest runs of axes with equal products."""
    found, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        left, right = [i] if i < len(before) else [], [j] if j < len(after) else []
        i, j = i + len(left), j + len(right)
        while not same(_product(before, left), _product(after, right)):
            a, b = _product(before, left), _product(after, right)
            try:
                more_left = bool(a < b)
            except Exception:  # symbolic dimensions that cannot be compared
                return None
            if more_left and i < len(before):
                left, i = [*left, i], i + 1
            elif not more_left and j < len(after):
                right, j = [*right, j], j + 1
            else:
                return None
        found.append((left, right))
    return found


def _product(sizes: Sequence[Any], axes: Sequence[int]) -> Any:
    out: Any = 1
    for axis in axes:
        out = out * sizes[axis]
    return int(out) if isinstance(out, int | np.integer) else out


def _reshape(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    return [reshaped(g, values[0], eqn.outvars[0].aval)]


def reshaped(g: Graph, x: Value, out: Any) -> Value:
    """Return a value in another shape; where runs of axes lie together, they keep their order in the graph."""
    groups = _groups(x.shape, out.shape)
    if groups is not None and all(
        same(x.sizes[a], x.shape[a]) or len(left) == len(right) == 1 for left, right in groups for a in left
    ):
        kept = _in_place(g, x, out, groups)
        if kept is not None:
            return kept
    if x.constant is not None and all(isinstance(n, int) for n in (*x.shape, *out.shape)):
        return constant(np.broadcast_to(x.constant, x.shape).reshape(out.shape))
    return g.made(g.emit("Reshape", g.tensor(x), g.target(out.shape)), out)


def _in_place(g: Graph, x: Value, out: Any, groups: list[tuple[list[int], list[int]]]) -> Value | None:
    sizes: list[Any] = [1] * len(out.shape)
    for left, right in groups:
        for a in right:
            sizes[a] = x.sizes[left[0]] if len(left) == len(right) == 1 else out.shape[a]
    if x.constant is not None:
        return constant(x.constant.reshape(sizes), out.shape)
    order = {a: i for i, a in enumerate(x.axes)}
    for left, _ in groups:
        long = [order[a] for a in left if not same(x.sizes[a], 1)]
        if long and long != list(range(long[0], long[0] + len(long))):
            return None

    # the place of a group is that of its first long axis; groups of ones keep theirs, new ones go last
    def place(group: tuple[list[int], list[int]]) -> float:
        long = [order[a] for a in group[0] if not same(x.sizes[a], 1)]
        return min(long or [order[a] for a in group[0]] or [len(order)])

    axes = tuple(a for group in sorted(groups, key=place) for a in group[1])
    target = [sizes[a] for a in axes]
    if sum(not isinstance(n, int) for n in target) > 1:
        return None
    if [x.sizes[a] for a in x.axes] == target:
        return g.made(x.name, out, axes, sizes)
    return g.made(g.emit("Reshape", x.name, g.target(target)), out, axes, sizes)


def _transpose(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    return [transposed(values[0], eqn.params["permutation"], eqn.outvars[0].aval)]


def transposed(x: Value, permutation: Sequence[int], out: Any) -> Value:
    """Return a value with its axes in another order, which moves no element."""
    moved = {int(a): i for i, a in enumerate(permutation)}
    sizes = tuple(x.sizes[a] for a in permutation)
    if x.constant is not None:
        return constant(x.constant.transpose([int(a) for a in permutation]), out.shape)
    return Value(tuple(out.shape), np.dtype(out.dtype), x.name, tuple(moved[a] for a in x.axes), sizes)


def _squeeze(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    return [squeezed(g, values[0], eqn.params["dimensions"], eqn.outvars[0].aval)]


def squeezed(g: Graph, x: Value, dimensions: Sequence[int], out: Any) -> Value:
    """Drop axes of size 1."""
    dropped = {int(d) % len(x.shape) for d in dimensions}
    kept = [a for a in range(len(x.shape)) if a not in dropped]
    sizes = [x.sizes[a] for a in kept]
    if x.constant is not None:
        return constant(x.constant.reshape(sizes), out.shape)
    if not dropped:
        return x
    places = [i for i, a in enumerate(x.axes) if a in dropped]
    axes = tuple(kept.index(a) for a in x.axes if a in kept)
    return g.made(g.emit("Squeeze", x.name, g.store(places, np.int64)), out, axes, sizes)


def _expand_dims(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    (x,), out = values, eqn.outvars[0].aval
    new = {int(d) % len(out.shape) for d in eqn.params["dimensions"]}
    places = [a for a in range(len(out.shape)) if a not in new]
    sizes: list[Any] = [1] * len(out.shape)
    for axis, at in enumerate(places):
        sizes[at] = x.sizes[axis]
    if x.constant is not None:
        return [constant(x.constant.reshape(sizes), out.shape)]
    return [inserted(g, x, out, places, sizes)]


def laid(x: Value, rank: int) -> Axes:
    """Return the order of axes in which a value already lies."""
    return x.axes if x.constant is None else tuple(range(rank))


def cut(g: Graph, x: Value, out: Any, starts: Sequence[Any], ends: Sequence[Any], steps: Sequence[int]) -> Value:
    """Take a slice; an axis that is taken whole may be symbolic."""
    axes = [
        a
        for a, n in enumerate(x.shape)
        if not (same(starts[a], 0) and same(ends[a], n) and steps[a] == 1) and not same(x.sizes[a], 1)
    ]
    sizes = tuple(1 if same(x.sizes[a], 1) else out.shape[a] for a in range(len(x.shape)))
    if x.constant is not None:
        index = tuple(
            slice(starts[a], ends[a] if ends[a] >= 0 else None, steps[a]) if a in axes else slice(None)
            for a in range(len(x.shape))
        )
        return constant(x.constant[index], out.shape)
    if not axes:
        return Value(tuple(out.shape), np.dtype(out.dtype), x.name, x.axes, sizes)
    places = [x.axes.index(a) for a in axes]
    bounds = [g.store([_bound(limit[a], x.shape[a]) for a in axes], np.int64) for limit in (starts, ends)]
    name = g.emit("Slice", x.name, *bounds, g.store(places, np.int64), g.store([steps[a] for a in axes], np.int64))
    return g.made(name, out, x.axes, sizes)


def _bound(limit: Any, size: Any) -> int:
    """Return a bound of a slice as ONNX takes it: one that depends on the batch is counted from the end."""
    if isinstance(limit, int | np.integer):
        return int(limit)
    left = limit - size
    if not isinstance(left, int):
        raise InputError(f"a slice at {limit} has no form here; export with a fixed batch")
    return left if left else np.iinfo(np.int64).max


def _slice(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    p, (x,) = eqn.params, values
    steps = p["strides"] or (1,) * len(x.shape)
    return [cut(g, x, eqn.outvars[0].aval, p["start_indices"], p["limit_indices"], steps)]


def _dynamic_slice(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    x, *starts = values
    if any(s.constant is None for s in starts):
        raise InputError("dynamic_slice at computed places has no form here; use places that are known")
    sizes = eqn.params["slice_sizes"]
    first = [0 if same(n, m) else min(max(int(s.constant), 0), n - m)  # pyright: ignore[reportArgumentType]
             for s, n, m in zip(starts, x.shape, sizes, strict=True)]  # fmt: skip
    ends = [n if same(n, m) else a + m for a, n, m in zip(first, x.shape, sizes, strict=True)]
    return [cut(g, x, eqn.outvars[0].aval, first, ends, [1] * len(first))]


def _rev(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    (x,), turned = values, {int(d) for d in eqn.params["dimensions"]}
    out = eqn.outvars[0].aval
    if x.constant is not None:
        return [constant(np.flip(x.constant, tuple(d for d in turned if x.constant.shape[d] > 1)), out.shape)]
    starts = [-1 if a in turned else 0 for a in range(len(x.shape))]
    ends = [np.iinfo(np.int64).min if a in turned else n for a, n in enumerate(x.shape)]
    return [cut(g, x, out, starts, ends, [-1 if a in turned else 1 for a in range(len(x.shape))])]


def _split(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    (x,), axis, start, found = values, eqn.params["axis"], 0, []
    for size, out in zip(eqn.params["sizes"], eqn.outvars, strict=True):
        starts = [start if a == axis else 0 for a in range(len(x.shape))]
        ends = [start + size if a == axis else n for a, n in enumerate(x.shape)]
        found.append(cut(g, x, out.aval, starts, ends, [1] * len(x.shape)))
        start += size
    return found


def _concatenate(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    return [joined(g, values, eqn.params["dimension"], eqn.outvars[0].aval)]


def joined(g: Graph, values: Sequence[Value], axis: int, out: Any) -> Value:
    """Put values one after another along an axis; those without elements are left out, which ONNX may not hold."""
    kept = [v for v in values if not any(same(n, 0) for n in v.shape)] or list(values[:1])
    if len(kept) == 1:
        return kept[0]
    values = kept
    axes = common_axes(values, len(out.shape))
    names = [g.tensor(v, axes) for v in values]
    return g.made(g.emit("Concat", *names, axis=axes.index(axis)), out, axes)


def _stack(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    out, axis = eqn.outvars[0].aval, eqn.params["axis"]
    places = [a for a in range(len(out.shape)) if a != axis]
    order = [places[a] for a in common_axes(values, len(places))]
    at = sum(1 for a in order if a < axis) if order == sorted(order) else len(order)
    axes = (*order[:at], axis, *order[at:])
    back = tuple(places.index(a) for a in order)
    names = [g.emit("Unsqueeze", g.tensor(v, back), g.store([at], np.int64)) for v in values]
    return [g.made(g.emit("Concat", *names, axis=at), out, axes)]


def _pad(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    (x, fill), config, out = values, eqn.params["padding_config"], eqn.outvars[0].aval
    if any(inner for _, _, inner in config):
        raise InputError("pad with zeros between elements has no form here; use a transposed convolution")
    if any(low < 0 or high < 0 for low, high, _ in config):
        cropped = [max(-low, 0) for low, _, _ in config]
        ends = [n if high >= 0 else n + high for n, (_, high, _) in zip(x.shape, config, strict=True)]
        inner = _Like(tuple(e - s for s, e in zip(cropped, ends, strict=True)), x.dtype)
        x = cut(g, x, inner, cropped, ends, [1] * len(x.shape))
    pads = [(max(low, 0), max(high, 0)) for low, high, _ in config]
    if not any(map(any, pads)):
        return [x]
    axes = laid(x, len(x.shape))
    both = [pads[a][0] for a in axes] + [pads[a][1] for a in axes]
    name = g.emit("Pad", g.tensor(x, axes), g.store(both, np.int64), g.tensor(fill), mode="constant")
    return [g.made(name, out, axes)]


class _Like:
    """A shape and a dtype."""

    def __init__(self, shape: Sequence[Any], dtype: Any) -> None:
        self.shape, self.dtype = tuple(shape), dtype


def _iota(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    shape, axis = eqn.outvars[0].aval.shape, eqn.params["dimension"]
    if not isinstance(shape[axis], int):
        raise InputError("numbers along the batch have no form here; export with a fixed batch")
    numbers = np.arange(shape[axis], dtype=eqn.params["dtype"])
    return [constant(numbers.reshape([-1 if a == axis else 1 for a in range(len(shape))]), shape)]


RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast, "concatenate": _concatenate, "dynamic_slice": _dynamic_slice,
    "expand_dims": _expand_dims, "iota": _iota, "pad": _pad, "reshape": _reshape, "rev": _rev, "slice": _slice,
    "split": _split, "squeeze": _squeeze, "stack": _stack, "transpose": _transpose,
}  # fmt: skip
