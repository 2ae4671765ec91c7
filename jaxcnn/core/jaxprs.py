"""Reading jaxprs: values are carried from the inputs of a traced function to its results, equation by equation."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

T = TypeVar("T")
WITH_DERIVATIVES = ("custom_jvp_call", "custom_vjp_call")  # calls of functions that bring derivatives of their own
CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", *WITH_DERIVATIVES)


def walk(
    traced: ClosedJaxpr | Jaxpr,
    inputs: Iterable[T],
    rule: Callable[[Any, list[T]], Iterable[T]],
    constant: Callable[[Any], T],
) -> list[T]:
    """Carry a value for each variable through a jaxpr; a rule that wants what is inside an equation walks it itself.

    Args:
        traced: as `jax.make_jaxpr` returns it, or what is inside one of its equations.
        inputs: one value for each argument.
        rule: an equation and the values of its operands to the values of its results.
        constant: a literal or a constant of the jaxpr to its value.

    Returns:
        The values of the results.

    """
    jaxpr, constants = (traced.jaxpr, traced.consts) if isinstance(traced, ClosedJaxpr) else (traced, ())
    known = dict(zip(jaxpr.invars, inputs, strict=True))
    known |= {v: constant(c) for v, c in zip(jaxpr.constvars, constants, strict=True)}

    def read(variables: Sequence[Any]) -> list[T]:
        return [constant(v.val) if isinstance(v, Literal) else known[v] for v in variables]

    for eqn in jaxpr.eqns:
        known |= zip(eqn.outvars, rule(eqn, read(eqn.invars)), strict=True)
    return read(jaxpr.outvars)


def inside(eqn: Any) -> list[ClosedJaxpr | Jaxpr]:
    """Return the jaxprs that an equation has among its parameters: bodies, branches, what it calls."""
    found: list[ClosedJaxpr | Jaxpr] = []
    for value in eqn.params.values():
        several = value if isinstance(value, tuple | list) else (value,)
        found += [part for part in several if isinstance(part, ClosedJaxpr | Jaxpr)]
    return found


def called(eqn: Any) -> ClosedJaxpr | Jaxpr | None:
    """Return the jaxpr that an equation calls with its own operands (`jax.jit`, `jax.checkpoint`), or None."""
    return inside(eqn)[0] if eqn.primitive.name in CALLS else None


def primitives(traced: ClosedJaxpr | Jaxpr) -> set[str]:
    """Return the names of all primitives in a jaxpr and in those inside it."""
    jaxpr = traced.jaxpr if isinstance(traced, ClosedJaxpr) else traced
    names = {eqn.primitive.name for eqn in jaxpr.eqns}
    return names.union(*(primitives(part) for eqn in jaxpr.eqns for part in inside(eqn)))
