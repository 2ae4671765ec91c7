"""`save_run` writes the folder of a run that `fit` or your own loop has trained."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, State, Task, scalars
from jaxcnn.data import Splits
from jaxcnn.runs import folders, results
from jaxcnn.runs.logs import Log
from jaxcnn.runs.plan import Plan, check
from jaxcnn.runs.ready import data_digest, describe
from jaxcnn.train import Fit
from jaxcnn.train.checkpoint import Checkpoints, digest, flatten


class _NoRows(NamedTuple):
    size: int = 0


NO_ROWS = _NoRows()  # stands for the parts of the data that save_run does not get
LOOP = ("step", "seconds", "learning_rate")  # columns of a row that are not metrics


def save_run(
    folder: str | pathlib.Path,
    task: Task,
    trained: Fit | State | Mapping[str, Any],
    data: Any,
    *,
    batch_size: int,
    test: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    seed: int | None = None,
    name: str = "run",
    dataset: str = "data",
    build: dict[str, Any] | None = None,
    source: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the folder of a trained run, for `load_run`, `evaluate`, reports and comparisons.

    Args:
        folder: folder for this run, created if absent.
        task: the task that was trained; the names of its headline, figures and monitor are saved.
        trained: result of `fit`, from which the best weights and the history are saved; or a `State`, from which the
            average in `extras["ema"]` is used if there is one; or variables, `{"params": ..., ...}`.
        data: the data it was trained on: `Splits`, or only the training rows.
        batch_size: rows per update, to convert steps to epochs.
        test: metrics of the test rows, from `evaluate`.
        classes: class names in order of label; by default those of the data.
        seed: seed of the training, for the summary.
        name: name of the run.
        dataset: name of the data.
        build: description from which `runs.build` rebuilds the model and the task; None if `load_run` gets the task.
        source: description of how the data were read, from `runs.source`.

    Returns:
        The content of `summary.json`, with arrays as NumPy arrays.

    Raises:
        InputError: The folder has a run already or cannot be written, or a value is out of range.
        UnsavedError: The weights could not be written.
        OSError: The summary could not be written.

    """
    folder, splits = pathlib.Path(folder), data if isinstance(data, Splits) else Splits(data, NO_ROWS, NO_ROWS)
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: must be at least 1")
    state, step, history = _parts(trained)
    plan = Plan(
        task, splits, lambda _: optax.identity(), batch_size=batch_size, steps=step, name=name, dataset=dataset,
        build=build, source=source,
    )  # fmt: skip
    check(plan)
    folders.check_path(folder)
    if (folder / "config.json").exists():
        raise InputError(f"{visible(folder)}: has a run already; give a new folder")
    config = describe(plan, splits, data_digest(splits.train)) | {"settings": {"batch_size": batch_size, "seed": seed}}
    ema = isinstance(state, State) and "ema" in state.extras
    names = list(splits.train.classes if classes is None else classes)
    config |= {"classes": names} | ({"ema": float(ema)} if ema or not build else {})
    folders.begin(folder, config)
    try:
        _save(folder, state, step)
        values = results.tested(test, task.shares) if test else {}
        lines = _log(folder, history, splits.train.size / batch_size, step, values)
        summary = _summary(plan, state, step, history, values) | {"seed": seed, "checkpoint": str(folder)}
        results.write(folder, summary, plan.skipped)
        results.draw(folder, lines.rows, values, names, plan.shown, plan.drawn if values else {})
    finally:
        folders.release(folder)
    return summary


def _parts(trained: Any) -> tuple[Any, int, list[dict[str, Any]]]:
    """Return the state or variables to save, their step, and the history."""
    if isinstance(trained, Fit):
        return trained.best, int(trained.best.step), trained.history
    if isinstance(trained, State):
        return trained, int(trained.step), []
    if not (isinstance(trained, Mapping) and "params" in trained):
        raise InputError(
            f"trained: {type(trained).__name__}; must be the result of fit, a State, or variables with 'params'"
        )
    return {"params": trained["params"], "model_state": {k: v for k, v in trained.items() if k != "params"}}, 0, []


def _save(folder: pathlib.Path, state: Any, step: int) -> None:
    saver = Checkpoints(folder / "checkpoints", alone=True)
    try:
        saver.save(step, state, {"best_step": step})
        saver.saved()
    finally:
        saver.close()
    folders.check_saved(folder, step)


def _log(
    folder: pathlib.Path, history: Sequence[Mapping[str, Any]], per_epoch: float, step: int, values: Mapping[str, Any]
) -> Log:
    lines = Log(folder, per_epoch)
    for row in history:
        named = {
            k if k in LOOP or k.startswith(("train/", "validation/")) else f"validation/{k}": v for k, v in row.items()
        }
        lines.row(named)
    if values:
        lines.line("test", step, 0.0, None, {k: v for k, v in values.items() if not k.endswith("_interval")})
    lines.write()
    return lines


def _summary(
    plan: Plan, state: Any, step: int, history: Sequence[Mapping[str, Any]], values: Mapping[str, Any]
) -> dict[str, Any]:
    params = state.params if isinstance(state, State) else state["params"]
    steps = max([step, *(row["step"] for row in history)])
    best = scalars(next((row for row in history if row["step"] == step), {}))
    own = {k.removeprefix("validation/"): v for k, v in best.items() if k not in LOOP and not k.startswith("train/")}
    return {
        "experiment": plan.name,
        "dataset": plan.dataset,
        "model": plan.build["model"]["name"] if plan.build else plan.name,
        "parameters": sum(int(np.size(x)) for x in jax.tree.leaves(params)),
        "train_rows": plan.data.train.size,
        "steps": steps,
        "epochs": steps * plan.batch_size / plan.data.train.size,
        "train_seconds": sum(row["seconds"] for row in history),
        "best_step": step,
        "validation": own,
        "test": dict(values),
        "params_sha256": digest(flatten(params)),
    }
