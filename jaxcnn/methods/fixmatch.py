"""Semi-supervised learning: FixMatch, and batches in which each labelled row brings several rows without a label."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.augment.core import Transform, as_float, check_field
from jaxcnn.core.collectives import all_sum
from jaxcnn.core.types import (
    Batch,
    InputError,
    Mean,
    Metric,
    MetricState,
    Task,
    Tree,
    check_numbers,
    check_whole,
    row_mask,
)
from jaxcnn.data import Resident
from jaxcnn.data.order import ALL, Shard, fill, train_rows
from jaxcnn.losses import cross_entropy
from jaxcnn.methods.combined import adds, check_plain_loss
from jaxcnn.parallel.compile import IndexedChunk
from jaxcnn.tasks.classification import check_one_label

Array = jax.Array
UNLABELLED = "unlabelled"  # entry of a batch, [B, ratio, ...]
OTHER_ORDER = 2**32  # added to the seed for the order of the rows without a label


class Matched(NamedTuple):
    """Logits of the labelled rows `[B, K]`, and the confidence in the classes of the others `[B, ratio]`."""

    logits: Any
    confidence: Any = None


def fixmatch(
    task: Task, weak: Transform, strong: Transform, *, weight: float = 1.0, threshold: float = 0.95,
    field: str = "image",
) -> Task:  # fmt: skip
    """Wrap a task so that it also learns from rows without a label: FixMatch.

    The class that the network gives to a weakly changed image becomes the label of the same image, strongly changed, if
    its probability reaches the threshold. All rows of a batch pass the network together, as in the authors' program, so
    batch normalisation sees them all. Labelled rows are used as they come: change them with `augmented(step, weak)`.

    Args:
        task: a classification task with at least two logits whose input is `field` alone. Auxiliary heads do not learn.
        weak: changes the image that gives the class, such as `compose(flip, pad_crop(4, "reflect"))`.
        strong: changes the image that learns it, such as `compose(weak, rand_augment(2, None), cutout(16, value=0.5))`;
            the size of the images must stay.
        weight: of the loss of the rows without a label, at least 0. 0 is training on the labelled rows alone.
        threshold: least probability of a class that is learned, above 0 and at most 1.
        field: the entry of the batch that holds the pixels.

    Returns:
        The task, for batches of `SemiSupervised` data. Its metric `"confident"` is the share of rows whose class
        reaches the threshold: of those without a label in training, of all in evaluation. Evaluate an average of the
        weights (`with_ema`), as the paper does.

    Raises:
        InputError: a value is out of range; or (when traced) the batch has no rows without a label, or the shapes of
            images or logits do not fit.

    Reference: Sohn et al., FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence, 2020,
    arXiv:2001.07685.

    """
    check_numbers(weight=weight, threshold=threshold)
    check_one_label(task, "fixmatch")
    check_plain_loss(task, "fixmatch")
    if not 0 <= weight < float("inf"):
        raise InputError(f"weight={weight}: must be at least 0")
    if not 0 < threshold <= 1:
        raise InputError(f"threshold={threshold}: must be above 0 and at most 1")
    if "loss" not in task.metrics or "confident" in task.metrics:
        raise InputError("fixmatch: the task must have the metric 'loss', and none named 'confident'")
    if not weight:
        return task

    @adds("fixmatch", task)
    def loss(params: Tree, model_state: Tree, batch: Batch, key: Array) -> tuple[Mean, tuple[Any, Tree]]:
        changing, inner = jax.random.split(key)
        own, together, ratio = _together(batch, weak, strong, field, changing)
        _, (outputs, state) = task.loss(params, model_state, together, inner)
        if outputs.ndim != 2 or outputs.shape[1] < 2:
            raise InputError(f"fixmatch: needs logits [B, K] with K at least 2, and the task gives {outputs.shape}")
        each = outputs.reshape(-1, 1 + 2 * ratio, outputs.shape[1])
        logits, guess, learned = each[:, 0], each[:, 1 : 1 + ratio], each[:, 1 + ratio :]
        sure = jax.nn.softmax(jax.lax.stop_gradient(guess), -1)  # [B, ratio, K]
        counted = row_mask(batch)[:, None] * jnp.ones(sure.shape[:2])
        values = cross_entropy(learned.reshape(-1, each.shape[2]), sure.argmax(-1).reshape(-1)).reshape(counted.shape)
        total = jnp.where(counted * (sure.max(-1) >= threshold) > 0, values, 0).sum()
        mean = cast(Mean, task.metrics["loss"](logits, own))
        labelled, others = all_sum(jax.lax.stop_gradient((mean.weight, counted.sum())))  # one mean for each kind of row
        value = Mean(mean.total + weight * labelled / jnp.maximum(others, 1) * total, mean.weight)
        return value, (Matched(logits, sure.max(-1)), state)

    def outputs(variables: Tree, batch: Batch) -> Matched:
        return Matched((task.outputs or task.predict)(variables, batch))

    def check(rows: Batch) -> None:
        task.check({name: x for name, x in rows.items() if name != UNLABELLED})
        if UNLABELLED in rows and field in rows:
            others, own = rows[UNLABELLED], rows[field]
            try:
                task.check({field: others if others.ndim == own.ndim else others.reshape(-1, *others.shape[2:])})
            except InputError as error:
                raise InputError(f"{UNLABELLED}: {error}") from None
            except KeyError:  # a check of one's own that reads the label
                pass

    metrics = {name: _of_logits(metric) for name, metric in task.metrics.items()}
    confident = functools.partial(_confident, threshold)
    return task._replace(loss=loss, outputs=outputs, check=check, metrics={**metrics, "confident": confident})


def _together(batch: Batch, weak: Transform, strong: Transform, field: str, key: Array) -> tuple[Batch, Batch, int]:
    """Return the labelled rows, a batch of them with both changes of the others beside each, and the ratio."""
    check_field(batch, field)
    if UNLABELLED not in batch:
        raise InputError(
            f"fixmatch: the batch has no {UNLABELLED!r}, only {', '.join(sorted(batch))}; use semi_supervised data"
        )
    own, others = {name: x for name, x in batch.items() if name != UNLABELLED}, batch[UNLABELLED]
    count, ratio = others.shape[:2]
    flat = others.reshape(count * ratio, *others.shape[2:])
    parts = [as_float(own[field])[:, None]]
    for one, change in zip(jax.random.split(key), (weak, strong), strict=True):
        changed = as_float(change(one, {field: flat})[field])
        if changed.shape[1:] != own[field].shape[1:]:
            shapes = f"{changed.shape[1:]} beside labelled rows of {own[field].shape[1:]}"
            raise InputError(f"fixmatch: rows without a label of shape {shapes}; weak and strong must keep the size")
        parts.append(changed.reshape(count, ratio, *changed.shape[1:]))
    joint = jnp.concatenate(parts, 1)  # rows that belong together stay on one device
    together = {name: jax.tree.map(lambda x: jnp.repeat(x, 1 + 2 * ratio, 0), x) for name, x in own.items()}
    return own, {**together, field: joint.reshape(-1, *joint.shape[2:])}, ratio


def _of_logits(metric: Metric) -> Metric:
    @functools.wraps(metric)
    def measured(outputs: Any, batch: Batch) -> MetricState:
        return metric(outputs.logits if isinstance(outputs, Matched) else outputs, batch)

    return measured


def _confident(threshold: float, outputs: Any, batch: Batch) -> Mean:
    matched = outputs if isinstance(outputs, Matched) else Matched(outputs)
    sure = jax.nn.softmax(matched.logits, -1).max(-1)[:, None] if matched.confidence is None else matched.confidence
    counted = row_mask(batch)[:, None] * jnp.ones_like(sure)
    return Mean((counted * (sure >= threshold)).sum(), counted.sum())


class PairedChunk(IndexedChunk):
    """K batches of labelled rows with others beside them; `index` is int32 `[K, B, 1 + ratio]`, the labelled first."""

    def at(self, k: Any) -> dict[str, Any]:
        """Return batch `k`."""
        own, others = self.index[k][:, 0], self.index[k][:, 1:]
        batch = jax.tree.map(lambda x: x[own], dict(self.arrays["labelled"]))
        batch |= {UNLABELLED: self.arrays[UNLABELLED][others]}
        return batch if self.row_mask is None else batch | {"row_mask": self.row_mask[k]}

    def layout(self, whole: Any, split: Any) -> "PairedChunk":
        """Return what goes to every device (`whole`) and what is divided along its second axis (`split`)."""
        return PairedChunk(*super().layout(whole, split))


@dataclasses.dataclass(frozen=True)
class SemiSupervised(Resident):
    """Labelled rows in memory; in training, each brings `ratio` rows without a label, as `"unlabelled"`.

    Both kinds of rows come in orders of their own, endless permutations that depend on the seed; batch t depends on the
    seed and t alone. The labelled rows of a batch are those that `Resident` gives. Evaluation reads labelled rows.

    Attributes:
        unlabelled: the other rows, `[M, ...]`; made by `semi_supervised`.
        ratio: of rows without a label to labelled ones in a batch.

    """

    unlabelled: Any = None
    ratio: int = 7

    @property
    def every_array(self) -> dict[str, Any]:
        """All rows, which a run is recognised by."""
        return {**self.arrays, UNLABELLED: self.unlabelled}

    def example(self) -> Batch:
        """Return the first row, with others."""
        others = np.asarray(self.unlabelled[np.arange(self.ratio) % len(self.unlabelled)])
        return {**super().example(), UNLABELLED: others[None]}

    def put(self, move: Callable[[Tree], Tree]) -> "SemiSupervised":
        """Move all rows to the devices with `move`."""
        return dataclasses.replace(self, arrays=move(dict(self.arrays)), unlabelled=move(self.unlabelled))

    def chunk(
        self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, shard: Shard = ALL
    ) -> IndexedChunk:
        """Return training batches `start` to `start + count`, see `Data.chunk`; `batch_size` counts labelled rows."""
        del shard
        own = train_rows(self.seed, self.size, batch_size, start, count)
        size, seed = batch_size * self.ratio, self.seed + OTHER_ORDER
        others = train_rows(seed, len(self.unlabelled), size, start, count).reshape(count, batch_size, self.ratio)
        index, more = np.concatenate([own[..., None], others], -1).astype(np.int32), -batch_size % multiple
        mask = fill(np.pad(np.ones(own.shape, np.float32), ((0, 0), (0, more))), capacity) if more else None
        index = np.pad(index, ((0, 0), (0, more), (0, 0)))
        arrays = {"labelled": dict(self.arrays), UNLABELLED: self.unlabelled}
        return PairedChunk(arrays, fill(index, capacity), mask, np.int32(count))


def semi_supervised(labelled: Resident, unlabelled: Any, *, ratio: int = 7, field: str = "image") -> SemiSupervised:
    """Put rows without a label beside labelled ones, for `fixmatch`.

    Args:
        labelled: the labelled rows, in memory. Its seed is the seed of both orders.
        unlabelled: further rows, a data set in memory whose labels are not read, or an array `[M, ...]`. The paper has
            the labelled rows among them.
        ratio: rows without a label for each labelled row of a batch, at least 1; 7 in the paper.
        field: the entry that both kinds have.

    Raises:
        InputError: the ratio is not a whole number or below 1, the labelled rows are not in memory, there are no rows,
            or the entries differ in shape or dtype.

    """
    check_whole("ratio", ratio, 1)
    if not isinstance(labelled, Resident):
        raise InputError(f"labelled={type(labelled).__name__}: must be rows in memory, jc.data.Resident")
    if not isinstance(unlabelled, Resident):
        unlabelled = np.asarray(unlabelled) if isinstance(unlabelled, list | tuple) else unlabelled
        if not hasattr(unlabelled, "shape"):
            raise InputError(f"unlabelled={type(unlabelled).__name__}: must be rows in memory or an array of images")
    for part in (labelled, unlabelled) if isinstance(unlabelled, Resident) else (labelled,):
        check_field(part.arrays, field)
    if UNLABELLED in labelled.arrays:
        raise InputError(f"labelled: has an entry {UNLABELLED!r} already; give the labelled rows alone")
    others, own = unlabelled.arrays[field] if isinstance(unlabelled, Resident) else unlabelled, labelled.arrays[field]
    if not len(others) or others.shape[1:] != own.shape[1:] or others.dtype != own.dtype:
        found, wanted = f"{others.dtype} {list(others.shape[1:])}", f"{own.dtype} {list(own.shape[1:])}"
        raise InputError(
            f"unlabelled: {len(others)} rows of {found}; must be at least one, like the labelled ones, {wanted}"
        )
    fields = {f.name: getattr(labelled, f.name) for f in dataclasses.fields(Resident)}
    return SemiSupervised(**fields, unlabelled=others, ratio=ratio)
