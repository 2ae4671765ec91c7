"""Operations as JAX primitives: one name in a jaxpr, a form for each platform, every derivative, and `vmap`.

An operation has one form for CPUs and one for all other platforms; JAX chooses when a program is lowered, so that an
exported program holds both. Where an operation is linear in an operand, its transpose is again an operation, whose
transpose it is: such a family is closed, and derivatives of any order and in both modes are lowered as well as the
operation itself.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

Array = jax.Array
Form = Callable[..., Any]
Fold = Callable[..., Array | None]


def primitive(
    name: str, native: Form, cpu: Form, *, shapes: Form | None = None, several: bool = False, fold: Fold | None = None
) -> Primitive:
    """Make a primitive; call it with `bind`.

    Args:
        name: shown in jaxprs.
        native: the form for all platforms but CPUs, `(*arrays, **static)` to an array, or a list of them.
        cpu: the form for CPUs, from the same to the same.
        shapes: the same for shapes alone; by default `native` is traced.
        several: whether the result is a list of arrays.
        fold: `(operation, arrays, axes, **static)`, how `jax.vmap` becomes a larger operation of the same kind, with
            the new axis first in what it returns; None where it does not, and then each form is mapped itself.

    """
    made = Primitive(f"jaxcnn_{name}")
    made.multiple_results = several
    made.def_impl(functools.partial(_run, made))
    made.def_abstract_eval(functools.partial(_abstract, shapes or functools.partial(_traced, native), several))
    mlir.register_lowering(made, _lowering(native, several, jax.vmap))
    mlir.register_lowering(made, _lowering(cpu, several, _one_by_one), platform="cpu")
    batching.primitive_batchers[made] = functools.partial(_batched, made, fold)
    return made


def bind(operation: Primitive, *arrays: Array, mapped: bool = False, **static: Any) -> Any:
    """Apply a primitive, inside `jax.shard_map` as well, where operands must vary over the same axes of the mesh.

    Args:
        operation: of `primitive`.
        arrays: its operands.
        mapped: whether all of them have one more axis in front, for which the operation is repeated.
        static: its parameters, hashable.

    """
    axes = [_varying(x) for x in arrays]
    everywhere = frozenset[Any]().union(*axes)
    alike = [
        jax.lax.pcast(x, tuple(everywhere - own), to="varying") if everywhere - own else x
        for x, own in zip(arrays, axes, strict=True)
    ]
    return operation.bind(*alike, mapped=mapped, **static)


def linear(operation: Primitive, transposes: Mapping[int, Form]) -> None:
    """Declare that a primitive with one result is linear in each of some operands, and constant in the others.

    Args:
        operation: of `primitive`.
        transposes: number of an operand to `(cotangent, *arrays, **static)`, which returns the cotangent of that
            operand; in the place of the operand stands its abstract value.

    """

    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **static: Any) -> Any:
        out = operation.bind(*primals, **static)
        moving = [i for i in transposes if not isinstance(tangents[i], ad.Zero)]
        parts = [
            bind(operation, *(tangents[i] if i == j else x for j, x in enumerate(primals)), **static) for i in moving
        ]
        return out, functools.reduce(ad.add_jaxvals, parts) if parts else zero_tangent(out)

    def transpose(cotangent: Any, *arrays: Any, **static: Any) -> list[Any]:
        out: list[Any] = [None] * len(arrays)
        (place,) = (i for i, x in enumerate(arrays) if ad.is_undefined_primal(x))
        aval = arrays[place].aval
        if isinstance(cotangent, ad.Zero):
            out[place] = ad.Zero(aval.to_ct_aval())
        else:
            out[place] = transposes[place](
                cotangent, *(aval if i == place else x for i, x in enumerate(arrays)), **static
            )
        return out

    ad.primitive_jvps[operation], ad.primitive_transposes[operation] = jvp, transpose


def zero_tangent(x: Any) -> ad.Zero:
    """Return the tangent of a value that does not move."""
    return ad.Zero(jax.typeof(x).to_tangent_aval())


@functools.lru_cache(4096)
def _compiled(operation: Primitive, static: tuple[tuple[str, Any], ...]) -> Form:
    return jax.jit(functools.partial(operation.bind, **dict(static)))


def _run(operation: Primitive, *arrays: Array, **static: Any) -> Any:
    with jax.disable_jit(False):
        return _compiled(operation, tuple(static.items()))(*arrays)


def _varying(x: Any) -> frozenset[Any]:
    """Axes of the mesh that a value is known to vary over; none outside `jax.shard_map`."""
    kind = jax.typeof(x)
    return kind.mat.varying if hasattr(kind, "mat") else getattr(kind, "vma", frozenset())


def _traced(form: Form, *arrays: jax.ShapeDtypeStruct, **static: Any) -> Any:
    return jax.eval_shape(functools.partial(form, **static), *arrays)


def _abstract(shapes: Form, several: bool, *avals: Any, mapped: bool, **static: Any) -> Any:
    inner = [jax.ShapeDtypeStruct(a.shape[mapped:], a.dtype) for a in avals]
    like = next((a for a in avals if not a.sharding.mesh.empty), avals[0])

    def aval(out: Any) -> Any:
        shape = (*avals[0].shape[:mapped], *out.shape)
        sharding = NamedSharding(like.sharding.mesh, PartitionSpec(*(None,) * len(shape)))
        return like.update(shape=shape, dtype=out.dtype, weak_type=False, sharding=sharding)

    outs = shapes(*inner, **static)
    return [aval(out) for out in outs] if several else aval(outs)


def _one_by_one(form: Form) -> Form:
    """Map a form one by one: on a CPU what it reads then stays in the cache, and each product uses every core."""
    return lambda *arrays: jax.lax.map(lambda some: form(*some), arrays)


def _lowering(form: Form, several: bool, mapping: Callable[[Form], Form]) -> Form:
    def run(*arrays: Array, mapped: bool, **static: Any) -> Any:
        one = functools.partial(form, **static)
        return (mapping(one) if mapped else one)(*arrays)

    lowered = mlir.lower_fun(run, multiple_results=several)

    def rule(context: Any, *values: Any, **params: Any) -> Any:
        # a form computes what one device has, whatever the mesh around it
        avals = [ShapedArray(a.shape, a.dtype) for a in context.avals_in]
        return lowered(context.replace(avals_in=avals), *values, **params)

    return rule


def _batched(
    operation: Primitive,
    fold: Fold | None,
    arrays: Sequence[Any],
    axes: Sequence[int | None],
    mapped: bool,
    **static: Any,
) -> Any:
    if fold is not None and not mapped:
        folded = fold(operation, arrays, axes, **static)
        if folded is not None:
            return (folded, [0] * len(folded)) if operation.multiple_results else (folded, 0)
    size = next(x.shape[axis] for x, axis in zip(arrays, axes, strict=True) if axis is not None)
    moved = [to_front(x, axis, size) for x, axis in zip(arrays, axes, strict=True)]
    if not mapped:
        out = bind(operation, *moved, mapped=True, **static)
    else:  # the two axes become one
        each = moved[0].shape[1]
        out = bind(operation, *(x.reshape(size * each, *x.shape[2:]) for x in moved), mapped=True, **static)
        out = jax.tree.map(lambda y: y.reshape(size, each, *y.shape[1:]), out)
    return (out, [0] * len(out)) if operation.multiple_results else (out, 0)


def to_front(x: Array, axis: int | None, size: int) -> Array:
    """Move an axis to the front; where there is none, repeat the array along a new one of this size."""
    return jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)


def fold_rows(
    operation: Primitive, arrays: Sequence[Any], axes: Sequence[int | None], *, rows: Sequence[int], **static: Any
) -> Any:
    """`fold` of `primitive` where some operands and all results lead with rows that are computed one by one.

    Args:
        operation: the primitive.
        arrays: its operands.
        axes: those that `jax.vmap` maps.
        rows: numbers of the operands that lead with rows; if others are mapped, the answer is None.
        static: parameters of the primitive.

    """
    if any(axis is not None and i not in rows for i, axis in enumerate(axes)):
        return None
    size = next(x.shape[axis] for x, axis in zip(arrays, axes, strict=True) if axis is not None)
    moved = [to_front(x, axis, size) if i in rows else x for i, (x, axis) in enumerate(zip(arrays, axes, strict=True))]
    each = moved[rows[0]].shape[1]
    merged = [x.reshape(size * each, *x.shape[2:]) if i in rows else x for i, x in enumerate(moved)]
    return jax.tree.map(lambda y: y.reshape(size, each, *y.shape[1:]), bind(operation, *merged, **static))
