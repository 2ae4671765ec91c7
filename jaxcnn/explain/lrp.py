"""Layer-wise relevance propagation (Bach et al., 2015, doi:10.1371/journal.pone.0130140): divide a logit among pixels.

The backward pass carries relevance divided by activation, `c = R / a`. In these terms rule 0 is a gradient in which the
slope of an activation is its value over its input (Ancona et al., 2017, arXiv:1711.06104). Convolution, dense layers,
pooling (the maximum takes all), BatchNorm and residual sums are then linear, in any order. Rules that depend on the
sign of each input's contribution replace the backward pass of a convolution or dense layer together with the pooling,
BatchNorm and bias that follow it, which are thereby folded into it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcnn import ops
from jaxcnn.core.types import InputError, Tree, align, check_numbers
from jaxcnn.explain.gradients import Target, chosen, seed, targets
from jaxcnn.explain.interpreter import Op, Program, execute, trace

Array = jax.Array
ACTIVATIONS = ("max", "min", "clip", "tanh", "logistic", "erf", "erfc", "integer_pow", "square", "abs")
BOUNDED = ("clip", "min", "tanh", "logistic", "erf", "erfc")
SHAPES = ("reshape", "squeeze", "transpose", "slice", "pad", "rev", "convert_element_type", "copy")
KEEP_BOUNDED = (*SHAPES, "broadcast_in_dim", "add", "sub", "mul", "div", "neg")
LINEAR = {
    *SHAPES, "add", "add_any", "sub", "neg", "mul", "div", "conv", "dot_general", "max_pool", "broadcast_in_dim",
    "concatenate", "split", "reduce_sum", "reduce_max", "reduce_window_sum", "cumsum", "select_n", "dynamic_slice",
    "gather", "stop_gradient", "argmax", "expand_dims", "stack", "unstack", "eq", "ne", "ge", "gt", "le", "lt", "and",
    "or", "not", "name", "optimization_barrier",
}  # fmt: skip
PAIRS = (
    "add", "add_any", "sub", "concatenate", "stack", "select_n", "max", "min", "eq", "ne", "ge", "gt", "le", "lt",
    "and", "or",
)  # fmt: skip
TAIL = ("max_pool", "add", "sub", "mul", "div", "convert_element_type", "copy")


class Relevance(NamedTuple):
    """A logit, divided into parts that add up to it.

    Attributes:
        relevance: share of each value of the image, `[B, H, W, C]`.
        logit: the logit that is explained, `[B]`.
        biases: share of biases and of BatchNorm's shifts, `[B]`; the pixels do not get it.
        absorbed: share taken by `epsilon` and by activations that are not 0 at 0, `[B]`.

    """

    relevance: Array
    logit: Array
    biases: Array
    absorbed: Array

    @property
    def residual(self) -> Array:
        """Return what is lost on the way, `[B]`: only rounding."""
        return self.logit - self.relevance.sum(tuple(range(1, self.relevance.ndim))) - self.biases - self.absorbed


def lrp(
    model: Any,
    variables: Tree,
    image: Array,
    target: Target = None,
    *,
    epsilon: float = 0.0,
    gamma: float = 0.0,
    bounds: tuple[Array | float, Array | float] | None = None,
) -> Relevance:
    """Divide a logit among the values of the image.

    The default is rule 0. In a product of two factors that depend on the image, a gate (the output of a sigmoid or
    similar) gets nothing and the other factor everything (Arras et al., 2017, arXiv:1706.07206); without a gate, each
    factor gets half (Achtibat et al., 2024, arXiv:2402.05602). Activations pass their relevance on. LayerNorm and
    softmax have no rule here.

    Args:
        model: a Linen module with `features` and `head` that computes in float32.
        variables: variables of the model.
        image: `[B, H, W, C]` in the form that the model takes.
        target: class to explain; see `targets`.
        epsilon: moves every pre-activation away from 0, in units of its root mean square over each image; this absorbs
            weak and contradictory contributions (rule epsilon).
        gamma: extra weight of contributions with the sign of the sum, biases included (rule gamma, generalised to
            inputs and sums of both signs; Montavon et al., 2019, doi:10.1007/978-3-030-28954-6_10).
        bounds: smallest and largest possible pixel, in the form that the model takes: numbers or `[C]`. The first layer
            then divides by the distance from them, and its bias gets no share (rule z-B; Montavon et al., 2015,
            arXiv:1512.02479).

    Raises:
        InputError: a negative `epsilon` or `gamma`, or an operation without a rule.

    """
    check_numbers(epsilon=epsilon, gamma=gamma)
    if not (epsilon >= 0 and gamma >= 0):
        raise InputError(f"epsilon={epsilon}, gamma={gamma}: must be at least 0")
    program = trace(model, variables, image)
    low, high = None, None
    if bounds is not None:
        low, high = (jnp.broadcast_to(jnp.asarray(b, image.dtype), image.shape) for b in bounds)
    ones = jnp.ones(len(image), jnp.float32)

    def run(image: Array, direct: Array, bias: Array, absorbed: Array) -> Array:
        sides = {} if bounds is None else {program.image: (low, high, direct)}
        rule = _Propagation(program, type(model).__name__, epsilon, gamma, bias, absorbed, sides)
        outputs = execute(program, image, rule)[program.logits]
        if bounds is not None and not rule.met:
            raise InputError(
                f"bounds: {type(model).__name__} changes the pixels before its first layer; leave bounds out"
            )
        return _activation(lambda z: z, epsilon)(outputs, absorbed)

    with ops.native_lowering():
        outputs, back = jax.vjp(run, image, jnp.zeros_like(image), ones, ones)
        target = targets(outputs, target)
        slope, direct, bias, absorbed = back(seed(outputs, target))
    return Relevance(image * slope + direct, chosen(outputs, target), bias, absorbed)


class _Propagation:
    """A rule for `execute`: gives operations a backward pass that carries relevance over activation.

    `bias` and `absorbed` are ones `[B]`; their cotangents are the shares of the same name.
    """

    def __init__(
        self,
        program: Program,
        kind: str,
        epsilon: float,
        gamma: float,
        bias: Array,
        absorbed: Array,
        sides: dict[int, Any],
    ):
        self.kind, self.epsilon, self.gamma = kind, epsilon, gamma
        self.bias, self.absorbed, self.sides = bias, absorbed, sides
        self.bounded: set[int] = set()
        self.met = False
        self.readers: dict[int, list[Op]] = {}
        self.constants = program.constants
        self.results = {program.logits}
        for op in program.ops:
            for n in op.inputs:
                self.readers.setdefault(n, []).append(op)

    def __call__(self, op: Op, values: list[Any], live: tuple[bool, ...]) -> dict[int, Array] | None:
        name, out = op.name, op.outputs[0]
        self._check(op, name, live)
        inputs_bounded = all(n in self.bounded for n, on in zip(op.inputs, live, strict=True) if on)
        if name in BOUNDED or name in KEEP_BOUNDED and inputs_bounded:
            self.bounded.add(out)
        if name in ACTIVATIONS and sum(live) == 1:
            place = live.index(True)

            def alone(x):
                return op(*(x if i == place else v for i, v in enumerate(values)))[0]

            return {out: _activation(alone, self.epsilon)(values[place], self.absorbed)}
        if name in ("mul", "dot_general", "conv") and sum(live) == 2:
            return {out: self._product(op, values)}
        if name in ("add", "add_any", "sub") and sum(live) == 1 and len(values[live.index(True)]) == len(self.bias):
            place = live.index(False)
            counted = [v * align(self.bias, values[1 - place]) if i == place else v for i, v in enumerate(values)]
            total = counted[0] - counted[1] if name == "sub" else counted[0] + counted[1]
            return {out: total.astype(values[1 - place].dtype)}
        first = self._follow(op, name, values, live)
        if name in ("conv", "dot_general") and (self.gamma or first is not None):
            return self._layer(op, values, live.index(True), first)
        return None

    def _check(self, op: Op, name: str, live: tuple[bool, ...]) -> None:
        known = name in LINEAR or name in ACTIVATIONS
        several = sum(live) > 1 and name not in (*PAIRS, "mul", "dot_general", "conv")
        if not known or several or name == "div" and live[1]:
            raise InputError(
                f"lrp: {self.kind} computes {name!r} from the image, which has no rule; use integrated_gradients "
                "(networks with LayerNorm or attention have no rule)"
            )

    def _product(self, op: Op, values: list[Any]) -> Array:
        gates = [n in self.bounded for n in op.inputs]
        if sum(gates) == 1:
            return op(*(jax.lax.stop_gradient(v) if gate else v for v, gate in zip(values, gates, strict=True)))[0]
        return _halved(op(*values)[0])

    def _follow(self, op: Op, name: str, values: list[Any], live: tuple[bool, ...]) -> tuple[Array, ...] | None:
        """Carry bounds along with pixels that are only moved; return the bounds at a first layer."""
        place = live.index(True)
        sides = self.sides.get(op.inputs[place])
        if sides is None or name not in (*SHAPES, "conv", "dot_general"):
            return None
        if name in SHAPES:
            along = [op(*(s if i == place else v for i, v in enumerate(values)))[0] for s in sides]
            self.sides[op.outputs[0]] = tuple(along)
            return None
        self.met = True
        return sides

    def _layer(self, op: Op, values: list[Any], place: int, sides: tuple[Array, ...] | None) -> dict[int, Array]:
        """Replace a convolution or dense layer together with the pooling, BatchNorm and bias that follow it."""
        tail = []
        while (step := self._next(tail[-1] if tail else op)) is not None:
            tail.append(step)
        known = [[self.constants.get(n) for n in step.inputs] for step in tail]

        def behind(z: Array) -> Array:
            for step, read in zip(tail, known, strict=True):
                z = step(*(z if v is None else v for v in read))[0]
            return z

        def apply(a, w):
            return op(a, w)[0] if place == 0 else op(w, a)[0]

        if sides is None:
            layer = _gamma_layer(apply, behind, values[1 - place], self.gamma)(values[place], self.bias)
        else:
            layer = _bounded_layer(apply, behind, values[1 - place], *sides[:2])(values[place], sides[2])
        inner = {n: layer for step in (op, *tail[:-1]) for n in step.outputs}
        return {(tail[-1] if tail else op).outputs[0]: layer} | inner

    def _next(self, op: Op) -> Op | None:
        (n,) = op.outputs
        readers = self.readers.get(n, [])
        if n in self.results or len(readers) != 1 or readers[0].name not in TAIL:
            return None
        others = [m for m in readers[0].inputs if m != n]
        fits = all(m in self.constants for m in others) and len(others) == len(readers[0].inputs) - 1
        return readers[0] if fits and not (readers[0].name == "div" and readers[0].inputs[1] == n) else None


def _safe(a: Array, b: Array) -> Array:
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def _row_sums(x: Array) -> Array:
    return x.reshape(len(x), -1).sum(1).astype(jnp.float32)


# A rule of relevance is no derivative but a backward pass of its own, so `jax.custom_vjp` is right here, and forward
# mode has no meaning.
def _activation(function: Callable[[Array], Array], epsilon: float) -> Callable[[Array, Array], Array]:
    """Give an activation the slope value over input; `epsilon` keeps the input away from 0."""

    def backward(z: Array, c: Array) -> tuple[Array, Array]:
        a = function(z)
        size = jnp.sqrt(jnp.square(z).mean(tuple(range(1, z.ndim)), keepdims=True))
        slope = _safe(a, z + epsilon * size * jnp.where(z < 0, -1, 1))
        return c * slope, _row_sums(a * c - z * (c * slope))

    wrapped = jax.custom_vjp(lambda z, absorbed: function(z))
    wrapped.defvjp(lambda z, absorbed: (function(z), z), backward)
    return wrapped


@jax.custom_vjp
def _halved(x: Array) -> Array:
    return x


_halved.defvjp(lambda x: (x, None), lambda _, c: (c / 2,))


def _linear(
    behind: Callable[[Array], Array], z: Array
) -> tuple[Array, Callable[[Array], Array], Callable[[Array], Array]]:
    """Value of `behind` at `z`, and its linear part there, transposed and as it is."""
    y, push = jax.linearize(behind, z)
    back = jax.linear_transpose(push, z)
    return y, lambda c: back(c)[0], push


def _gamma_layer(
    apply: Callable[[Array, Array], Array], behind: Callable[[Array], Array], w: Array, gamma: float
) -> Callable[[Array, Array], Array]:
    """Return `behind(apply(a, w))` whose contributions with the sign of the sum are weighted by `1 + gamma`."""
    plus, minus = jnp.maximum(w, 0), jnp.minimum(w, 0)

    def backward(a: Array, c: Array) -> tuple[Array, Array]:
        z, back, push = _linear(behind, apply(a, w))
        up = back(jnp.ones_like(z)) >= 0  # where `behind` keeps the sign
        rises = apply(jnp.maximum(a, 0), plus) + apply(jnp.minimum(a, 0), minus)
        falls = apply(jnp.maximum(a, 0), minus) + apply(jnp.minimum(a, 0), plus)
        bias = z - push(rises + falls)
        same = jnp.where(z > 0, push(jnp.where(up, rises, falls)), push(jnp.where(up, falls, rises)))
        same_bias = jnp.where(z > 0, jnp.maximum(bias, 0), jnp.minimum(bias, 0))
        s = _safe(z * c, z + gamma * (same + same_bias))
        above, below = back(jnp.where(z > 0, s, 0)), back(jnp.where(z > 0, 0, s))
        to_plus, to_minus = jnp.where(up, above, below), jnp.where(up, below, above)  # for inputs above 0

        def carry(kernel, t):
            return jax.vjp(lambda a: apply(a, kernel), a)[1](t)[0]

        of_positive = carry(plus, to_plus) + carry(minus, to_minus)
        of_negative = carry(minus, to_plus) + carry(plus, to_minus)
        out = carry(w, above + below) + gamma * jnp.where(a >= 0, of_positive, of_negative)
        return out, _row_sums(s * (bias + gamma * same_bias))

    wrapped = jax.custom_vjp(lambda a, bias: behind(apply(a, w)))
    wrapped.defvjp(lambda a, bias: (behind(apply(a, w)), a), backward)
    return wrapped


def _bounded_layer(
    apply: Callable[[Array, Array], Array], behind: Callable[[Array], Array], w: Array, low: Array, high: Array
) -> Callable[[Array, Array], Array]:
    """Return `behind(apply(a, w))` with its relevance as cotangent of a second argument, as `a` may be 0."""
    plus, minus = jnp.maximum(w, 0), jnp.minimum(w, 0)

    def backward(a: Array, c: Array) -> tuple[Array, Array]:
        z, back, push = _linear(behind, apply(a, w))
        up = back(jnp.ones_like(z)) >= 0
        above = apply(a, w) - apply(low, plus) - apply(high, minus)
        below = apply(a, w) - apply(low, minus) - apply(high, plus)
        t = back(_safe(z * c, push(jnp.where(up, above, below))))
        rising, falling = jnp.where(up, t, 0), jnp.where(up, 0, t)

        def carry(kernel, t):
            return jax.vjp(lambda a: apply(a, kernel), a)[1](t)[0]

        from_low = carry(plus, rising) + carry(minus, falling)
        from_high = carry(minus, rising) + carry(plus, falling)
        return jnp.zeros_like(a), a * carry(w, t) - low * from_low - high * from_high

    wrapped = jax.custom_vjp(lambda a, direct: behind(apply(a, w)))
    wrapped.defvjp(lambda a, direct: (behind(apply(a, w)), a), backward)
    return wrapped
