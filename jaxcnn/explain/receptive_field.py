"""What a traced function costs and which pixels each array depends on, read off its jaxpr without computing anything.

The receptive field (Araujo et al., 2019, Distill 10.23915/distill.00021) is kept as one affine map per axis of the
image.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr

from jaxcnn.core import jaxprs
from jaxcnn.explain.field_rules import RULES, Field, Reach, anything, joined, untied


class Found(NamedTuple):
    """One equation of a jaxpr, in the order of execution.

    Attributes:
        primitive: its name.
        scope: the `jax.named_scope`s around it, outermost first, joined by slashes.
        params: of the primitive.
        flop: multiply-adds of a convolution or a matrix product, else 0.
        fields: what its results depend on.

    """

    primitive: str
    scope: str
    params: dict[str, Any]
    flop: int
    fields: list[Field]


def image_field(shape: Sequence[int]) -> Field:
    """Return the field of the image itself, `[B, *spatial, C]`: every place depends on itself."""
    return tuple(Reach(axis, 1, 0, 0) for axis in range(1, len(shape) - 1))


def sizes(field: Field, image: Sequence[int]) -> tuple[int, ...] | None:
    """Return how many places each axis of the field spans.

    A field that moves with the image may have any extent; other fields end at the border of the image.

    Args:
        field: of an array, or None.
        image: the shape of the image, `[B, *spatial, C]`.

    """
    if field is None:
        return None
    return tuple(_size(r, n) for r, n in zip(field, image[1:-1], strict=True))


def _size(r: Reach, n: int) -> int:
    if r.axis is None:
        return max(min(math.floor(r.high), n - 1) - max(math.ceil(r.low), 0) + 1, 0)
    spans = (
        math.floor(r.jump * i + r.high) - math.ceil(r.jump * i + r.low) + 1 for i in range(Fraction(r.jump).denominator)
    )
    return max(spans)  # after upsampling, neighbours may span one place more or less


def walk(closed: ClosedJaxpr, fields: Sequence[Field]) -> tuple[list[Found], list[Field]]:
    """Follow fields from the arguments of a function to its results.

    The fields are exact for convolutions, windows, slices, padding and what is elementwise, and too large rather than
    too small elsewhere: what mixes or flattens places is taken to depend on all of them. A loop counts as often as it
    runs if that number is known, else once; of the branches of a condition the dearest counts.

    Args:
        closed: as `jax.make_jaxpr` returns it, traced in `jaxcnn.ops.native_lowering()`.
        fields: one for each flat argument, None where it is no image.

    Returns:
        Every equation, and the fields of the results.

    """
    return _walk(closed, fields, "", 1)


def _walk(
    traced: ClosedJaxpr | Jaxpr, fields: Sequence[Field], scope: str, times: int
) -> tuple[list[Found], list[Field]]:
    found: list[Found] = []

    def rule(eqn: Any, into: list[Field]) -> list[Field]:
        name, here = eqn.primitive.name, f"{scope}/{eqn.source_info.name_stack}"
        inner, out = _enter(eqn, into, here, times)
        if out is None:
            unseen: list[Field] = [None] * len(eqn.outvars)
            out = RULES.get(name, anything)(eqn, into) if any(into) else unseen
        found.extend([*inner, Found(name, here, eqn.params, times * _flop(eqn), out)])
        return out

    return found, jaxprs.walk(traced, fields, rule, lambda constant: None)


def _enter(eqn: Any, into: list[Field], scope: str, times: int) -> tuple[list[Found], list[Field] | None]:
    """Walk the jaxprs inside an equation; the fields are None where its own rule has to say them."""
    name, params = eqn.primitive.name, eqn.params
    if (call := jaxprs.called(eqn)) is not None:
        return _walk(call, into, scope, times)
    if name == "cond":
        walked = [_walk(branch, into[1:], scope, times) for branch in params["branches"]]
        fields = [joined([out[i] for _, out in walked], v.aval.shape) for i, v in enumerate(eqn.outvars)]
        # which branch is taken may depend on the image as well
        out = [
            joined([field, untied(into[0], eqn.invars[0].aval.shape)], v.aval.shape)
            for field, v in zip(fields, eqn.outvars, strict=True)
        ]
        return max((found for found, _ in walked), key=lambda found: sum(f.flop for f in found)), out
    if name in ("scan", "while"):
        seen = anything(eqn, into)[0]  # whatever enters a loop may reach all of it
        bodies = [
            _walk(body, [seen] * len(body.in_avals), scope, times * params.get("length", 1))
            for body in jaxprs.inside(eqn)
        ]
        return [f for found, _ in bodies for f in found], None
    return [], None


def _flop(eqn: Any) -> int:
    """Multiply-adds; taps that fall on padding count, as they do in published figures, zeros between strides do not."""
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return math.prod(eqn.outvars[0].aval.shape) * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
    if eqn.primitive.name != "conv_general_dilated":
        return 0
    x, kernel, y = (v.aval.shape for v in (*eqn.invars, *eqn.outvars))
    spec, dilation = eqn.params["dimension_numbers"], eqn.params["lhs_dilation"]
    taps = math.prod(kernel) // kernel[spec.rhs_spec[0]]
    if max(dilation) == 1:
        return math.prod(y) * taps
    return math.prod(x[axis] for axis in (spec.lhs_spec[0], *spec.lhs_spec[2:])) * kernel[spec.rhs_spec[0]] * taps
