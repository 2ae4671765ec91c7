"""Group distributionally robust optimisation: train for the worst group of rows instead of the mean over all rows."""

from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxcnn.core.collectives import all_sum
from jaxcnn.core.types import Batch, InputError, Mean, Task, Tree, check_numbers, check_whole, row_mask
from jaxcnn.methods.combined import adds, check_plain_loss

Array = jax.Array
STATE = "group_dro"


def group_dro(task: Task, groups: int, *, column: str = "group", rate: float = 0.01) -> Task:
    """Wrap a task so that training minimises the loss of the worst group of rows.

    Every group has a weight (its share of the loss), which is part of the model state. A step multiplies each weight by
    `exp(rate * mean loss of the group's rows)`, normalises the weights to sum to 1, and minimises the weighted sum of
    the groups' mean losses. Prediction and metrics are unchanged.

    With `accumulate(k)`, each of the k parts updates the weights, so divide the rate by k. The paper also uses strong
    weight decay or early stopping: without them a large network fits every group, and the weights have no effect.

    Args:
        task: a task from `tasks.from_model`, or any task whose metric `"loss"` uses `"sample_weight"`. Only the outputs
            and the model state of its loss are used, so auxiliary heads do not learn; apply `transfer.keep_stats` to
            its loss before this wrapper.
        groups: number of groups, at least 2.
        column: name of the group column of a batch, int `[B]` from 0 to `groups - 1`, or -1 for rows that are ignored.
            Any other value makes the loss NaN. Only training needs the column.
        rate: step size of the weights, positive.

    Raises:
        InputError: There are fewer than two groups, or the rate is not positive; or (when traced) the batch has no such
            column, or the variables come from a different task and have no weights.

    Reference:
        Sagawa et al., Distributionally Robust Neural Networks for Group Shifts, 2020, arXiv:1911.08731.

    """
    check_whole("groups", groups, 2)
    check_numbers(rate=rate)
    check_plain_loss(task, "group_dro")
    if not 0 < rate < float("inf"):
        raise InputError(f"rate={rate}: must be a positive number")

    def init(key: Array, batch: Batch) -> Tree:
        return {**task.init(key, batch), STATE: {"log_shares": jnp.full(groups, -jnp.log(groups))}}

    @adds("group_dro", task)
    def loss(params: Tree, model_state: Tree, batch: Batch, key: Array) -> tuple[Mean, tuple[Any, Tree]]:
        group = _groups(batch, column)
        unknown = ((group < -1) | (group >= groups)) & (row_mask(batch) > 0)
        if STATE not in model_state:
            fix = "begin with {**variables, 'group_dro': task.init(key, batch)['group_dro']}"
            raise InputError(f"group_dro: the variables have no shares; {fix}")
        kept = type(model_state)  # it may be a FrozenState, which norms do not update
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
        value = Mean(jnp.where(unknown.any(), jnp.nan, value.total), value.weight)
        return value, (outputs, kept({**changed, STATE: {"log_shares": log_shares}}))

    return task._replace(init=init, loss=loss)


def _groups(batch: Batch, column: str) -> Array:
    if column not in batch:
        raise InputError(f"group_dro: the batch has no column {column!r}, only {', '.join(sorted(batch))}")
    group = batch[column]
    if group.ndim != 1 or not jnp.issubdtype(group.dtype, jnp.integer):
        raise InputError(
            f"group_dro: column {column!r} is {group.dtype} of shape {group.shape}; must be integers, one per row"
        )
    if group.dtype == jnp.uint32:  # the others fit
        group = jnp.minimum(group, jnp.iinfo(jnp.int32).max)
    return group.astype(jnp.int32)
