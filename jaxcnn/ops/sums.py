"""Sums over all places of an array, one per channel, and their transpose, which norms and biases need at each step."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.native import is_native
from jaxcnn.ops.primitives import bind, linear, primitive

Array = jax.Array
PARTS = 13  # added elementwise at most


def channel_sums(x: Array) -> Array:
    """Sum over all axes but the last, `[B, ..., C]` to `[C]`; 16-bit values are added in float32."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(
        x.shape[0], -1, x.shape[-1]
    )  # the batch may be spread over devices
    return _all_places(wide) if is_native() else bind(SUMS, wide)


def spread(values: Array, like: Array) -> Array:
    """Repeat values per channel, `[C]`, at all places of an array `[B, ..., C]`; the transpose of `channel_sums`."""
    shape = like.shape[0], max(like.size, 1) // max(like.shape[0] * like.shape[-1], 1), like.shape[-1]
    return (_repeated(values, shape[:2]) if is_native() else bind(SPREAD, values, places=shape[:2])).reshape(like.shape)


def by_parts(x: Array) -> Array:
    """`[N, M, C]` to `[C]` on a CPU: some parts of the second axis added elementwise, the rest as a product with ones.

    A plain reduction takes up to three times as long: it runs on one core.
    """
    places = x.shape[1]
    if not isinstance(places, int):
        return _all_places(x)
    count = next(n for n in range(min(PARTS, places), 0, -1) if places % n == 0)
    parts = (lax.slice_in_dim(x, n, n + places // count, axis=1) for n in range(0, places, places // count))
    total = functools.reduce(jnp.add, parts).reshape(-1, x.shape[-1])
    return lax.dot_general(jnp.ones(total.shape[0], x.dtype), total, (((0,), (0,)), ((), ())))


def _all_places(x: Array) -> Array:
    return x.sum((0, 1))


def _repeated(values: Array, places: tuple[int, int]) -> Array:
    return lax.broadcast_in_dim(values, (*places, values.shape[0]), (2,))


SUMS = primitive("channel_sums", _all_places, by_parts)
SPREAD = primitive("spread", _repeated, _repeated)
linear(SUMS, {0: lambda ct, x, mapped: bind(SPREAD, ct, places=x.shape[mapped : mapped + 2], mapped=mapped)})
linear(SPREAD, {0: lambda ct, values, places, mapped: bind(SUMS, ct, mapped=mapped)})
