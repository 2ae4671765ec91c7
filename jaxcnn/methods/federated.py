"""Federated learning, simulated: many clients train on rows of their own, and a server averages what they learnt.

A round is one training step. `clients` makes batches that hold the rows of the round's clients, and `federated` is the
estimator whose gradient is the mean change of the clients, with the sign turned: with SGD at rate 1, the step is FedAvg
(McMahan et al., 2016, arXiv:1602.05629), and with Adam FedAdam (Reddi et al., 2020, arXiv:2003.00295).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.core.collectives import all_sum, row_numbers
from jaxcnn.core.types import Batch, InputError, Tree, row_mask, rows
from jaxcnn.data import Resident
from jaxcnn.data.order import ALL, Shard, fill
from jaxcnn.methods.private import check_state, noisy
from jaxcnn.parallel.compile import IndexedChunk
from jaxcnn.train.step import Estimator, Gradient, Objective

Array = jax.Array


def federated(
    tx: optax.GradientTransformation,
    rows_per_client: int,
    *,
    batch_size: int = 10,
    epochs: int = 1,
    proximal: float = 0.0,
    clip: float = math.inf,
    noise: float = 0.0,
) -> Estimator:
    """Estimate the gradient as the mean change of the clients of a batch, weighted by their rows.

    Args:
        tx: the clients' optimiser, whose state is new in each round; plain SGD in the papers.
        rows_per_client: room for rows of a client, `Clients.room`; a batch has the rows of one client after another.
        batch_size: rows in a client's update; those of the last one of an epoch may be fewer.
        epochs: passes of a client over its rows in a round.
        proximal: weight of half the squared distance from the server's parameters in the clients' loss: FedProx (Li et
            al., 2018, arXiv:1812.06127); 0 is FedAvg.
        clip: largest length of a client's change; infinite for none.
        noise: standard deviation of the noise in the sum of the changes, over `clip`. With it, every client counts
            alike, which is privacy for users (McMahan et al., 2017, arXiv:1710.06963); a batch must then have the rows
            of the same number of clients in each round, and the model no running statistics. What this spends is not
            accounted for here.

    Returns:
        The estimator. Its metrics are those of the clients' last epoch. Running statistics are averaged like the
        parameters.

    Raises:
        InputError: a value is outside its range; or (when traced) the rows of a device are not those of whole clients,
            or a model with a state gets noise.

    """
    for name, value in (("rows_per_client", rows_per_client), ("batch_size", batch_size), ("epochs", epochs)):
        if value < 1:
            raise InputError(f"{name}={value}: must be at least 1")
    if not 0 <= proximal < math.inf:
        raise InputError(f"proximal={proximal}: must be at least 0")
    if not clip > 0:
        raise InputError(f"clip={clip}: must be positive")
    if not 0 <= noise < math.inf or noise and math.isinf(clip):
        raise InputError(f"noise={noise}: must be at least 0, and 0 without clipping (clip={clip})")
    batch_size = min(batch_size, rows_per_client)
    updates = -(-rows_per_client // batch_size)

    def estimator(objective: Objective) -> Gradient:
        def client(params: Tree, model_state: Tree, batch: Batch, key: Array) -> tuple[Tree, Tree, Any]:
            """Train on one client's rows, and return its parameters, model state and sums."""

            def update(carry: Any, now: tuple[Array, Array]) -> tuple[Any, Any]:
                (own, state, opt), (index, key) = carry, now
                some = {k: x[index] for k, x in batch.items()}
                some["row_mask"] = some["row_mask"] * (jnp.arange(batch_size) < rows_per_client)
                slope, (new, weight, sums) = jax.grad(objective, has_aux=True)(own, state, some, key)
                pull = jax.tree.map(lambda p, q: proximal * (p - q), own, params)
                slope = jax.tree.map(lambda g, p: g / jnp.maximum(weight, 1e-9) + p, slope, pull)
                change, later = tx.update(slope, opt, own)
                there = weight > 0  # an update without rows is none
                after = (optax.apply_updates(own, change), new, later)
                return jax.tree.map(lambda a, b: jnp.where(there, a, b), after, (own, state, opt)), sums

            def epoch(carry: Any, key: Array) -> tuple[Any, Any]:
                order, steps = jax.random.split(key)
                # rows first, in random order, and padding last
                place = jnp.argsort(jax.random.uniform(order, (rows_per_client,)) + 2 * (batch["row_mask"] == 0))
                place = jnp.pad(place, (0, updates * batch_size - rows_per_client), constant_values=rows_per_client - 1)
                carry, sums = jax.lax.scan(
                    update, carry, (place.reshape(updates, -1), jax.random.split(steps, updates))
                )
                return carry, jax.tree.map(lambda x: x.sum(0), sums)

            carry, sums = jax.lax.scan(epoch, (params, model_state, tx.init(params)), jax.random.split(key, epochs))
            return carry[0], carry[1], jax.tree.map(lambda x: x[-1], sums)

        def gradient(params: Tree, model_state: Tree, batch: Batch, key: Array) -> tuple[Tree, Tree, Any]:
            if rows(batch) % rows_per_client:
                raise InputError(
                    f"rows_per_client={rows_per_client}: does not divide the {rows(batch)} rows per device"
                )
            if noise:
                check_state(model_state)
            count = rows(batch) // rows_per_client
            held = {**batch, "row_mask": row_mask(batch)}
            each = jax.tree.map(lambda x: x.reshape(count, rows_per_client, *x.shape[1:]), held)
            inner, noises = jax.random.split(key)
            keys = jax.vmap(lambda i: jax.random.fold_in(inner, i))(row_numbers(count))

            def one(total: Any, now: Any) -> tuple[Any, Any]:
                some, key = now
                own, state, sums = client(params, model_state, some, key)
                change = jax.tree.map(lambda p, q: p - q, params, own)  # a gradient points upwards
                weight = some["row_mask"].sum()
                weight = (weight > 0).astype(jnp.float32) if noise else weight
                change = _clipped(change, clip)
                more = jax.tree.map(lambda x: weight * x, (change, state, jnp.ones(())))
                return jax.tree.map(jnp.add, total, more), sums

            zero = jax.tree.map(jnp.zeros_like, (params, model_state, jnp.zeros(())))
            (change, state, weight), sums = jax.lax.scan(one, zero, (each, keys))
            change, state, weight = all_sum((change, state, weight))
            change = noisy(change, noise * clip if noise else 0.0, noises)
            share = 1 / jnp.maximum(weight, 1e-9)
            state = jax.tree.map(lambda s, old: jnp.where(weight > 0, s * share, old), state, model_state)
            return jax.tree.map(lambda c: c * share, change), state, jax.tree.map(lambda x: x.sum(0), sums)

        return gradient

    return estimator


def _clipped(change: Tree, clip: float) -> Tree:
    if math.isinf(clip):
        return change
    length = jnp.sqrt(sum(jnp.vdot(c, c) for c in jax.tree.leaves(change)))
    return jax.tree.map(lambda c: c * jnp.minimum(1, clip / jnp.maximum(length, 1e-30)), change)


@dataclasses.dataclass(frozen=True)
class Clients(Resident):
    """Rows in memory that belong to clients. A batch has the rows of `batch_size` clients, drawn without repetition.

    Each client has room for `room` rows in a batch; the rest is padding with `row_mask = 0`. Evaluation reads every row
    once, whosever it is.

    Attributes:
        parts: the numbers of the rows of each client; made by `clients`.

    """

    parts: tuple[np.ndarray, ...] = ()

    @property
    def room(self) -> int:
        """The number of rows of the largest client."""
        return max(len(part) for part in self.parts)

    def chunk(
        self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, shard: Shard = ALL
    ) -> IndexedChunk:
        """Return the batches of the rounds `start` to `start + count`, see `Data.chunk`; `batch_size` counts clients.

        Raises:
            InputError: there are not that many clients.

        """
        del shard
        if batch_size > len(self.parts):
            raise InputError(f"batch_size={batch_size}: there are only {len(self.parts)} clients")
        room = self.room
        index = np.zeros((count, batch_size, room), np.int64)
        inside = np.zeros((count, batch_size, room), np.float32)
        for i in range(count):
            chosen = np.random.default_rng([self.seed, start + i, 0xFED]).permutation(len(self.parts))[:batch_size]
            for j, who in enumerate(chosen):
                index[i, j, : len(self.parts[who])], inside[i, j, : len(self.parts[who])] = self.parts[who], 1
        more = -batch_size % multiple  # whole clients of padding, so that devices share them evenly
        index, inside = (np.pad(x, ((0, 0), (0, more), (0, 0))).reshape(count, -1) for x in (index, inside))
        return IndexedChunk(
            dict(self.arrays), fill(index.astype(np.int32), capacity), fill(inside, capacity), np.int32(count)
        )


def clients(data: Resident, parts: Sequence[Any]) -> Clients:
    """Give the rows of a data set to clients.

    Args:
        data: a data set in memory.
        parts: the numbers of the rows of each client, such as `shards` returns; no row twice.

    Raises:
        InputError: a client has no rows, a row does not exist, or it belongs to two clients.

    """
    parts = tuple(np.asarray(part, np.int64) for part in parts)
    if not parts or not all(part.ndim == 1 and len(part) for part in parts):
        raise InputError("parts: every client needs the numbers of at least one row")
    every = np.concatenate(parts)
    if every.min() < 0 or every.max() >= data.size:
        raise InputError(f"parts: row numbers from {every.min()} to {every.max()}; there are {data.size} rows")
    if len(np.unique(every)) < len(every):
        raise InputError("parts: a row belongs to two clients; each may have one")
    fields = {f.name: getattr(data, f.name) for f in dataclasses.fields(Resident)}
    return Clients(**fields, parts=parts)


def iid(size: int, count: int, *, seed: int = 0) -> list[np.ndarray]:
    """Divide `size` rows at random into `count` parts of equal size, within one row.

    Raises:
        InputError: there are more clients than rows, or none.

    """
    _check_count(size, count)
    return np.array_split(np.random.default_rng(seed).permutation(size), count)


def shards(label: Any, count: int, *, each: int = 2, seed: int = 0) -> list[np.ndarray]:
    """Sort rows by label, cut them into `count * each` equal pieces, and give each client `each` of them at random.

    With 2 pieces, most clients have rows of two classes (McMahan et al., 2016).

    Args:
        label: int `[N]`.
        count: number of clients.
        each: pieces of a client.
        seed: of the draw.

    Raises:
        InputError: there are more pieces than rows, or none.

    """
    label = np.asarray(label)
    _check_count(len(label), count * each)
    pieces = np.array_split(np.argsort(label, kind="stable"), count * each)
    order = np.random.default_rng(seed).permutation(len(pieces)).reshape(count, each)
    return [np.concatenate([pieces[i] for i in own]) for own in order]


def dirichlet(label: Any, count: int, alpha: float, *, seed: int = 0) -> list[np.ndarray]:
    """Divide the rows of each class over clients in shares from a Dirichlet distribution.

    Args:
        label: int `[N]`.
        count: number of clients. Those that get no row get one from the client with the most.
        alpha: concentration, positive: small for clients with few classes, large for equal shares.
        seed: of the draw.

    Raises:
        InputError: there are more clients than rows, or `alpha` is not positive.

    Reference: Hsu et al., 2019, arXiv:1909.06335.

    """
    label, draws = np.asarray(label), np.random.default_rng(seed)
    _check_count(len(label), count)
    if not 0 < alpha < math.inf:
        raise InputError(f"alpha={alpha}: must be positive")
    parts: list[list[int]] = [[] for _ in range(count)]
    for one in np.unique(label):
        found = draws.permutation(np.flatnonzero(label == one))
        ends = np.cumsum(draws.dirichlet(np.full(count, alpha)))[:-1]
        for part, more in zip(parts, np.split(found, (ends * len(found)).astype(int)), strict=True):
            part.extend(more.tolist())
    for part in parts:
        if not part:
            part.append(max(parts, key=len).pop())
    return [np.array(part) for part in parts]


def by_group(group: Any) -> list[np.ndarray]:
    """Make one client of each value of a column `[N]`, such as the writer or the speaker."""
    group = np.asarray(group)
    return [np.flatnonzero(group == value) for value in np.unique(group)]


def _check_count(size: int, count: int) -> None:
    if not 1 <= count <= size:
        raise InputError(f"count={count}: must be from 1 to the {size} rows")


def bytes_per_round(params: Tree, count: int) -> int:
    """Return the bytes that a round of `count` clients sends, down and up, at the precision of the parameters."""
    return 2 * count * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))
