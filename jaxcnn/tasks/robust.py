"""Losses that look at the group that does worst, not at the mean over all rows."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.axis import all_sum
from jaxcnn.types import Batch, InputError, Mean, Task, Tree

Array = jax.Array
STATE = "group_dro"


def group_dro(task: Task, groups: int, *, column: str = "group", rate: float = 0.01) -> Task:
    """Minimise the loss of the worst group of rows: group distributionally robust optimisation (Sagawa et al., 2020, arXiv:1911.08731).

    Every group has a share of the loss, kept in the model state beside the statistics of norms. A step multiplies it by
    `exp(rate * mean loss of the group's rows)`, makes the shares sum to 1 again, and descends on the groups' mean losses in these shares.
    Prediction and metrics stay as they are. The paper adds strong weight decay or early stopping: without them a large network
    fits every group, and the shares say nothing any more.

    Args:
        task: of `tasks.from_model`, or any whose metric `"loss"` is weighted by the column `"weight"`.
        groups: how many.
        column: of the batch, int `[B]` from 0 to `groups - 1`; only training needs it.
        rate: of the shares, positive.

    Raises:
        InputError: fewer than two groups, a rate that is not positive, or (when traced) a batch without the column.

    """
    if groups < 2:
        raise InputError(f"groups={groups}: must be at least 2")
    if not 0 < rate < float("inf"):
        raise InputError(f"rate={rate}: must be a positive number")

    def init(key: Array, batch: Batch) -> Tree:
        return {**task.init(key, batch), STATE: {"shares": jnp.full(groups, 1 / groups)}}

    def loss(params: Tree, model_state: Tree, batch: Batch, key: Array) -> tuple[Mean, tuple[Any, Tree]]:
        if column not in batch:
            raise InputError(f"group_dro: the batch has no column {column!r}, only {', '.join(sorted(batch))}")
        shares, rest = model_state[STATE]["shares"], type(model_state)({k: v for k, v in model_state.items() if k != STATE})
        _, (outputs, changed) = task.loss(params, rest, batch, key)
        member = jax.nn.one_hot(batch[column], groups, axis=0) * batch.get("weight", 1.0)
        losses = jax.vmap(lambda weight: task.metrics["loss"](outputs, {**batch, "weight": weight}))(member)
        total, count = all_sum((jax.lax.stop_gradient(losses.total), losses.weight))
        present = jnp.where(count > 0, count, 1)  # a group without rows in the batch has a mean of 0
        shares = jax.nn.softmax(jnp.log(shares) + rate * total / present)
        value = Mean((shares * count.sum() / present * losses.total).sum(), losses.weight.sum())
        return value, (outputs, type(model_state)({**changed, STATE: {"shares": shares}}))

    return task._replace(init=init, loss=loss)
