"""How much each parameter matters to what a network predicts: the Fisher information, which EWC holds on to.

The function is also a name of `methods.consolidation`.
"""

import dataclasses
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.types import Batch, InputError, Mean, Task, Tree, check_whole, row_mask
from jaxcnn.losses import cross_entropy
from jaxcnn.methods.robustness import two
from jaxcnn.parallel.compile import compile_step
from jaxcnn.tasks.classification import check_one_label
from jaxcnn.train.evaluation import collect, evaluate

Array = jax.Array
COLLECTIONS = ("ewc", "lwf")  # of `consolidation` in the model state, which predictions do not read


class _Squares(NamedTuple):
    """Sums of squares, in the form of the parameters, and the number of rows."""

    total: Any
    weight: Any

    def compute(self) -> dict[str, Any]:
        """Return the means in a dict of one name, as values of a metric."""
        return {"fisher": jax.tree.map(lambda x: np.asarray(x / self.weight, np.float32), self.total)}


def fisher(
    task: Task,
    variables: Tree,
    data: Any,
    *,
    labels: Literal["drawn", "true"] = "drawn",
    seed: int = 0,
    batch_size: int = 32,
    strategy: str = "auto",
    devices: Any = None,
) -> Tree:
    """Return the diagonal of the Fisher information: the mean over rows of a squared gradient.

    It is that of the negative log-likelihood of a drawn label, or of the task's loss for the row's own label.

    Norms use their running statistics, dropout is off, and `"sample_weight"` does not count.

    Args:
        task: a task with the metric `"loss"`, a negative log-likelihood.
        variables: its variables.
        data: rows of the task that ends; some hundreds are enough.
        labels: `"drawn"`: from the network's own prediction, as the definition says, for classes and rows in memory;
            `"true"`: those of the rows (the empirical Fisher information), for any task.
        seed: of the drawn labels.
        batch_size: rows whose gradients are in memory at the same time, over all devices.
        strategy: see `compile_step`.
        devices: see `compile_step`.

    Returns:
        Float32 arrays in the form of the parameters.

    Raises:
        InputError: there are no rows, the rows are not in memory, or `labels` is unknown.

    """
    if labels not in ("drawn", "true"):
        raise InputError(f"labels={labels!r}: must be 'drawn' or 'true'")
    if "loss" not in task.metrics:
        raise InputError("fisher: the task has no metric 'loss', whose gradients are squared")
    if labels == "drawn":
        check_one_label(task, "fisher")
        if getattr(task.metrics["loss"], "adjusted", False):
            line = "fisher: with logit_adjustment, the loss learns other probabilities than are predicted"
            raise InputError(f"{line}; use labels='true'")
        data = _drawn(task, variables, data, seed)
    outputs_of = task.outputs or task.predict

    def one(variables: Tree, row: Batch) -> tuple[Tree, Array]:
        row = {name: x for name, x in jax.tree.map(lambda x: x[None], row).items() if name != "sample_weight"}

        def value(params: Tree) -> tuple[Array, Array]:
            known = {**variables, "params": params}
            if labels == "drawn":  # of the predicted probabilities, whatever weights or smoothing training uses
                mask = row["row_mask"][0]
                return mask * cross_entropy(two(task.predict(known, row)), row["label"])[0], mask > 0
            mean = cast(Mean, task.metrics["loss"](outputs_of(known, row), row))
            return mean.total, mean.weight > 0

        slope, counts = jax.grad(value, has_aux=True)(variables["params"])
        return jax.tree.map(jnp.square, slope), counts

    def step(variables: Tree, batch: Batch) -> tuple[Tree, dict[str, Any]]:
        squares, counts = jax.vmap(one, (None, 0))(variables, {**batch, "row_mask": row_mask(batch)})
        total = jax.tree.map(lambda x: x.sum(0), squares)
        return variables, {"fisher": _Squares(total, counts.astype(jnp.float32).sum())}

    kept = {name: part for name, part in variables.items() if name not in COLLECTIONS}
    run = compile_step(step, strategy, devices, donate=False)
    return evaluate(run, kept, data, batch_size=batch_size)["fisher"]


def _drawn(task: Task, variables: Tree, data: Any, seed: int) -> Any:
    """Replace the labels of rows in memory by classes that are drawn from the network's prediction."""
    check_whole("seed", seed, 0)
    if not hasattr(data, "arrays") or "label" not in data.arrays:
        raise InputError("data: must be rows in memory with a 'label', to draw their labels; or give labels='true'")
    logits = np.asarray(two(jnp.asarray(collect(task.predict, variables, data)[0])), np.float64)
    drawn = (logits + np.random.default_rng(seed).gumbel(size=logits.shape)).argmax(-1)
    return dataclasses.replace(data, arrays={**data.arrays, "label": drawn.astype(np.int32)})
