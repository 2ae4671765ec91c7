"""`load_run` builds a run's model again from its folder, and `evaluate` measures it."""

import logging
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import augment
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, Task, Tree, reason
from jaxcnn.data import Resident
from jaxcnn.models import MODELS
from jaxcnn.parallel.compile import compile_step
from jaxcnn.runs.data import rows_to_measure
from jaxcnn.runs.schema import check_config
from jaxcnn.tasks import TASKS, expecting
from jaxcnn.train.checkpoint import Checkpoints, DamagedError, reading, unflatten
from jaxcnn.train.evaluation import collect
from jaxcnn.train.evaluation import evaluate as measure
from jaxcnn.train.step import make_eval_step

RENAMED = {"small_images": "cifar_stem"}  # options that older runs call otherwise
MOST_BYTES = 2**35  # of a model's variables
log = logging.getLogger("jaxcnn")


class TrainedRun(NamedTuple):
    """A run, ready to use.

    Attributes:
        config: what `config.json` says: settings, versions, class names, how to build the model.
        model: the Linen module; None where `config.json` does not describe it.
        task: its `Task`; `task.predict(variables, {"image": uint8 [B, H, W, C]})` gives the outputs, of a classifier
            logits.
        variables: `{"params": ..., "batch_stats": ...}`: the best by validation, else the latest.
        step: the training step they come from.

    """

    config: dict[str, Any]
    model: Any
    task: Task
    variables: Tree
    step: int


def build(description: dict[str, Any]) -> tuple[Any, Task]:
    """Make model and task from plain values.

    Args:
        description: `{"model": {"name", "options"}, "task": {"name", "options"}}`, names as in `MODELS` and `TASKS`,
            and perhaps
            `"views"`, the options of `augment.test_time_views`: outputs are then means over these views of the images.

    Returns:
        `(model, task)`.

    """
    model = MODELS[description["model"]["name"]](**description["model"]["options"])
    task = TASKS[description["task"]["name"]](model, **description["task"]["options"])
    views = description.get("views")
    return model, task if views is None else task._replace(
        predict=augment.test_time_augmentation(task.predict, augment.test_time_views(**views))
    )


def example(description: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return a batch of one row with the shape and dtype of the run's images, for `task.init`."""
    return {"image": np.zeros((1, *description["image"]["shape"]), description["image"]["dtype"])}


def read_config(folder: str | pathlib.Path) -> dict[str, Any]:
    """Read a run's `config.json` and check it against its schema.

    Raises:
        InputError: the folder is no run, or the file does not fit; the message names place and value.

    """
    path = pathlib.Path(folder) / "config.json"
    try:
        found = files.read_json(path)
    except FileNotFoundError as error:
        raise InputError(f"{visible(folder)}: not a run's folder (no config.json in it)") from error
    except (OSError, InputError) as error:
        raise InputError(
            f"{visible(folder)}: not a run's folder that can be used ({visible(reason(error))})"
        ) from error
    _rename(found)
    try:
        return check_config(found, "config.json")
    except InputError as error:
        raise InputError(f"{visible(folder)}: not a run's folder that can be used ({error})") from error


def _rename(config: Any) -> None:
    """Give options that older runs call otherwise their present names, in place; what has another form is left as it is."""
    for path in (("settings",), ("build", "model", "options")):
        options = config
        for name in path:
            options = options.get(name) if isinstance(options, dict) else None
        for old, new in RENAMED.items():
            if isinstance(options, dict) and old in options and new not in options:
                options[new] = options.pop(old)


def load_run(folder: str | pathlib.Path, task: Task | None = None) -> TrainedRun:
    """Load a run from its folder, finished or not: its best weights, else its latest.

    Args:
        folder: as `train_run`, `save_run` or an experiment left it, with `config.json` and `checkpoints/`.
        task: what was trained, for a run whose model or task is your own; nothing is imported by a name found in a
            file. Of another run
            the task that its `config.json` describes, unless you give one.

    Raises:
        InputError: the folder is no run, holds no sound checkpoint, or needs `task`, or the checkpoint is of another
            task.

    """
    folder = pathlib.Path(folder)
    config = read_config(folder)
    description = config["build"]
    given = task is not None
    if given:
        model, like = build(description)[0] if description else None, _own_shapes(config, task, folder)
    elif description is None:
        line = "its model or task is your own, so its config.json cannot say how they are made; give load_run(folder, task=...)"
        raise InputError(f"{visible(folder)}: {line}")
    else:
        model, task, like = _shapes(config, folder)
        task = expecting(task, description["image"]["shape"], resizes=bool(description["task"]["options"].get("size")))
    with reading(folder / "checkpoints") as saved:
        step, flat = _choose(saved, folder)
    if config.get("ema") or (description or {}).get("ema"):
        kept = {path.removeprefix("extras.ema."): x for path, x in flat.items() if path.startswith("extras.ema.")}
    else:
        kept = {
            path.removeprefix("model_state."): x
            for path, x in flat.items()
            if path.startswith(("params.", "model_state."))
        }
    kept = {
        path: x for path, x in kept.items() if path.split(".", 1)[0] in like
    }  # a loss may have kept more there than the model has
    try:
        variables = unflatten(like, kept)
    except InputError as error:
        what = "the task" if given else "its config.json"
        raise InputError(f"{visible(folder)}: its checkpoint {step} does not fit {what}: {error}") from error
    return TrainedRun(config, model, task, jax.tree.map(jnp.asarray, variables), step)


def _own_shapes(config: Mapping[str, Any], task: Task, folder: pathlib.Path) -> Tree:
    """Return the shapes of the variables of a task of the caller's own."""
    rows = {"image": config["build"]["image"]} if config["build"] else config["inputs"]
    batch = {name: jax.ShapeDtypeStruct((1, *one["shape"]), one["dtype"]) for name, one in rows.items()}
    try:
        return jax.eval_shape(task.init, jax.random.key(0), batch)
    except Exception as error:
        shapes = ", ".join(f"{visible(name)} {tuple(one['shape'])}" for name, one in rows.items())
        raise InputError(
            f"{visible(folder)}: the task cannot be made for its rows ({shapes}): {visible(reason(error))}"
        ) from error


def _shapes(config: Mapping[str, Any], folder: pathlib.Path) -> tuple[Any, Task, Tree]:
    """Build model and task, and the shapes of the variables, without room for any of them."""
    image = config["build"]["image"]
    batch = {"image": jax.ShapeDtypeStruct((1, *image["shape"]), image["dtype"])}
    try:
        model, task = build(config["build"])
        like = jax.eval_shape(task.init, jax.random.key(0), batch)
        if config["build"].get("views"):
            jax.eval_shape(task.predict, like, batch)
    except Exception as error:  # options that do not go together raise whatever the layers stumble over
        line = f"config.json: build: the model cannot be made as it says ({visible(reason(error))})"
        raise InputError(f"{visible(folder)}: {line}") from error
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(like))
    if size > MOST_BYTES:
        raise InputError(
            f"{visible(folder)}: config.json: build: a model of {size:,} bytes; must be {MOST_BYTES:,} at most"
        )
    return model, task, like


def _choose(saved: Checkpoints, folder: pathlib.Path) -> tuple[int, dict[str, np.ndarray]]:
    found = saved.newest()
    if found is None:
        raise InputError(
            f"{visible(folder)}: no checkpoint that can be read; it was stopped before its first save, or they are damaged"
        )
    step, flat, loop = found
    best = loop.get("best_step") if isinstance(loop, Mapping) else None
    if isinstance(best, int) and best != step:
        try:
            return best, saved.load(best)[0]
        except DamagedError as error:
            log.warning("the best checkpoint, %d, is damaged (%s): using the latest, %d", best, visible(error), step)
    return step, flat


def evaluate(
    loaded: TrainedRun, place: Any = None, *, data_dir: str | None = None, batch_size: int = 256
) -> dict[str, Any]:
    """Measure a run on its own test rows, or on other data of the same classes.

    Args:
        loaded: the run.
        place: the other data, as `rows_to_measure` takes them, or a data set with the task's arrays; None for the
            run's own test rows.
        data_dir: where TFDS sets are prepared.
        batch_size: rows at a time.

    Returns:
        Metrics by name, `"count"` among them.

    Raises:
        InputError: as `rows_to_measure`.

    """
    given = place is not None and not isinstance(place, str | os.PathLike)
    data = (
        place
        if given
        else rows_to_measure(loaded.config, None if place is None else str(place), data_dir=data_dir).data
    )
    run = compile_step(make_eval_step(loaded.task), "jit", donate=False)
    return measure(run, loaded.variables, data, batch_size=batch_size)


def predict(loaded: TrainedRun, data: Any, *, batch_size: int = 256) -> Any:
    """Return what a run's task predicts for rows, in their order.

    Args:
        loaded: the run.
        data: a data set, or arrays `[N, ...]` by name, such as `{"image": ...}`.
        batch_size: rows at a time.

    Returns:
        The outputs `[N, ...]`, NumPy arrays.

    Raises:
        InputError: no rows, or rows that the task cannot mean.

    """
    data = Resident(data) if isinstance(data, Mapping) else data
    return collect(loaded.task.predict, loaded.variables, data, batch_size=batch_size)[0]
