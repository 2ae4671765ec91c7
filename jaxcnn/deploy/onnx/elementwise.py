"""Operations on each element: arithmetic, comparisons, choices and casts."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcnn.core.types import InputError
from jaxcnn.deploy.onnx.graph import OPSET, Axes, Graph, Value, same

Rule = Callable[[Graph, Any, list[Value]], list[Value]]
PLAIN = {
    "abs": "Abs", "add": "Add", "add_any": "Add", "atan": "Atan", "ceil": "Ceil", "cos": "Cos", "div": "Div",
    "eq": "Equal", "erf": "Erf", "exp": "Exp", "floor": "Floor", "ge": "GreaterOrEqual", "gt": "Greater",
    "le": "LessOrEqual", "log": "Log", "logistic": "Sigmoid", "lt": "Less", "max": "Max", "min": "Min", "mul": "Mul",
    "neg": "Neg", "pow": "Pow", "sign": "Sign", "sin": "Sin", "sqrt": "Sqrt", "sub": "Sub", "tan": "Tan",
    "tanh": "Tanh",
}  # fmt: skip
LOGICAL = {"and": "And", "or": "Or", "xor": "Xor", "not": "Not"}


def common_axes(values: Sequence[Value], rank: int) -> Axes:
    """Return the order of axes for values that are read together: of those with the most elements, one.

    Images lie channels first if one of them does, because the next convolution wants that; everything else in JAX's
    order if one of them does, because the next product of matrices wants that.
    """
    usual = tuple(range(rank))
    held = [v for v in values if v.constant is None and len(v.shape) == rank]
    if not held:
        return usual
    long = [sum(not same(n, 1) for n in v.sizes) for v in held]
    orders = [v.axes for v, n in zip(held, long, strict=True) if n == max(long)]
    if rank < 4:
        return usual if usual in orders else orders[0]
    return next((axes for axes in orders if axes != usual), usual)


def apply(g: Graph, values: Sequence[Value], like: Any, make: Callable[..., str]) -> Value:
    """Apply an operation to values of equal rank; `make` gets the names of their tensors.

    Axes along which all operands are repeated stay so.
    """
    rank = len(like.shape)
    axes = common_axes(values, rank)
    names = []
    for value in values:
        if value.constant is not None and value.constant.size == 1:
            names.append(g.store(value.constant.reshape(())))
        elif value.constant is not None:
            array = value.constant.transpose(axes if value.constant.ndim == rank else range(value.constant.ndim))
            ones = next(i for i, n in enumerate(array.shape) if n != 1)
            names.append(g.store(array.reshape(array.shape[ones:])))  # axes in front are added by broadcasting
        else:
            names.append(g.tensor(value, axes if len(value.shape) == rank else None, whole=False))
    sizes = [1] * rank
    for value in values:
        for axis, size in enumerate(value.sizes if len(value.shape) == rank else ()):
            sizes[axis] = size if same(sizes[axis], 1) else sizes[axis]
    return g.made(make(*names), like, axes, sizes)


def _plain(op: str) -> Rule:
    def rule(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
        (out,) = (v.aval for v in eqn.outvars)
        if eqn.primitive.name == "max" and any(_is_zero(v) for v in values) and out.dtype == jnp.float32:
            (x,) = [v for v in values if not _is_zero(v)] or values[:1]
            return [apply(g, [x], out, lambda name: g.emit("Relu", name))]
        return [apply(g, values, out, lambda *names: g.emit(op, *names))]

    return rule


def _is_zero(value: Value) -> bool:
    return value.constant is not None and value.constant.size == 1 and not value.constant.any()


def _logical(op: str) -> Rule:
    def rule(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
        if any(v.dtype != bool for v in values):
            raise InputError(f"{eqn.primitive.name} of integers has no form in ONNX opset {OPSET}; change the model")
        return [apply(g, values, eqn.outvars[0].aval, lambda *names: g.emit(op, *names))]

    return rule


def _unary(make: Callable[[Graph, str, np.dtype], str]) -> Rule:
    def rule(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
        (x,) = values
        return [apply(g, values, eqn.outvars[0].aval, lambda name: make(g, name, np.dtype(x.dtype)))]

    return rule


def _integer_pow(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    power, (x,) = eqn.params["y"], values

    def make(name: str) -> str:
        if power in (2, 3):  # much faster than Pow
            square = g.emit("Mul", name, name)
            return square if power == 2 else g.emit("Mul", square, name)
        return g.emit("Pow", name, g.store(np.asarray(power, x.dtype)))

    return [apply(g, values, eqn.outvars[0].aval, make)]


def _round(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    def make(name: str) -> str:
        if int(eqn.params["rounding_method"]) == 1:  # to even
            return g.emit("Round", name)
        half = g.emit("Floor", g.emit("Add", g.emit("Abs", name), g.store(np.float32(0.5))))
        return g.emit("Mul", g.emit("Sign", name), half)

    return [apply(g, values, eqn.outvars[0].aval, make)]


def _not_equal(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    return [apply(g, values, eqn.outvars[0].aval, lambda *names: g.emit("Not", g.emit("Equal", *names)))]


def _remainder(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    return [apply(g, values, eqn.outvars[0].aval, lambda *names: g.emit("Mod", *names, fmod=1))]


def _select(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    which, *cases = values
    if len(cases) != 2 or which.dtype != bool:
        raise InputError(f"select_n of {len(cases)} cases has no form in ONNX; change the model")
    return [apply(g, [which, *cases], eqn.outvars[0].aval, lambda w, no, yes: g.emit("Where", w, yes, no))]


def _clamp(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    low, x, high = values
    return [
        apply(
            g, [low, x, high], eqn.outvars[0].aval, lambda a, b, c: g.emit("Min", g.emit("Max", b, a), c)
        )
    ]  # fmt: skip


def element_type(dtype: Any) -> int:
    """Return the number of an element type in ONNX; bfloat16 becomes float32."""
    import onnx

    dtype = np.dtype(np.float32) if np.dtype(dtype) == jnp.bfloat16 else np.dtype(dtype)
    return onnx.helper.np_dtype_to_tensor_dtype(dtype)


def _cast(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    out, (x,) = eqn.outvars[0].aval, values
    if element_type(out.dtype) == element_type(x.dtype):
        return [Value(x.shape, np.dtype(out.dtype), x.name, x.axes, x.sizes, x.constant)]
    return [apply(g, values, out, lambda name: g.emit("Cast", name, to=element_type(out.dtype)))]


def _same(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    return values[:1]


def _finite(g: Graph, name: str, dtype: np.dtype) -> str:
    return g.emit("Not", g.emit("Or", g.emit("IsInf", name), g.emit("IsNaN", name)))


def _one(g: Graph, dtype: np.dtype) -> str:
    return g.store(np.ones((), dtype))


RULES: dict[str, Rule] = {
    **{name: _plain(op) for name, op in PLAIN.items()},
    **{name: _logical(op) for name, op in LOGICAL.items()},
    "clamp": _clamp,
    "convert_element_type": _cast,
    "copy": _same,
    "copy_p": _same,
    "erfc": _unary(lambda g, x, t: g.emit("Sub", _one(g, t), g.emit("Erf", x))),
    "expm1": _unary(lambda g, x, t: g.emit("Sub", g.emit("Exp", x), _one(g, t))),
    "integer_pow": _integer_pow,
    "is_finite": _unary(_finite),
    "log1p": _unary(lambda g, x, t: g.emit("Log", g.emit("Add", x, _one(g, t)))),
    "name": _same,
    "ne": _not_equal,
    "optimization_barrier": lambda g, eqn, values: values,
    "rem": _remainder,
    "round": _round,
    "rsqrt": _unary(lambda g, x, t: g.emit("Reciprocal", g.emit("Sqrt", x))),
    "select_n": _select,
    "square": _unary(lambda g, x, t: g.emit("Mul", x, x)),
    "stop_gradient": _same,
}
