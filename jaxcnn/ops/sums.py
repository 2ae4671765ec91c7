"""Sums over all places of an array, a number a channel: what norms and biases need at every step."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.native import by_platform

Array = jax.Array
PARTS = 13  # added elementwise at most


def channel_sums(x: Array) -> Array:
    """Sum over all axes but the last, `[B, ..., C]` to `[C]`; 16-bit values are added in float32."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(len(x), -1, x.shape[-1])  # the batch may be spread over devices
    return by_platform(by_parts, lambda x: x.sum((0, 1)), wide)


def by_parts(x: Array) -> Array:
    """`[N, M, C]` to `[C]` on a CPU: some parts of the second axis added elementwise, the rest as a product with ones.

    A plain reduction takes up to three times as long: it runs on one core.
    """
    places = x.shape[1]
    count = next(n for n in range(min(PARTS, places), 0, -1) if places % n == 0)
    parts = (lax.slice_in_dim(x, n, n + places // count, axis=1) for n in range(0, places, places // count))
    total = functools.reduce(jnp.add, parts).reshape(-1, x.shape[-1])
    return lax.dot_general(jnp.ones(len(total), x.dtype), total, (((0,), (0,)), ((), ())))
