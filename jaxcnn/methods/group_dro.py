"""Losses that look at the group that does worst, not at the mean over all rows."""

from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxcnn.core.collectives import all_sum
from jaxcnn.core.types import Batch, InputError, Mean, Task, Tree

Array = jax.Array
STATE = "group_dro"


def group_dro(task: Task, groups: int, *, column: str = "group", rate: float = 0.01) -> Task:
    """Minimise the loss of the worst group of rows: group distributionally robust optimisation (Sagawa et al., 2020, arXiv:1911.08731).

    Every group has a share of the loss, kept in the model state beside the statistics of norms. A step multiplies it by
    `exp(rate * mean loss of the group's rows)`, makes the shares sum to 1 again, and descends on the groups' mean losses in these shares.
    Prediction and metrics stay as they are. With `accumulate(k)` each of the k parts moves the shares, so give a k-th of the rate.
    The paper adds strong weight decay or early stopping: without them a large network fits every group, and the shares say nothing.

    Args:
        task: of `tasks.from_model`, or any whose metric `"loss"` heeds `"sample_weight"`. Of its loss only the outputs and the model state
            are used, so auxiliary heads do not learn, and `transfer.keep_stats` belongs inside.
        groups: how many.
        column: of the batch, int `[B]` from 0 to `groups - 1`; rows of other groups count nowhere. Only training needs it.
        rate: of the shares, positive.

    Raises:
        InputError: fewer than two groups, a rate that is not positive; or (when traced) a batch without such a column, or variables that
            another task made, which have no shares.

    """
    if groups < 2:
        raise InputError(f"groups={groups}: must be at least 2")
    if not 0 < rate < float("inf"):
        raise InputError(f"rate={rate}: must be a positive number")

    def init(key: Array, batch: Batch) -> Tree:
        return {**task.init(key, batch), STATE: {"log_shares": jnp.full(groups, -jnp.log(groups))}}

    def loss(params: Tree, model_state: Tree, batch: Batch, key: Array) -> tuple[Mean, tuple[Any, Tree]]:
        group = _groups(batch, column)
        if STATE not in model_state:
            raise InputError(
                "group_dro: the variables have no shares; begin with {**variables, 'group_dro': task.init(key, batch)['group_dro']}"
            )
        kept = type(model_state)  # may be one that norms leave alone
        _, (outputs, changed) = task.loss(
            params, kept({k: v for k, v in model_state.items() if k != STATE}), batch, key
        )
        own = batch.get("sample_weight", 1.0)

        def weighed(member):
            return task.metrics["loss"](outputs, {**batch, "sample_weight": member * own})

        losses = cast(Mean, jax.vmap(weighed)(jax.nn.one_hot(group, groups, axis=0)))
        total, count = all_sum((jax.lax.stop_gradient(losses.total), losses.weight))
        present = jnp.where(count > 0, count, 1)  # a group without rows in the batch has a mean of 0
        log_shares = jax.nn.log_softmax(model_state[STATE]["log_shares"] + rate * total / present)
        value = Mean((jnp.exp(log_shares) * count.sum() / present * losses.total).sum(), losses.weight.sum())
        return value, (outputs, kept({**changed, STATE: {"log_shares": log_shares}}))

    return task._replace(init=init, loss=loss)


def _groups(batch: Batch, column: str) -> Array:
    if column not in batch:
        raise InputError(f"group_dro: the batch has no column {column!r}, only {', '.join(sorted(batch))}")
    group = batch[column]
    if group.ndim != 1 or not jnp.issubdtype(group.dtype, jnp.integer):
        raise InputError(
            f"group_dro: column {column!r} is {group.dtype} of shape {group.shape}; must be integers, one a row"
        )
    return group
