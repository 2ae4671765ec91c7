"""SCAFFOLD: federated learning whose clients correct their drift (Karimireddy et al., 2019, arXiv:1910.06378).

Each client keeps a control variate, the mean of its gradients when it trained last, and the server keeps their mean.
The difference is added to every gradient of a client, so that it moves as all clients would. The control variates are
in `state.extras["scaffold"]`: `Plan(grads=scaffold(...), wrap=with_controls, begin=start_controls(count))`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcnn.core.collectives import all_rows, all_sum
from jaxcnn.core.types import Batch, InputError, MetricState, State, Step, Tree, check_numbers, check_whole
from jaxcnn.methods.federated import CLIENT, NUMBER, by_client, check_room, local_training
from jaxcnn.train.step import Estimator, Gradient, Objective

Array = jax.Array
NAME = "scaffold"


def scaffold(learning_rate: float, rows_per_client: int, *, batch_size: int = 10, epochs: int = 1) -> Estimator:
    """Estimate the gradient as the mean change of the clients, with the sign turned; the server's optimiser applies it.

    Args:
        learning_rate: of the clients, which use plain SGD, positive.
        rows_per_client: room for rows of a client, `Clients.room`; a batch needs the column `"client"`.
        batch_size: rows in a client's update.
        epochs: passes of a client over its rows in a round.

    Returns:
        The estimator, for a step that `with_controls` wraps. Clients count alike, as in the paper, however many rows
        they have; so do their running statistics.

    Raises:
        InputError: a value is outside its range; or (when traced) the step is not wrapped, the batch has no clients, or
            the rows of a device are not those of whole clients. `fit` refuses data whose clients have another room
            than `rows_per_client`.

    """
    for name, value in (("rows_per_client", rows_per_client), ("batch_size", batch_size), ("epochs", epochs)):
        check_whole(name, value, 1)
    check_numbers(learning_rate=learning_rate)
    if not 0 < learning_rate < math.inf:
        raise InputError(f"learning_rate={learning_rate}: must be positive")

    def estimator(objective: Objective) -> Gradient:
        client = local_training(objective, optax.sgd(learning_rate), rows_per_client, batch_size, epochs)

        def gradient(params: Tree, model_state: Tree, batch: Batch, key: Array) -> tuple[Tree, Tree, Any]:
            if NAME not in model_state:
                raise InputError("scaffold: wrap the step in with_controls")
            if CLIENT not in batch:
                raise InputError("scaffold: the batch has no column 'client'; use methods.clients")
            model_state = dict(model_state)
            controls = model_state.pop(NAME)
            server, table = controls["server"], controls["table"]
            each, keys, fits = by_client(batch, rows_per_client, key)
            there = each["row_mask"].max(1) * fits  # [clients], 0 for one that is padding
            who = jnp.where(each["row_mask"] > 0, each[CLIENT], 0).max(1)
            size = len(jax.tree.leaves(table)[0])
            every = each[NUMBER].max(1) if NUMBER in each else size  # rows that are not of `methods.clients`
            there = jnp.where((who < size) & (every == size), there, jnp.nan)  # a trace cannot refuse

            def one(total: Any, now: Any) -> tuple[Any, Any]:
                some, key, there, who = now
                drift = jax.tree.map(lambda c, own: c - own[who], server, table)
                own, state, sums, done = client(params, model_state, some, key, drift)
                change = jax.tree.map(jnp.subtract, params, own)  # a gradient points upwards
                scale = there / (jnp.maximum(done, 1) * learning_rate)
                moved = jax.tree.map(lambda c, d: scale * c - there * d, change, server)
                more = jax.tree.map(lambda x: there * x, (change, state, jnp.ones(())))
                return jax.tree.map(jnp.add, total, more), (sums, moved)

            zero = jax.tree.map(jnp.zeros_like, (params, model_state, jnp.zeros(())))
            (change, state, count), (sums, moved) = jax.lax.scan(one, zero, (each, keys, there, who))
            change, state, count = all_sum((change, state, count))
            moved, who = all_rows((moved, who))
            table = jax.tree.map(lambda x, d: x.at[who].add(d), table, moved)
            server = jax.tree.map(lambda x, d: x + d.sum(0) / size, server, moved)
            share = 1 / jnp.maximum(count, 1)
            state = jax.tree.map(lambda s, old: jnp.where(count > 0, s * share, old), state, model_state)
            state = {**state, NAME: {"server": server, "table": table}}
            return jax.tree.map(lambda c: c * share, change), state, jax.tree.map(lambda x: x.sum(0), sums)

        return gradient

    estimator.check = functools.partial(check_room, rows_per_client)  # pyright: ignore[reportFunctionMemberAccess]
    return estimator


def start_controls(count: int) -> Callable[[State], State]:
    """Return a function that adds control variates of zero for `count` clients to a state.

    They take the memory of `count + 1` networks. If there are more clients or fewer, the parameters become NaN.

    Raises:
        InputError: `count` is less than 1.

    """
    check_whole("count", count, 1)

    def begin(state: State) -> State:
        controls = {
            "server": jax.tree.map(jnp.zeros_like, state.params),
            "table": jax.tree.map(lambda p: jnp.zeros((count, *p.shape), p.dtype), state.params),
        }
        return state.replace(extras=state.extras | {NAME: controls})

    return begin


def with_controls(step: Step) -> Step:
    """Give the estimator of a step the control variates, and keep those that it returns.

    Args:
        step: made with `scaffold`.

    Returns:
        The step. Call `start_controls(count)` on the state before the first step.

    Raises:
        InputError: (when traced) the state has no control variates.

    """

    @functools.wraps(step)
    def controlled(state: State, batch: Batch) -> tuple[State, dict[str, MetricState]]:
        if NAME not in state.extras:
            raise InputError("with_controls: the state has no control variates; call start_controls(count) on it first")
        given = state.replace(model_state={**state.model_state, NAME: state.extras[NAME]})
        after, sums = step(given, batch)
        kept = {name: x for name, x in after.model_state.items() if name != NAME}
        return after.replace(model_state=kept, extras=state.extras | {NAME: after.model_state[NAME]}), sums

    return controlled
