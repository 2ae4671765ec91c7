"""Continual learning: a sequence of tasks from one data set, one head per task, and how much was kept and forgotten.

The three scenarios are those of van de Ven and Tolias, Three scenarios for continual learning, 2019, arXiv:1904.07734.
What a method keeps of earlier tasks is in `consolidation` (parameters) and `replay` (rows).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.types import Batch, InputError, Metric, Task, Tree, check_whole, row_mask
from jaxcnn.data import Resident
from jaxcnn.methods.combined import check_plain_loss
from jaxcnn.tasks.classification import check_one_label

Array = jax.Array
Scenario = Literal["task", "domain", "class"]
SCENARIOS = ("task", "domain", "class")
ABSENT = -1e9  # the logit of a class that cannot be the answer; minus infinity would give NaN times 0


def divided(num_classes: int, per_task: int = 2) -> tuple[tuple[int, ...], ...]:
    """Divide classes into tasks, in their order: `((0, 1), (2, 3), ...)`.

    Args:
        num_classes: number of classes.
        per_task: classes of a task; divides their number.

    Raises:
        InputError: `per_task` is below 1 or does not divide the classes.

    """
    check_whole("per_task", per_task, 1)
    check_whole("num_classes", num_classes, 1)
    if num_classes % per_task:
        raise InputError(f"per_task={per_task}: must divide the {num_classes} classes")
    return tuple(tuple(range(k, k + per_task)) for k in range(0, num_classes, per_task))


def sequence(data: Resident, groups: Sequence[Sequence[int]], scenario: Scenario) -> Resident:
    """Give each row the number of its task, in the column `"task"`, and the label that the scenario asks for.

    Args:
        data: a data set in memory with labels int `[N]`.
        groups: classes of each task, such as `divided` returns; every class in one of them.
        scenario: `"task"`: which task a row belongs to is known when it is classified; use `heads`. `"domain"`: it is
            not, but need not be told either: the label becomes the place of the class within its task. `"class"`: the
            class must be told among those of all tasks.

    Returns:
        The rows, in the same order.

    Raises:
        InputError: the scenario is unknown, the labels are not numbers of classes, or the groups do not fit.

    """
    if scenario not in SCENARIOS:
        raise InputError(f"scenario={scenario!r}: must be one of {', '.join(SCENARIOS)}")
    label = data.label
    if label.ndim != 1 or label.dtype.kind not in "iu":
        raise InputError(f"labels {label.dtype} of shape {label.shape}: must be whole numbers, one per row")
    if not data.classes:
        raise InputError("data: has no names of classes; give Resident(arrays, classes)")
    count = _check_groups(groups, len(data.classes))
    if label.size and not 0 <= label.min() <= label.max() < count:
        wrong = label[(label < 0) | (label >= count)][0]
        raise InputError(f"label {wrong}: must be from 0 to {count - 1}; leave out rows without a class")
    task, place = np.zeros(count, np.int32), np.zeros(count, np.int32)
    for t, group in enumerate(groups):
        task[list(group)], place[list(group)] = t, np.arange(len(group))
    arrays = {**data.arrays, "task": task[label]}
    if scenario != "domain":
        return dataclasses.replace(data, arrays=arrays)
    if len({len(group) for group in groups}) > 1:
        raise InputError(f"groups={tuple(map(tuple, groups))}: must have equally many classes each with 'domain'")
    names = tuple("/".join(data.classes[group[i]] for group in groups) for i in range(len(groups[0])))
    return dataclasses.replace(data, arrays=arrays | {"label": place[label]}, classes=names)


def _check_groups(groups: Sequence[Sequence[int]], num_classes: int) -> int:
    if not isinstance(groups, Sequence) or not all(isinstance(group, Sequence | np.ndarray) for group in groups):
        raise InputError(f"groups={groups!r}: must have the classes of each task, such as ((0, 1), (2, 3))")
    every = [k for group in groups for k in group]
    for k in every:
        check_whole("groups: class", k, 0)
    if sorted(every) != list(range(num_classes)) or not all(len(group) for group in groups):
        raise InputError(
            f"groups={tuple(map(tuple, groups))}: must have each class from 0 to {num_classes - 1} exactly once"
        )
    return num_classes


def rows_of(data: Resident, task: int) -> np.ndarray:
    """Return the numbers of the rows of a task of `sequence`, ascending."""
    if "task" not in data.arrays:
        raise InputError(f"the rows have no 'task', only {', '.join(sorted(data.arrays))}; make them with sequence")
    check_whole("task", task, 0)
    rows = np.flatnonzero(np.asarray(data.arrays["task"]) == task)
    if not len(rows):
        raise InputError(f"task={task}: has no rows; the rows are of tasks up to {np.max(data.arrays['task'])}")
    return rows


def head_table(groups: Sequence[Sequence[int]]) -> np.ndarray:
    """Return which classes belong to which task, bool `[T, K]`, for `heads` and `consolidation.lwf_after_task`."""
    count = _check_groups(groups, sum(len(group) for group in groups))
    return np.stack([np.isin(np.arange(count), group) for group in groups])


def heads(task: Task, table: Any, *, column: str = "task") -> Task:
    """Wrap a task so that a row is classified among the classes of its own task alone: one head per task.

    Args:
        task: a classification task with K logits. Only the outputs and the model state of its loss are used.
        table: bool `[T, K]`, 1 where a class belongs to a task, see `head_table`.
        column: name of the column with the number of a row's task, int `[B]` in 0..T-1, which prediction needs as
            well. A compiled program cannot refuse other numbers: their logits are NaN.

    Returns:
        The task. Its loss and metrics leave the other classes out; its loss, and `outputs` in place of `predict` in
        evaluation, still give all logits, for methods that compare them.

    Raises:
        InputError: the table is not `[T, K]`, or a task has no classes; or (when traced) the batch has no such column,
            or there are not K logits.

    """
    table = np.asarray(table)
    check_one_label(task, "heads")
    check_plain_loss(task, "heads")
    if getattr(task.metrics["loss"], "smoothed", False):
        raise InputError("heads: label smoothing spreads over the classes of other tasks; use label_smoothing=0")
    if table.ndim != 2 or not table.size or not np.isin(table, (0, 1)).all() or not table.any(1).all():
        line = f"table of shape {table.shape}: must be [tasks, classes], 1 or 0, with at least one class in each task"
        raise InputError(f"{line}; make it with head_table")
    allowed = jnp.asarray(table > 0)

    def masked(logits: Array, batch: Batch) -> Array:
        if column not in batch:
            raise InputError(f"heads: the batch has no column {column!r}, only {', '.join(sorted(batch))}")
        if logits.ndim != 2:
            raise InputError(f"heads: needs logits [B, K], and the task gives {list(logits.shape)}")
        if logits.shape[-1] != table.shape[1]:
            raise InputError(f"heads: {logits.shape[-1]} logits for a table of {table.shape[1]} classes")
        number = batch[column]
        if number.shape != logits.shape[:1] or not jnp.issubdtype(number.dtype, jnp.integer):
            line = f"heads: column {column!r} is {number.dtype} of shape {number.shape}"
            raise InputError(f"{line}; must be integers [{len(logits)}], one per row")
        known = (number >= 0) & (number < len(table))
        own = jnp.where(allowed[jnp.where(known, number, 0)], logits, ABSENT)
        return jnp.where(known[:, None], own, jnp.nan)

    def judged(logits: Array, batch: Batch) -> Array:
        """Make the logits of a row NaN whose label has classes of another task, unless it is padding."""
        own = masked(logits, batch)
        label = jnp.asarray(batch["label"])
        if label.ndim == 2 and label.shape[1] == 1:
            label = label[:, 0]
        shares = label if label.ndim == 2 else jax.nn.one_hot(jnp.round(label).astype(jnp.int32), own.shape[1])
        foreign = jnp.where(own == ABSENT, shares, 0).sum(-1) > 0
        return jnp.where((foreign & (row_mask(batch) > 0))[:, None], jnp.nan, own)

    def of(metric: Metric) -> Metric:
        return lambda outputs, batch: metric(judged(outputs, batch), batch)

    metrics = {name: metric if name == "count" else of(metric) for name, metric in task.metrics.items()}

    def loss(params: Tree, model_state: Tree, batch: Batch, key: Array) -> Any:
        _, (outputs, changed) = task.loss(params, model_state, batch, key)
        return metrics["loss"](outputs, batch), (outputs, changed)

    loss.narrows = True  # pyright: ignore[reportFunctionMemberAccess] (see `combined.check_plain_loss`)

    def predict(variables: Tree, batch: Batch) -> Array:
        return masked(task.predict(variables, batch), batch)

    return task._replace(loss=loss, predict=predict, metrics=metrics, outputs=task.outputs or task.predict)


class Scores(NamedTuple):
    """What a sequence of T tasks left behind; see `scores`.

    Attributes:
        accuracy: mean over all tasks after the last one.
        forgetting: mean over the earlier tasks of their best accuracy before the last task minus that after it; 0 for
            one task.
        backward: backward transfer, the mean over the earlier tasks of their accuracy after the last task minus that
            right after their own; 0 for one task.
        forward: forward transfer, the mean over the later tasks of their accuracy right before their own minus that
            before any training; None without `start`, and 0 for one task.

    """

    accuracy: float
    forgetting: float
    backward: float
    forward: float | None


def scores(matrix: Any, start: Any = None) -> Scores:
    """Summarise an accuracy matrix.

    Args:
        matrix: `[T, T]`, the accuracy on task j after training on task i in row i and column j, in 0..1.
        start: `[T]`, the accuracies before any training, for forward transfer.

    Raises:
        InputError: the shapes do not fit, or a value is not in 0..1.

    Reference:
        Chaudhry et al., Riemannian Walk for Incremental Learning, 2018, arXiv:1801.10112 (forgetting). Lopez-Paz and
        Ranzato, Gradient Episodic Memory for Continual Learning, 2017, arXiv:1706.08840 (transfer).

    """
    found = np.asarray(matrix, np.float64)
    if found.ndim != 2 or not found.size or found.shape[0] != found.shape[1]:
        raise InputError(f"matrix of shape {found.shape}: must be [T, T], one row per task that was trained")
    before = None if start is None else np.asarray(start, np.float64)
    if before is not None and before.shape != found.shape[:1]:
        raise InputError(f"start of shape {before.shape}: must be [{len(found)}], one accuracy per task")
    for name, values in (("matrix", found), ("start", found if before is None else before)):
        if not ((values >= 0) & (values <= 1)).all():
            raise InputError(f"{name} from {values.min():g} to {values.max():g}: must be accuracies in 0..1")
    last, own = found[-1], np.diag(found)
    if len(found) == 1:
        return Scores(float(last.mean()), 0.0, 0.0, None if before is None else 0.0)
    ahead = None if before is None else float((np.diag(found, 1) - before[1:]).mean())
    forgotten = found[:-1, :-1].max(0) - last[:-1]
    return Scores(float(last.mean()), float(forgotten.mean()), float((last[:-1] - own[:-1]).mean()), ahead)


def bytes_of(tree: Tree) -> int:
    """Return the bytes of arrays: what a method keeps of earlier tasks."""
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
