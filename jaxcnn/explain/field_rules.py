"""How each operation moves receptive fields: which places of the image its results depend on, from its operands'."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple


class Reach(NamedTuple):
    """Which places along one axis of the image an array depends on.

    With an `axis`, index `i` of that axis of the array depends on the places from `jump * i + low` to `jump * i +
    high`, some of which may lie outside the image. With `axis=None` every element may depend on all places from `low`
    to `high`.
    """

    axis: int | None
    jump: Fraction | int
    low: Fraction | int
    high: Fraction | int


Field = tuple[Reach, ...] | None  # one for each spatial axis of the image; None: does not depend on the image


# Rules: (equation, fields of its operands, at least one of them a field) -> fields of its results.


def untied(field: Field, shape: Sequence[int]) -> Field:
    """Let every element of an array of this shape depend on all that any of its elements depends on."""
    return field and tuple(_loose(r, shape) for r in field)


def _loose(r: Reach, shape: Sequence[int]) -> Reach:
    return r if r.axis is None else Reach(None, 0, r.low, r.high + r.jump * max(shape[r.axis] - 1, 0))


def joined(fields: Sequence[Field], shape: Sequence[int]) -> Field:
    """Return what an element depends on that is computed from the elements at its place in arrays of this shape."""
    some = [field for field in fields if field is not None]
    return tuple(_hull(reaches, shape) for reaches in zip(*some, strict=True)) if some else None


def _hull(reaches: Sequence[Reach], shape: Sequence[int]) -> Reach:
    first = reaches[0]
    if len({r.axis for r in reaches}) > 1:
        reaches = [_loose(r, shape) for r in reaches]
    elif first.axis is not None and len({r.jump for r in reaches}) > 1:
        # both ends stay inside if they do at both ends of the axis
        last = shape[first.axis] - 1

        def drift(r):
            return (r.jump - first.jump) * last

        reaches = [Reach(first.axis, first.jump, r.low + min(0, drift(r)), r.high + max(0, drift(r))) for r in reaches]
    return reaches[0]._replace(low=min(r.low for r in reaches), high=max(r.high for r in reaches))


def anything(eqn: Any, into: list[Field]) -> list[Field]:
    """Let every result depend on all that any operand depends on: the rule of operations that have none."""
    loose = joined([untied(field, v.aval.shape) for field, v in zip(into, eqn.invars, strict=True)], ())
    return [loose] * len(eqn.outvars)


def _elementwise(eqn: Any, into: list[Field]) -> list[Field]:
    return [joined(into, v.aval.shape) for v in eqn.outvars]


# axis of the operand -> axis of the result, start, step, extent
Reads = Callable[[int], tuple[int, Any, Any, Any] | None]


def _reading(field: Field, shape: Sequence[int], reads: Reads) -> Field:
    """Return the field of a result whose index i reads the operand from `start + step * i` on, `extent` further."""
    return field and tuple(_read(r, shape, reads) for r in field)


def _read(r: Reach, shape: Sequence[int], reads: Reads) -> Reach:
    if r.axis is None:
        return r
    if (found := reads(r.axis)) is None:
        return _loose(r, shape)
    axis, start, step, extent = found
    return Reach(axis, r.jump * step, r.low + r.jump * start, r.high + r.jump * (start + extent))


def _over(n: int, d: int) -> Fraction | int:
    return n if d == 1 else Fraction(n, d)


def _windows(
    places: Sequence[tuple[int, int]], eqn: Any, window: Sequence[int], spread: Sequence[int], apart: Sequence[int]
) -> Reads:
    """Return how windows read; `places` are the axes that they move along, of the operand and of the result."""
    strides, padding = eqn.params["window_strides"], eqn.params["padding"]
    table = {
        before: (after, _over(-low, gap), _over(step, gap), _over((taps - 1) * wide, gap))
        for (before, after), taps, wide, gap, step, (low, _) in zip(
            places, window, spread, apart, strides, padding, strict=True
        )
    }
    return table.get


def _convolution(eqn: Any, into: list[Field]) -> list[Field]:
    if into[1] is not None:
        return anything(eqn, into)
    spec, (x, kernel) = eqn.params["dimension_numbers"], (v.aval.shape for v in eqn.invars)
    places, window = (
        list(zip(spec.lhs_spec[2:], spec.out_spec[2:], strict=True)),
        [kernel[axis] for axis in spec.rhs_spec[2:]],
    )
    return [_reading(into[0], x, _windows(places, eqn, window, eqn.params["rhs_dilation"], eqn.params["lhs_dilation"]))]


def _reduce_window(eqn: Any, into: list[Field]) -> list[Field]:
    shape, p = eqn.invars[0].aval.shape, eqn.params
    places = [(axis, axis) for axis in range(len(shape))]
    reads = _windows(places, eqn, p["window_dimensions"], p["window_dilation"], p["base_dilation"])
    return [_reading(joined(into[: len(eqn.outvars)], shape), shape, reads)] * len(eqn.outvars)


def _without(gone: str) -> Callable[[Any, list[Field]], list[Field]]:
    def rule(eqn: Any, into: list[Field]) -> list[Field]:
        shape, axes = eqn.invars[0].aval.shape, eqn.params[gone]

        def reads(axis):
            return None if axis in axes else (axis - sum(a < axis for a in axes), 0, 1, 0)

        return [_reading(joined(into[: len(eqn.outvars)], shape), shape, reads)] * len(eqn.outvars)

    return rule


def _broadcast(eqn: Any, into: list[Field]) -> list[Field]:
    before, (after,), places = (
        eqn.invars[0].aval.shape,
        [v.aval.shape for v in eqn.outvars],
        eqn.params["broadcast_dimensions"],
    )
    return [
        _reading(into[0], before, lambda axis: (places[axis], 0, 1, 0) if before[axis] == after[places[axis]] else None)
    ]


def _reshape(eqn: Any, into: list[Field]) -> list[Field]:
    """Keep an axis that stays, and the outer one of an axis that is divided; axes that are merged lose their places."""
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    outside = {math.prod(after[:axis]): axis for axis in range(len(after)) if after[axis] > 1}

    def reads(axis: int) -> tuple[int, int, int, int] | None:
        to = outside.get(math.prod(before[:axis]))
        if to is None or before[axis] % after[to]:
            return None
        part = before[axis] // after[to]
        return to, 0, part, part - 1

    return [_reading(into[0], before, reads)]


def _slice(eqn: Any, into: list[Field]) -> list[Field]:
    starts, strides = eqn.params["start_indices"], eqn.params["strides"] or (1,) * len(eqn.params["start_indices"])
    return [_reading(into[0], eqn.invars[0].aval.shape, lambda axis: (axis, starts[axis], strides[axis], 0))]


def _pad(eqn: Any, into: list[Field]) -> list[Field]:
    if into[1] is not None:
        return anything(eqn, into)
    config = eqn.params["padding_config"]

    def reads(axis):
        return (axis, _over(-config[axis][0], config[axis][2] + 1), _over(1, config[axis][2] + 1), 0)

    return [_reading(into[0], eqn.invars[0].aval.shape, reads)]


def _concatenate(eqn: Any, into: list[Field]) -> list[Field]:
    along, start, fields = eqn.params["dimension"], 0, []
    for field, shape in zip(into, (v.aval.shape for v in eqn.invars), strict=True):
        fields.append(_reading(field, shape, lambda axis, start=start: (axis, -start if axis == along else 0, 1, 0)))
        start += shape[along]
    return [joined(fields, eqn.outvars[0].aval.shape)]


def _split(eqn: Any, into: list[Field]) -> list[Field]:
    along, shape = eqn.params["axis"], eqn.invars[0].aval.shape
    starts = [sum(eqn.params["sizes"][:i]) for i in range(len(eqn.outvars))]
    return [
        _reading(into[0], shape, lambda axis, start=start: (axis, start if axis == along else 0, 1, 0))
        for start in starts
    ]


def _dot_general(eqn: Any, into: list[Field]) -> list[Field]:
    contracted, batched = eqn.params["dimension_numbers"]
    shapes, fields, free = [v.aval.shape for v in eqn.invars], [], len(batched[0])
    for field, shape, gone, batch in zip(into, shapes, contracted, batched, strict=True):
        rest = [axis for axis in range(len(shape)) if axis not in (*gone, *batch)]
        to = {axis: i for i, axis in enumerate(batch)} | {axis: free + i for i, axis in enumerate(rest)}
        fields.append(_reading(field, shape, lambda axis, to=to: (to[axis], 0, 1, 0) if axis in to else None))
        free += len(rest)
    return [joined(fields, eqn.outvars[0].aval.shape)]


def _transpose(eqn: Any, into: list[Field]) -> list[Field]:
    order = eqn.params["permutation"]
    return [_reading(into[0], eqn.invars[0].aval.shape, lambda axis: (order.index(axis), 0, 1, 0))]


ELEMENTWISE = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy copy_p cos
    cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p
    logistic lt max min mul name ne neg nextafter not optimization_barrier or population_count pow reduce_precision
    rem round rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square
    stop_gradient sub tan tanh xor
""".split()
REDUCTIONS = [f"reduce_{name}" for name in ("sum", "max", "min", "prod", "and", "or", "xor")]
WINDOWS = [f"reduce_window{name}" for name in ("", "_sum", "_max", "_min")]
RULES: dict[str, Callable[[Any, list[Field]], list[Field]]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys([*REDUCTIONS, "reduce", "argmax", "argmin"], _without("axes")),
    **dict.fromkeys(WINDOWS, _reduce_window),
    "broadcast_in_dim": _broadcast, "concatenate": _concatenate, "conv_general_dilated": _convolution,
    "dot_general": _dot_general, "pad": _pad, "reshape": _reshape, "slice": _slice, "split": _split,
    "squeeze": _without("dimensions"), "transpose": _transpose,
}  # fmt: skip
