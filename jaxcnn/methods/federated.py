"""Federated learning, simulated: many clients train on rows of their own, and a server averages what they learnt.

A round is one training step. `methods.clients` makes batches that hold the rows of the round's clients, and `federated`
is the estimator whose gradient is the mean change of the clients, with the sign turned: with SGD at rate 1, the step is
FedAvg (McMahan et al., 2016, arXiv:1602.05629), and with Adam FedAdam (Reddi et al., 2020, arXiv:2003.00295).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.core.collectives import all_sum, over, row_count, row_numbers
from jaxcnn.core.types import Batch, InputError, Mean, Tree, check_numbers, check_whole, row_mask, rows
from jaxcnn.methods import secure_sum
from jaxcnn.methods.private import check_sampling, check_state, noisy
from jaxcnn.train.step import Estimator, Gradient, Objective

Array = jax.Array
CLIENT, ROOM, NUMBER = "client", "client_room", "client_count"  # columns of `methods.clients`


def federated(
    tx: optax.GradientTransformation,
    rows_per_client: int,
    *,
    batch_size: int = 10,
    epochs: int = 1,
    proximal: float = 0.0,
    clip: float = math.inf,
    noise: float = 0.0,
    expected: int = 0,
    secure: float = 0.0,
) -> Estimator:
    """Estimate the gradient as the mean change of the clients of a batch, weighted by their rows.

    With noise, a whole client is hidden, with all its rows (McMahan et al., 2017, arXiv:1710.06963): changes are
    clipped, clients count alike, and their sum gets noise and is divided by `expected`, whatever the number of clients.
    `private.epsilon(noise, expected / clients, rounds, delta)` is what it spends, if clients are drawn by Poisson
    sampling: `methods.clients(..., poisson=True)`.

    Args:
        tx: the clients' optimiser, whose state is new in each round; plain SGD in the papers.
        rows_per_client: room for rows of a client, `Clients.room`; a batch has the rows of one client after another.
        batch_size: rows in a client's update; those of the last one of an epoch may be fewer.
        epochs: passes of a client over its rows in a round.
        proximal: weight of half the squared distance from the server's parameters in the clients' loss: FedProx (Li et
            al., 2018, arXiv:1812.06127); 0 is FedAvg.
        clip: largest length of a client's change; infinite for none. With it, a change that is not finite counts as 0.
        noise: standard deviation of the noise in the sum of the changes, over `clip`.
        expected: expected number of clients of a round, which noise needs; 0 without noise.
        secure: 0, or the largest change that the sum needs to hold: the server then adds integers under the masks of
            `methods.secure_sum`, which vanish in the sum, and larger changes are cut off. The metric `"cut"` is the
            share of values that were, or that are NaN and count as 0.

    Returns:
        The estimator. Its metrics are those of the clients' last epoch. Running statistics are averaged like the
        parameters.

    Raises:
        InputError: a value is outside its range; or (when traced) the rows of a device are not those of whole clients,
            a model with running statistics gets noise or masks, or there is noise and clients are not drawn by Poisson
            sampling. `fit` refuses data whose clients have another room than `rows_per_client`. If clients were drawn
            at another size, the gradient is NaN.

    """
    for name, value in (("rows_per_client", rows_per_client), ("batch_size", batch_size), ("epochs", epochs)):
        check_whole(name, value, 1)
    check_numbers(clip=clip, noise=noise, proximal=proximal, secure=secure)
    if not 0 <= proximal < math.inf:
        raise InputError(f"proximal={proximal}: must be at least 0")
    if not clip > 0:
        raise InputError(f"clip={clip}: must be positive")
    if not 0 <= noise < math.inf or noise and math.isinf(clip):
        raise InputError(f"noise={noise}: must be at least 0, and 0 without clipping (clip={clip})")
    check_whole("expected", expected, 0)
    if bool(noise) != bool(expected):
        what = "must be the expected number of clients of a round, which noise needs" if noise else "is read with noise"
        raise InputError(f"expected={expected}, noise={noise}: {what}")
    if not 0 <= secure < math.inf:
        raise InputError(f"secure={secure}: must be the largest change of a value, or 0")

    def estimator(objective: Objective) -> Gradient:
        client = local_training(objective, tx, rows_per_client, batch_size, epochs, proximal)

        def gradient(params: Tree, model_state: Tree, batch: Batch, key: Array) -> tuple[Tree, Tree, Any]:
            if noise or secure:
                check_state(model_state)
            inner, noises, masks = jax.random.split(key, 3)
            each, keys, fits = by_client(batch, rows_per_client, inner)
            count = row_count(len(keys))
            if noise:
                fits *= check_sampling(batch, count, expected, "clients", "methods.clients(..., poisson=True)")
            hidden = functools.partial(_hidden, secure, count, masks)

            def one(total: Any, now: Any) -> tuple[Any, Any]:
                some, key, number = now
                own, state, sums = client(params, model_state, some, key)[:3]
                change = jax.tree.map(lambda p, q: p - q, params, own)  # a gradient points upwards
                weight = some["row_mask"].mean()
                weight = (weight > 0).astype(jnp.float32) if noise else weight
                sent = jax.tree.map(lambda x: weight * x, (_clipped(change, clip), state, jnp.ones(())))
                if secure:
                    real = (some["row_mask"].max() > 0).astype(jnp.float32)  # padding sends nothing
                    sums = sums | {"cut": jax.tree.map(lambda x: real * x, _cut(sent[0], secure))}
                    sent = hidden(sent, number)
                return jax.tree.map(jnp.add, total, sent), sums

            zero = jax.tree.map(jnp.zeros_like, (params, model_state, jnp.zeros(())))
            zero = jax.tree.map(lambda x: x.astype(jnp.uint32), zero) if secure else zero
            total, sums = jax.lax.scan(one, zero, (each, keys, row_numbers(len(keys))))
            change, state, weight = all_sum(total)
            if secure:
                change, weight = secure_sum.floats(change, secure, count), secure_sum.floats(weight, 1.0, count)
            change = noisy(change, noise * clip if noise else 0.0, noises)
            # a batch that does not fit on one device makes the change NaN on all
            share = all_sum(0 * fits) + (1 / expected if noise else 1 / jnp.maximum(weight, 1e-9))
            state = jax.tree.map(lambda s, old: jnp.where(weight > 0, s * share, old), state, model_state)
            return jax.tree.map(lambda c: c * share, change), state, jax.tree.map(lambda x: x.sum(0), sums)

        return gradient

    estimator.private = bool(noise)  # pyright: ignore[reportFunctionMemberAccess] (see `train.step.make_train_step`)
    estimator.check = functools.partial(check_room, rows_per_client)  # pyright: ignore[reportFunctionMemberAccess]
    return estimator


def _hidden(scale: float, count: int, key: Array, sent: tuple[Tree, Tree, Array], client: Array) -> Any:
    """Return what a client sends as integers under its masks: the change, no state, and the weight."""
    change, state, weight = sent
    whole = (secure_sum.quantized(change, scale, count), secure_sum.quantized(weight, 1.0, count))
    change, weight = secure_sum.masked_in_pairs(whole, client, count, key)
    return change, state, weight


def _cut(change: Tree, scale: float) -> Mean:
    """Return the share of values whose absolute value is above `scale`, or no number."""
    leaves = jax.tree.leaves(change)
    above = jnp.float32(sum((~(jnp.abs(x) <= scale)).sum() for x in leaves))
    return Mean(above, jnp.float32(sum(x.size for x in leaves)))


def local_training(
    objective: Objective,
    tx: optax.GradientTransformation,
    rows_per_client: int,
    batch_size: int,
    epochs: int,
    proximal: float = 0.0,
) -> Callable[..., tuple[Tree, Tree, Any, Array]]:
    """Return a client: from the server's parameters to those after training on the client's rows.

    Args:
        objective: of an estimator.
        tx: the client's optimiser.
        rows_per_client: rows of the client's batch, padding included.
        batch_size: rows in an update.
        epochs: passes over the rows.
        proximal: weight of half the squared distance from the server's parameters.

    Returns:
        `client(params, model_state, batch, key, correction=None)`, which returns its parameters and model state, the
        sums of its last epoch, and the number of its updates; `correction` is added to every gradient.

    """
    batch_size = min(batch_size, rows_per_client)
    updates = -(-rows_per_client // batch_size)

    def client(
        params: Tree, model_state: Tree, batch: Batch, key: Array, correction: Tree | None = None
    ) -> tuple[Tree, Tree, Any, Array]:
        def update(carry: Any, now: tuple[Array, Array, Array]) -> tuple[Any, Any]:
            (own, state, opt, done), (index, inside, key) = carry, now
            some = {k: x[index] for k, x in batch.items()}
            some["row_mask"] = some["row_mask"] * inside
            with over():  # rows of other clients, on whatever device, change nothing
                slope, (new, weight, sums) = jax.grad(objective, has_aux=True)(own, state, some, key)
            slope = jax.tree.map(lambda g, p, q: g / jnp.maximum(weight, 1e-9) + proximal * (p - q), slope, own, params)
            slope = slope if correction is None else jax.tree.map(jnp.add, slope, correction)
            change, later = tx.update(slope, opt, own)
            there = weight > 0  # an update without rows is none
            after = (optax.apply_updates(own, change), new, later, done + 1)
            return jax.tree.map(lambda a, b: jnp.where(there, a, b), after, carry), sums

        def epoch(carry: Any, key: Array) -> tuple[Any, Any]:
            order, steps = jax.random.split(key)
            # rows first, in random order, and padding last
            place = jnp.argsort(jax.random.uniform(order, (rows_per_client,)) + 2 * (batch["row_mask"] == 0))
            place = jnp.pad(place, (0, updates * batch_size - rows_per_client)).reshape(updates, -1)
            inside = (jnp.arange(place.size) < rows_per_client).reshape(place.shape)
            carry, sums = jax.lax.scan(update, carry, (place, inside, jax.random.split(steps, updates)))
            return carry, jax.tree.map(lambda x: x.sum(0), sums)

        first = (params, model_state, tx.init(params), jnp.zeros((), jnp.int32))
        (own, state, _, done), sums = jax.lax.scan(epoch, first, jax.random.split(key, epochs))
        return own, state, jax.tree.map(lambda x: x[-1], sums), done

    return client


def check_room(rows_per_client: int, rows: Batch) -> None:
    """Raise `InputError` for rows of `methods.clients` whose clients have another room: they would be taken apart."""
    if ROOM in rows and (room := int(np.max(rows[ROOM]))) != rows_per_client:
        raise InputError(f"rows_per_client={rows_per_client}: the clients have room for {room} rows; give their room")


def by_client(batch: Batch, rows_per_client: int, key: Array) -> tuple[dict[str, Array], Array, Array]:
    """Return a batch as `[clients, rows_per_client, ...]` with its row mask, a key for each client, and 1.

    The last is NaN if the batch is one of `methods.clients` whose clients have another room, and are taken apart: a
    trace cannot refuse.

    Raises:
        InputError: the rows of a device are not those of whole clients.

    """
    if rows(batch) % rows_per_client:
        raise InputError(f"rows_per_client={rows_per_client}: does not divide the {rows(batch)} rows per device")
    count, held = rows(batch) // rows_per_client, {**batch, "row_mask": row_mask(batch)}
    each = jax.tree.map(lambda x: x.reshape(count, rows_per_client, *x.shape[1:]), held)
    room = batch.get(ROOM, jnp.int32(rows_per_client))
    fits = jnp.where((room == rows_per_client).all(), 1.0, jnp.nan)
    return each, jax.vmap(lambda i: jax.random.fold_in(key, i))(row_numbers(count)), fits


def _clipped(change: Tree, clip: float) -> Tree:
    if math.isinf(clip):
        return change
    length = jnp.sqrt(sum(jnp.vdot(c, c) for c in jax.tree.leaves(change)))
    share = jnp.minimum(1, clip / jnp.maximum(length, 1e-30))
    return jax.tree.map(lambda c: jnp.where(jnp.isfinite(length), c * share, 0), change)


def bytes_per_round(params: Tree, count: int) -> int:
    """Return the bytes that a round of `count` clients sends, down and up, at the precision of the parameters."""
    return 2 * count * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))
