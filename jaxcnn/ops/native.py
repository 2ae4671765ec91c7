"""XLA's own convolution and its transposes: right on GPU and TPU, and what every other lowering must equal."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.geometry import Geometry

Array = jax.Array
_native_only = jax.make_user_context(False)  # part of the key by which JAX knows what it has traced and compiled
_whole = jax.make_user_context(False)
_no_top_k = jax.make_user_context(False)


@contextlib.contextmanager
def native_lowering() -> Iterator[None]:
    """Trace every operation in this context to XLA's own form, even on a CPU.

    Use it for comparisons, and where the last digits matter more than speed: Winograd convolution differs by about
    1e-5. A function that `jax.jit` compiled outside is traced again inside. A function that `jax.vjp` or
    `jax.linearize` returned keeps the form in which it was traced.
    """
    with _native_only(True):
        yield


def is_native() -> bool:
    """Whether what is traced now is left to XLA."""
    return bool(_native_only.value)


@contextlib.contextmanager
def whole_operations() -> Iterator[None]:
    """Trace pooling, resizing, suppression and RoIAlign to one equation each, for those who translate the program.

    The equations compute the same as what is traced outside of this context, but have no derivatives.
    """
    with _whole(True):
        yield


def is_whole() -> bool:
    """Whether what is traced now is to stay one equation per operation."""
    return bool(_whole.value)


@contextlib.contextmanager
def without_top_k() -> Iterator[None]:
    """Trace `top_k` to a sort, for runtimes that do not know the operation, such as TensorFlow's."""
    with _no_top_k(True):
        yield


def top_k(x: Array, k: int) -> tuple[Array, Array]:
    """Return the k largest values along the last axis and their places, the largest first; `lax.top_k`.

    Args:
        x: `[..., N]`.
        k: how many, at most N.

    Returns:
        `[..., k]` and int32 `[..., k]`; of equal values, the first one in `x` comes first, and NaN is the largest.

    """
    if not _no_top_k.value:
        values, places = lax.top_k(x, k)
        return values, places
    # ascending and stable from the end, so that read backwards equal values have the order of `x`
    places = lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    values, places = lax.sort((jnp.flip(x, -1), jnp.flip(places, -1)), num_keys=1, is_stable=True)
    return jnp.flip(values, -1)[..., :k], jnp.flip(places, -1)[..., :k]


def once(function: Callable[..., Any], *arrays: Array) -> Any:
    """`function(*arrays)`, its arguments and its result each computed once and kept in memory.

    XLA's CPU fusion computes elementwise producers again in every consumer (a depthwise kernel gradient then computes
    its cotangent once a tap), and removes `optimization_barrier` before it fuses. The branches of a condition are never
    fused with what is around them; this one always holds, which the compiler cannot know.
    """
    some = arrays[-1][(0,) * arrays[-1].ndim]
    shapes = jax.eval_shape(function, *arrays)

    def zeros(*_):
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    return lax.cond((some <= jnp.inf) | jnp.isnan(some), function, zeros, *arrays)


def layout(ndim: int) -> tuple[str, str, str]:
    """Dimension numbers of channels-last arrays with `ndim - 2` spatial axes."""
    axes = "DHW"[-(ndim - 2) :]
    return f"N{axes}C", f"{axes}IO", f"N{axes}C"


def native_forward(x: Array, w: Array, g: Geometry) -> Array:
    """`[B, *spatial, C_in]` and `[*window, C_in / groups, C_out]` to `[B, *out, C_out]`."""
    return lax.conv_general_dilated(
        x,
        w,
        g.strides,
        g.padding,
        rhs_dilation=g.dilation,
        feature_group_count=g.groups,
        dimension_numbers=layout(x.ndim),
    )


def native_input_grad(dy: Array, w: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    """Transpose of `native_forward` in its first argument."""
    (dx,) = jax.linear_transpose(lambda x: native_forward(x, w, g), jax.ShapeDtypeStruct(shape, dy.dtype))(dy)
    return dx


def native_kernel_grad(x: Array, dy: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    """Transpose of `native_forward` in its second argument."""
    (dw,) = jax.linear_transpose(lambda w: native_forward(x, w, g), jax.ShapeDtypeStruct(shape, x.dtype))(dy)
    return dw
