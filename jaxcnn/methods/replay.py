"""Continual learning by keeping rows of earlier tasks: which to keep, batches that repeat them, and DER++.

What is kept is a list of row numbers, so all tasks can share arrays and one compiled step.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.collectives import all_sum
from jaxcnn.core.types import Batch, InputError, Mean, Task, Tree, check_numbers, check_whole, row_mask
from jaxcnn.data import Resident
from jaxcnn.data.order import ALL, Shard, checked_rows, fill, padded, train_rows
from jaxcnn.methods.combined import adds, check_plain_loss
from jaxcnn.methods.continual import ABSENT
from jaxcnn.parallel.compile import IndexedChunk

Array = jax.Array
OLD, OUTPUTS = "replayed", "remembered"
SALT = 0x5EED  # the order of the kept rows is not that of the new ones


@dataclasses.dataclass(frozen=True)
class Replay(Resident):
    """Rows in memory, of which training reads those of the current task, and beside them kept ones of earlier tasks.

    Every batch has the same share of kept rows; both kinds are read in an order of their own, each row once before any
    row is read again. Evaluation reads every row once, whichever task it belongs to.

    Attributes:
        current: numbers of the rows of the current task; made by `replay`.
        memory: numbers of the kept rows.
        share: share of the kept rows in a batch.

    """

    current: tuple[int, ...] = ()
    memory: tuple[int, ...] = ()
    share: float = 0.5

    @property
    def drawn(self) -> tuple[Any, ...]:
        """What training reads of the rows, which a run is recognised by."""
        return self.current, self.memory, self.share

    def take(self, index: np.ndarray) -> Resident:
        """Refuse to choose rows, whose numbers would then be wrong."""
        raise InputError(f"take: {len(index)} rows of replayed data; choose rows before replay")

    def chunk(
        self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, shard: Shard = ALL
    ) -> IndexedChunk:
        """Return training batches `start` to `start + count`, see `Data.chunk`.

        Raises:
            InputError: a batch would have no row of one of the kinds.

        """
        del shard
        kept = round(self.share * batch_size) if self.memory else 0
        if self.memory and not 0 < kept < batch_size:
            raise InputError(f"share={self.share}: gives {kept} kept rows in a batch of {batch_size}; must leave both")
        index = _in_order(self.current, self.seed, batch_size - kept, start, count)
        if kept:
            old = _in_order(self.memory, self.seed ^ SALT, kept, start, count)
            index = np.concatenate([index, old], 1)
        index, inside = padded(index.astype(np.int32), multiple)
        inside = None if inside is None else fill(inside, capacity)
        return IndexedChunk(dict(self.arrays), fill(index, capacity), inside, np.int32(count))


def _in_order(rows: Sequence[int], seed: int, each: int, start: int, count: int) -> np.ndarray:
    return np.asarray(rows, np.int64)[train_rows(seed, len(rows), each, start, count)]


def replay(data: Resident, current: Any, memory: Any = (), *, share: float = 0.5, outputs: Any = None) -> Replay:
    """Make training rows of a task and of what is kept of earlier ones: experience replay.

    Args:
        data: rows in memory, of all tasks.
        current: numbers of the rows of the current task.
        memory: numbers of the kept rows, none of them in `current`; without any, training reads the current task alone.
        share: share of kept rows in a batch, in (0, 1).
        outputs: for `derpp`: outputs `[M, K]` of the network for the kept rows, when they were kept.

    Returns:
        The rows, with the column `"replayed"`, 1 for kept rows; and with `outputs` also `"remembered"` `[N, K]`.

    Raises:
        InputError: a row does not exist or is in both, rows are a mask, there are no current rows, or `share` or
            `outputs` do not fit.

    Reference:
        Rolnick et al., Experience Replay for Continual Learning, 2019, arXiv:1811.11682. Chaudhry et al., On Tiny
        Episodic Memories in Continual Learning, 2019, arXiv:1902.10486.

    """
    current, memory = checked_rows(current, data.size, "current"), checked_rows(memory, data.size, "memory")
    if not len(current):
        raise InputError("current: has no rows; give the numbers of those of the current task")
    if len(both := np.intersect1d(current, memory)):
        raise InputError(f"memory: has row {both[0]}, which is one of the current task; keep rows of earlier tasks")
    if len(set(memory.tolist())) < len(memory):
        twice = next(row for i, row in enumerate(memory.tolist()) if row in memory[:i])
        raise InputError(f"memory: has row {twice} twice; give each kept row once")
    check_numbers(share=share)
    if not 0 < share < 1:
        raise InputError(f"share={share}: must be above 0 and below 1")
    old = np.zeros(data.size, np.float32)
    old[memory] = 1
    arrays = {**data.arrays, OLD: old}
    if outputs is not None:
        outputs = np.asarray(outputs, np.float32)
        if outputs.ndim != 2 or len(outputs) != len(memory):
            raise InputError(f"outputs of shape {outputs.shape}: must be [{len(memory)}, K], one row per kept row")
        if not np.isfinite(outputs).all() or outputs.min(initial=0) < ABSENT / 2:
            raise InputError("outputs: some are not finite, or of absent classes; keep those of task.outputs")
        held = np.zeros((data.size, outputs.shape[1]), np.float32)
        held[memory] = outputs
        arrays[OUTPUTS] = held
    fields: dict[str, Any] = {f.name: getattr(data, f.name) for f in dataclasses.fields(Resident)}
    fields["arrays"] = arrays
    return Replay(**fields, current=tuple(current.tolist()), memory=tuple(memory.tolist()), share=share)


def per_class(label: Any, count: int, *, rows: Any = None, seed: int = 0) -> np.ndarray:
    """Draw the same number of rows of each class to keep.

    Args:
        label: int `[N]`.
        count: rows of each class, at least 1; a class with fewer rows gives all of them.
        rows: numbers of the rows to draw from, such as those of a task; None for all.
        seed: of the draw.

    Returns:
        Row numbers, ascending.

    Raises:
        InputError: `count` is below 1, a row does not exist, or rows are a mask.

    """
    check_whole("count", count, 1)
    check_whole("seed", seed, 0)
    label = np.asarray(label)
    if label.ndim != 1 or label.dtype.kind not in "iu":
        raise InputError(f"label of shape {label.shape}, {label.dtype}: must be whole numbers [N], one class per row")
    rows = np.arange(len(label)) if rows is None else checked_rows(rows, len(label), "rows")
    rng = np.random.default_rng(seed)
    each = [rng.permutation(rows[label[rows] == k])[:count] for k in np.unique(label[rows])]
    return np.sort(np.concatenate([*each, np.empty(0, np.int64)]))


def reservoir(memory: Any, seen: int, rows: Any, capacity: int, *, seed: int = 0) -> np.ndarray:
    """Keep a sample of all rows so far, each with the same chance, without a look back: reservoir sampling.

    Args:
        memory: numbers of the kept rows.
        seen: number of rows before these.
        rows: numbers of new rows, in the order in which they come.
        capacity: most rows to keep, at least 1.
        seed: of the draws, which differ with `seen`.

    Returns:
        Numbers of the rows that are kept now; a kept row stays at its place until another one takes it.

    Raises:
        InputError: the capacity is below 1 or below what is kept, fewer rows were seen than are kept, or rows are a
            mask.

    Reference: Vitter, Random Sampling with a Reservoir, 1985.

    """
    kept = checked_rows(memory, None, "memory").tolist()
    check_whole("capacity", capacity, 1)
    check_whole("seen", seen, 0)
    check_whole("seed", seed, 0)
    if len(kept) > min(capacity, seen):
        raise InputError(f"capacity={capacity}, seen={seen}: must be at least the {len(kept)} kept rows")
    rng = np.random.default_rng([seed, seen])
    for n, row in enumerate(checked_rows(rows, None, "rows").tolist(), seen + 1):
        if len(kept) < capacity:
            kept.append(row)
        elif (place := int(rng.integers(n))) < capacity:
            kept[place] = row
    return np.array(kept, np.int64)


def derpp(task: Task, alpha: float, beta: float) -> Task:
    """Wrap a task so that kept rows also get the outputs again that the network gave them when they were kept: DER++.

    The loss is the mean over new rows, plus `alpha` times the mean squared difference between outputs of kept rows now
    and then, plus `beta` times the mean of the task's loss over kept rows. Unlike in the paper, both terms use the same
    kept rows, and outputs are those of the end of a task, where rows are kept.

    Args:
        task: a task from `tasks.classification`, or any whose metric `"loss"` uses `"sample_weight"`. Only the outputs
            and the model state of its loss are used, so auxiliary heads do not learn.
        alpha: at least 0.
        beta: at least 0.

    Returns:
        The task, for batches of `replay` with `outputs` (of `task.outputs`, where it has these, else `task.predict`).

    Raises:
        InputError: a weight is below 0; or (when traced) the batch lacks a column, or has outputs of another width.

    Reference:
        Buzzega et al., Dark Experience for General Continual Learning, 2020, arXiv:2004.07211.

    """
    check_plain_loss(task, "derpp")
    check_numbers(alpha=alpha, beta=beta)
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0 <= value < float("inf"):
            raise InputError(f"{name}={value}: must be a number of at least 0")

    @adds("derpp", task)
    def loss(params: Tree, model_state: Tree, batch: Batch, key: Array) -> tuple[Mean, tuple[Any, Tree]]:
        for name in (OLD, OUTPUTS):
            if name not in batch:
                raise InputError(f"derpp: the batch has no {name!r}; make the rows with replay(..., outputs=)")
        _, (outputs, changed) = task.loss(params, model_state, batch, key)
        old, then = batch[OLD], batch[OUTPUTS]
        if outputs.shape != then.shape:
            raise InputError(f"derpp: outputs of shape {outputs.shape}, and {then.shape} were kept; must be alike")
        own = batch.get("sample_weight", 1.0)
        new, again = (
            cast(Mean, task.metrics["loss"](outputs, {**batch, "sample_weight": member * own}))
            for member in (1 - old, old)
        )
        kept = old * row_mask(batch)
        gap = jnp.where(kept[:, None] > 0, outputs - then, 0)
        parts = (new, Mean((gap**2).mean(-1).sum(), kept.sum()), again)
        weight = new.weight + again.weight
        total, counts = 0.0, all_sum([part.weight for part in parts])
        whole = all_sum(weight)
        for factor, part, count in zip((1.0, alpha, beta), parts, counts, strict=True):
            total += factor * whole / jnp.where(count > 0, count, 1) * part.total
        return Mean(total, weight), (outputs, changed)

    return task._replace(loss=loss)
