"""Secure aggregation: a server learns the sum of what clients send, and nothing about one of them.

Values become integers modulo 2^32. Each pair of clients shares a key, from which both draw the same masks; one adds
them and the other subtracts them, so that they vanish in the sum, bit for bit. This is the arithmetic of Bonawitz et
al. (2017, doi:10.1145/3133956.3133982) for clients that all answer; agreeing on keys and losing clients are not here.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcnn.core.types import InputError, Tree, check_numbers, check_whole, named

Array = jax.Array
BITS = 32
FLOAT = 2.0**31 - 128  # the largest float32 below 2^31


def quantized(tree: Tree, scale: float, count: int) -> Tree:
    """Return arrays as unsigned integers modulo 2^32, which a sum of `count` clients does not overflow.

    Args:
        tree: arrays of floats.
        scale: largest absolute value that is kept; larger ones are cut off. A step is about `scale * count / 2^31`.
        count: number of clients, from 1 to 2^31 - 1.

    Raises:
        InputError: `scale` or `count` is out of range, or a value is NaN (compiled, it becomes 0).

    """
    step, most = _step(scale, count), _most(count)
    for name, x in named(tree):
        if not isinstance(x, Tracer) and jnp.isnan(x).any():
            raise InputError(f"{name}: is NaN; a client whose training failed must not send")

    def whole(x: Array) -> Array:
        x = x.astype(jnp.float32)  # a step is too small for float16
        steps = jnp.round(jnp.clip(jnp.nan_to_num(x), -scale, scale) / step)
        # float32 has few digits for the largest integers, and 2^31 is none
        return jnp.clip(jnp.clip(steps, -FLOAT, FLOAT).astype(jnp.int32), -most, most).astype(jnp.uint32)

    return jax.tree.map(whole, tree)


def masked(tree: Tree, client: int, keys: Sequence[Array | None]) -> Tree:
    """Add the masks of one client.

    Args:
        tree: unsigned integers, of `quantized`.
        client: its number.
        keys: the key that it shares with each client, in order; its own entry is not used.

    Raises:
        InputError: there is no such client, or the arrays are not of `quantized`.

    """
    check_whole("client", client)
    if not 0 <= client < len(keys):
        raise InputError(f"client={client}: must be from 0 to {len(keys) - 1}")
    _check_quantized(tree)
    leaves, form = jax.tree.flatten(tree)
    for other, key in enumerate(keys):
        if other == client:
            continue
        if key is None:
            raise InputError(f"keys: client {client} shares none with client {other}, whose masks would not vanish")
        drawn = [
            jax.random.bits(k, x.shape, jnp.uint32)
            for k, x in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
        ]
        leaves = [x + m if client < other else x - m for x, m in zip(leaves, drawn, strict=True)]
    return jax.tree.unflatten(form, leaves)


def masked_in_pairs(tree: Tree, client: Array | int, count: int, key: Array) -> Tree:
    """Add the masks of one client of a simulation, in which the keys of all pairs come from one.

    Args:
        tree: unsigned integers, of `quantized`.
        client: its number, which may be traced.
        count: number of clients.
        key: of the round.

    Raises:
        InputError: there is no such client, or the arrays are not of `quantized`.

    """
    check_whole("count", count)
    if isinstance(client, int) and not 0 <= client < count:
        raise InputError(f"client={client}: must be from 0 to {count - 1}")
    _check_quantized(tree)
    leaves, form = jax.tree.flatten(tree)

    def add(other: Array, leaves: list[Array]) -> list[Array]:
        pair = jax.random.fold_in(jax.random.fold_in(key, jnp.minimum(client, other)), jnp.maximum(client, other))
        sign = jnp.where(other == client, 0, jnp.where(client < other, 1, -1)).astype(jnp.uint32)
        keys = jax.random.split(pair, len(leaves))
        return [x + sign * jax.random.bits(k, x.shape, jnp.uint32) for k, x in zip(keys, leaves, strict=True)]

    return jax.tree.unflatten(form, jax.lax.fori_loop(0, count, add, leaves))


def total(trees: Sequence[Tree], scale: float, count: int) -> Tree:
    """Return the sum of what all clients sent, as floats.

    Args:
        trees: of `masked`, one per client.
        scale: as in `quantized`.
        count: as in `quantized`.

    Raises:
        InputError: a client is missing or sent other arrays, so that masks do not vanish, or `scale` or `count` is out
            of range.

    """
    if len(trees) != count:
        raise InputError(f"trees: {len(trees)} clients of count={count}; the sum needs what every client sent")
    forms = [{name: np.shape(x) for name, x in named(tree)} for tree in trees]
    if other := next((i for i, form in enumerate(forms) if form != forms[0]), 0):
        raise InputError(f"trees: client {other} sent {forms[other]}, and client 0 {forms[0]}; all must send the same")
    return floats(jax.tree.map(lambda *x: sum(x[1:], x[0]), *trees), scale, count)


def floats(added: Tree, scale: float, count: int) -> Tree:
    """Return the sum of integers of `count` clients as floats.

    Raises:
        InputError: `scale` or `count` is out of range, or the arrays are not sums of `quantized`.

    """
    step = _step(scale, count)
    _check_quantized(added)
    return jax.tree.map(lambda x: x.astype(jnp.int32).astype(jnp.float32) * step, added)


def _check_quantized(tree: Tree) -> None:
    for name, x in named(tree):
        if getattr(x, "dtype", None) != np.uint32:
            kind = getattr(x, "dtype", type(x).__name__)
            raise InputError(f"{name or 'tree'}: is {kind}; must be uint32, as quantized makes it")


def _most(count: int) -> int:
    """Return the largest integer of a client."""
    return (2 ** (BITS - 1) - 1) // count


def _step(scale: float, count: int) -> float:
    check_numbers(scale=scale)
    check_whole("count", count, 1)
    if not 0 < scale < float("inf") or not count < 2 ** (BITS - 1):
        raise InputError(f"scale={scale}, count={count}: must be positive, and count below 2^31")
    return scale / _most(count)
