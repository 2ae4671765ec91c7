"""Rematerialisation (Chen et al., 2016, arXiv:1604.06174): arrays are computed again in the backward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from jaxcnn.ops.primitives import bind, linear, primitive, to_front, zero_tangent

Array = jax.Array


def recompute(fn: Callable[[Array, Any], tuple[Array, Any]]) -> Callable[[Array, Any], tuple[Array, Any]]:
    """Return `fn` with a gradient that keeps nothing but its arguments; forward-mode derivatives are those of `fn`.

    Why not `jax.checkpoint`: on a CPU, XLA drops the barriers that it relies on and runs all recomputation at once,
    right after the forward pass; measured on a residual network it then takes *more* memory. Here the recomputation
    waits for the gradient that it is needed for.

    Args:
        fn: `(x, rest) -> (y, more)`, pure; `x` and `y` are arrays with the same rows, `rest` and `more` any trees.

    """
    wrapped = jax.custom_jvp(fn)

    @wrapped.defjvp
    def jvp(primals: tuple[Array, Any], tangents: tuple[Array, Any]) -> tuple[Any, Any]:
        out = wrapped(*primals)
        flat, tree = jax.tree.flatten(primals)
        moved = jax.tree.leaves(tangents)
        smooth = [i for i, t in enumerate(moved) if t.dtype != jax.dtypes.float0]

        def push(*operands: Array) -> list[Array]:
            kept, given = operands[: len(flat)], iter(operands[len(flat) :])
            every = [next(given) if i in smooth else t for i, t in enumerate(moved)]
            return _floating(jax.jvp(fn, jax.tree.unflatten(tree, kept), jax.tree.unflatten(tree, every))[1])

        def pull(kept: Sequence[Array], cotangents: Sequence[Array]) -> list[Array]:
            x, rest = jax.tree.unflatten(tree, kept)
            y, back = jax.vjp(fn, bind(AFTER, x, cotangents[0]), rest)
            given = iter(cotangents)
            every = jax.tree.map(
                lambda t: t if t.dtype == jax.dtypes.float0 else next(given), jax.tree.map(_zero_tangent, y)
            )
            return [t for i, t in enumerate(jax.tree.leaves(back(every))) if i in smooth]

        operands = [*flat, *(moved[i] for i in smooth)]
        pushed = iter(PUSH.bind(*operands, traced=jax.make_jaxpr(push)(*operands), pull=pull, kept=len(flat)))
        zeros = jax.tree.map(_zero_tangent, out)
        return out, jax.tree.map(lambda t: t if t.dtype == jax.dtypes.float0 else next(pushed), zeros)

    return wrapped


def _zero_tangent(x: Array) -> Any:
    return ad.instantiate_zeros(zero_tangent(x))


def _floating(tangents: Any) -> list[Array]:
    return [t for t in jax.tree.leaves(tangents) if t.dtype != jax.dtypes.float0]


# Tangents pushed through a function: linear in them, and what was kept of the function are its arguments alone.
def _push_jvp(operands: Sequence[Any], tangents: Sequence[Any], *, traced: ClosedJaxpr, **static: Any) -> Any:
    del static
    return jax.jvp(jaxpr_as_fun(traced), list(operands), [ad.instantiate_zeros(t) for t in tangents])


def _push_transpose(
    cotangents: Sequence[Any], *operands: Any, pull: Callable[..., Any], kept: int, **static: Any
) -> list[Any]:
    del static
    pulled = pull(operands[:kept], [ad.instantiate_zeros(ct) for ct in cotangents])
    given = zip(operands[kept:], pulled, strict=True)
    return [*(None,) * kept, *(ct if ad.is_undefined_primal(x) else None for x, ct in given)]


def _push_batched(
    operands: Sequence[Any], axes: Sequence[Any], *, traced: ClosedJaxpr, pull: Callable[..., Any], kept: int
) -> Any:
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    held, moved = axes[:kept], [to_front(x, axis, size) for x, axis in zip(operands[kept:], axes[kept:], strict=True)]
    operands = [*operands[:kept], *moved]
    many = jax.make_jaxpr(jax.vmap(jaxpr_as_fun(traced), (*held, *(0,) * len(moved))))(*operands)

    def pull_many(kept: Sequence[Array], cotangents: Sequence[Array]) -> list[Array]:
        return jax.vmap(pull, (list(held), 0))(list(kept), list(cotangents))

    out = PUSH.bind(*operands, traced=many, pull=pull_many, kept=kept)
    return out, [0] * len(out)


def _push(*operands: Any, traced: ClosedJaxpr, **static: Any) -> list[Any]:
    del static
    return jaxpr_as_fun(traced)(*operands)


PUSH = Primitive("recomputed")
PUSH.multiple_results = True
PUSH.def_impl(lambda *operands, traced, **static: jax.jit(jaxpr_as_fun(traced))(*operands))
PUSH.def_abstract_eval(lambda *avals, traced, **static: traced.out_avals)
mlir.register_lowering(PUSH, mlir.lower_fun(_push))
ad.primitive_jvps[PUSH], ad.primitive_transposes[PUSH] = _push_jvp, _push_transpose
batching.primitive_batchers[PUSH] = _push_batched


def _late(x: Array, dy: Array) -> Array:
    """`x`, in a program that cannot have it before `dy`; row by row, so that no device waits for another's rows."""
    first = dy[(slice(None), *(slice(0, 1),) * (dy.ndim - 1))]
    return x + 0 * first.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)


AFTER = primitive("after", lambda x, dy: lax.optimization_barrier((x, dy))[0], _late, shapes=lambda x, dy: x)
linear(AFTER, {0: lambda ct, x, dy, mapped: ct})
