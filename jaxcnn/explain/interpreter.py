"""A network as a flat list of operations, so that a method can change single operations, mostly in the gradient."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from jaxcnn import ops
from jaxcnn.core import jaxprs
from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import InputError, Tree
from jaxcnn.layers import check_image

Array = jax.Array


class Op(NamedTuple):
    """One operation.

    Attributes:
        name: of the primitive; `conv`, `max_pool`, `max` (ReLU) and `clip` (ReLU6) also for what has a gradient of its
            own.
        eqn: the equation of the jaxpr.
        inputs: numbers of the values that it reads.
        outputs: and of those that it makes.

    """

    name: str
    eqn: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def __call__(self, *values: Any) -> list[Array]:
        """Compute it."""
        params = self.eqn.primitive.get_bind_params(self.eqn.params)
        out = self.eqn.primitive.bind(*values, **params)
        return list(out) if self.eqn.primitive.multiple_results else [out]


class Program(NamedTuple):
    """A traced network.

    Attributes:
        ops: those that depend on the image, in order; calls are replaced by what is in them.
        constants: values by number, of what does not depend on it.
        image: the number of the input.
        logits: of the output.
        features: of the entries of `features`, in their order.

    """

    ops: list[Op]
    constants: dict[int, Any]
    image: int
    logits: int
    features: dict[str, int]


# (operation, its values, which of them depend on the image) -> values by number, its own and perhaps later ones; None:
# as it is
Rule = Callable[[Op, list[Any], tuple[bool, ...]], dict[int, Array] | None]


def trace(model: Any, variables: Tree, image: Array) -> Program:
    """Trace `model` at images of this shape; its parameters become constants.

    Operations are XLA's own, which compile much faster: a changed program runs once or twice, not for hours.
    """
    check_image(image)
    names: list[str] = []

    def run(image: Array) -> list[Array]:
        features = named_features(model, variables, image)
        names.extend(features)
        return [*features.values(), promote_float32(model.apply(variables, features, train=False, method="head"))]

    flat = _Flat()
    with ops.native_lowering():
        closed = jax.make_jaxpr(run)(image)
        (number,) = inputs = [flat.number() for _ in closed.jaxpr.invars]
        *features, logits = flat.add(closed, inputs)
    return Program(flat.ops, flat.constants, number, logits, dict(zip(names, features, strict=True)))


def named_features(model: Any, variables: Tree, image: Array) -> dict[str, Array]:
    """Return `model.features` of an image.

    Raises:
        InputError: the model has none.

    """
    if not hasattr(model, "features") or not hasattr(model, "head"):
        raise InputError(
            f"{type(model).__name__} has no features(x) and head(features); give one of jaxcnn.models, or add them"
        )
    return model.apply(variables, image, train=False, method="features")


def execute(program: Program, image: Array, rule: Rule, added: Mapping[int, Array] | None = None) -> dict[int, Any]:
    """Compute every value of a program; differentiate it in `ops.native_lowering()`, as it was traced.

    Args:
        program: of `trace`.
        image: the input.
        rule: what to do instead where an operation reads what depends on the image.
        added: what to add to some values, for gradients to them.

    """
    added, values = added or {}, program.constants | {program.image: image}
    switches: set[int] = set()  # depend on the image in steps only: comparisons, places of maxima
    for op in program.ops:
        if all(n in values for n in op.outputs):
            continue
        read = [values[i] for i in op.inputs]
        live = tuple(i not in program.constants and i not in switches for i in op.inputs)
        found = rule(op, read, live) if any(live) else None
        found = dict(zip(op.outputs, op(*read), strict=True)) if found is None else found
        found = {n: x + added[n] if n in added else x for n, x in found.items()}
        loose = op.name == "stop_gradient" or not any(live)
        switches.update(n for n, x in found.items() if loose or not jnp.issubdtype(x.dtype, jnp.floating))
        values |= found
    return values


class _Flat:
    """Collects operations from nested jaxprs; those of constants alone are computed at once."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.constants: dict[int, Any] = {}
        self.count = 0

    def number(self, constant: Any = None) -> int:
        self.count += 1
        if constant is not None:
            self.constants[self.count] = constant
        return self.count

    def add(self, traced: ClosedJaxpr | Jaxpr, inputs: Sequence[int]) -> list[int]:
        """Append the equations of a jaxpr, and return the numbers of its results.

        An operation with its own derivative stays one operation.
        """

        def rule(eqn: Any, into: list[int]) -> list[int]:
            inner = jaxprs.called(eqn)
            if inner is not None and eqn.primitive.name not in jaxprs.WITH_DERIVATIVES:
                return self.add(inner, into)
            out = [self.number() for _ in eqn.outvars]
            op = Op(_name(eqn), eqn, tuple(into), tuple(out))
            if all(n in self.constants for n in into):
                self.constants |= zip(out, op(*(self.constants[n] for n in into)), strict=True)
            else:
                self.ops.append(op)
            return out

        return jaxprs.walk(traced, inputs, rule, self.number)


def _name(eqn: Any) -> str:
    name: str = eqn.primitive.name
    if name != "custom_jvp_call":
        return {"conv_general_dilated": "conv", "reduce_window_max": "max_pool", "clamp": "clip"}.get(name, name)
    inside = jaxprs.primitives(eqn.params["call_jaxpr"]) - {"jit", "pjit"}
    return "max" if inside == {"max"} else "clip" if inside == {"max", "min"} else name
