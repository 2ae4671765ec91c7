"""Loading a run from its folder (`load_run`), its metrics (`evaluate`) and its outputs (`predict`)."""

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
from jaxcnn.models import NETWORKS
from jaxcnn.parallel.compile import compile_step
from jaxcnn.runs import match
from jaxcnn.runs.data import rows_to_measure
from jaxcnn.runs.described import entries_of, views_of
from jaxcnn.runs.plan import named_classes
from jaxcnn.runs.schema import check_config
from jaxcnn.tasks import TASKS, expecting
from jaxcnn.train.checkpoint import Checkpoints, DamagedError, reading, unflatten
from jaxcnn.train.evaluation import collect
from jaxcnn.train.evaluation import evaluate as measure
from jaxcnn.train.step import make_eval_step

RENAMED = {"small_images": "cifar_stem"}  # option names in older runs, and the present names
MOST_BYTES = 2**35  # most bytes of a model's variables
log = logging.getLogger("jaxcnn")


class TrainedRun(NamedTuple):
    """A run, ready to use.

    Attributes:
        config: content of `config.json`: settings, versions, class names, and how to build the model.
        model: the Linen module; None if `config.json` does not describe it.
        task: its `Task`; `task.predict(variables, {"image": uint8 [B, H, W, C]})` returns the outputs, which are logits
            for a classifier.
        variables: `{"params": ..., "batch_stats": ...}`, the best by validation, otherwise the latest.
        step: training step of the variables.

    """

    config: dict[str, Any]
    model: Any
    task: Task
    variables: Tree
    step: int


def build(description: dict[str, Any]) -> tuple[Any, Task]:
    """Build the model and the task from their description in `config.json`.

    Args:
        description: `{"model": {"name", "options"}, "task": {"name", "options"}}`, with names of `NETWORKS` and
            `TASKS`. A run's folder also needs `"image"`, `{"shape": [H, W, C], "dtype": "uint8"}`, to be loaded again,
            or for other things than images `"inputs"`, the same of each array that the model gets, by name.
            With `"views"`, options of `augment.test_time_views`, outputs are means over these views of the images; for
            segmentation, options of `augment.pixel_views`.

    Returns:
        `(model, task)`.

    """
    model = NETWORKS[description["model"]["name"]](**description["model"]["options"])
    task = TASKS[description["task"]["name"]](model, **description["task"]["options"])
    views = description.get("views")
    if views is None:
        return model, task
    name = description["task"]["name"]
    over = "softmax" if name == "segmentation" else "logits"
    mean = augment.test_time_augmentation(task.predict, views_of(name)(**views), over=over)
    return model, task._replace(predict=mean)


def example(description: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return a batch of one row of zeros with the shape and dtype of the run's inputs, for `task.init`."""
    rows = entries_of(description).items()
    return {name: np.zeros((1, *one["shape"]), one["dtype"]) for name, one in rows}


def read_config(folder: str | pathlib.Path) -> dict[str, Any]:
    """Read a run's `config.json` and check it against its schema.

    Raises:
        InputError: The folder is not a run's, or the file has a wrong value; the message names the place and the value.

    """
    path = pathlib.Path(folder) / "config.json"
    try:
        found = files.read_json(path)
    except FileNotFoundError as error:
        raise InputError(f"{visible(folder)}: not a run's folder (no config.json in it)") from error
    except (OSError, InputError) as error:
        raise InputError(
            f"{visible(folder)}: not a run's folder, or a damaged one ({visible(reason(error))})"
        ) from error
    _rename(found)
    try:
        return check_config(found, "config.json")
    except InputError as error:
        raise InputError(f"{visible(folder)}: not a run's folder, or a damaged one ({error})") from error


def _rename(config: Any) -> None:
    """Rename the options of older runs in place; `check_config` reports values of a wrong type later."""
    for path in (("settings",), ("build", "model", "options")):
        options = config
        for name in path:
            options = options.get(name) if isinstance(options, dict) else None
        for old, new in RENAMED.items():
            if isinstance(options, dict) and old in options and new not in options:
                options[new] = options.pop(old)


def load_run(folder: str | pathlib.Path, task: Task | None = None) -> TrainedRun:
    """Load a run from its folder, finished or not: its best weights, or the latest if the best are unknown.

    Args:
        folder: folder that `train_run`, `save_run` or an experiment wrote, with `config.json` and `checkpoints/`.
        task: the task that was trained. It is required if the model or the task is your own, because no code is
            imported by a name found in a file; by default the task that `config.json` describes.

    Raises:
        InputError: The folder is not a run's, has no intact checkpoint, or needs `task`; or the checkpoint does not
            fit the task.

    """
    folder = pathlib.Path(folder)
    config = read_config(folder)
    description = config["build"]
    given = task is not None
    if given:
        model, like = build(description)[0] if description else None, _own_shapes(config, task, folder)
    elif description is None:
        line = (
            "its config.json does not describe the model and task, which are your own; call load_run(folder, task=...)"
        )
        raise InputError(f"{visible(folder)}: {line}")
    else:
        model, task, like = _shapes(config, folder)
        about = description["task"]
        any_size = about["name"] == "segmentation" or bool(about["options"].get("size"))
        if "image" in description:
            task = expecting(task, description["image"]["shape"], any_size=any_size)
    with reading(folder / "checkpoints") as saved:
        step, flat = _choose(saved, folder)
    averaged = bool(config.get("ema") or (description or {}).get("ema"))
    try:
        variables = unflatten(like, _saved_variables(flat, averaged, like))
    except InputError as error:
        what = "the task" if given else "its config.json"
        raise InputError(f"{visible(folder)}: its checkpoint {step} does not fit {what}: {error}") from error
    return TrainedRun(config, model, task, jax.tree.map(jnp.asarray, variables), step)


def _saved_variables(flat: Mapping[str, np.ndarray], averaged: bool, like: Tree) -> dict[str, np.ndarray]:
    """Return the model's variables from a flat checkpoint: the averaged ones, or parameters and model state."""
    if averaged:
        kept = {path.removeprefix("extras.ema."): x for path, x in flat.items() if path.startswith("extras.ema.")}
    else:
        chosen = {path: x for path, x in flat.items() if path.startswith(("params.", "model_state."))}
        kept = {path.removeprefix("model_state."): x for path, x in chosen.items()}
    # a loss may keep state of its own beside the model's
    return {path: x for path, x in kept.items() if path.split(".", 1)[0] in like}


def _abstract(entry: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
    """Return one row of an entry as the device holds it: 64-bit integers are 32-bit there."""
    return jax.ShapeDtypeStruct((1, *entry["shape"]), jax.dtypes.canonicalize_dtype(entry["dtype"]))


def _own_shapes(config: Mapping[str, Any], task: Task, folder: pathlib.Path) -> Tree:
    """Return the shapes of the variables of the caller's task."""
    rows = entries_of(config["build"]) if config["build"] else config["inputs"]
    batch = {name: _abstract(one) for name, one in rows.items()}
    try:
        return jax.eval_shape(task.init, jax.random.key(0), batch)
    except Exception as error:
        shapes = ", ".join(f"{visible(name)} {tuple(one['shape'])}" for name, one in rows.items())
        raise InputError(
            f"{visible(folder)}: the task cannot be made for its rows ({shapes}): {visible(reason(error))}"
        ) from error


def _shapes(config: Mapping[str, Any], folder: pathlib.Path) -> tuple[Any, Task, Tree]:
    """Build the model and the task, and return the shapes of the variables without allocating them."""
    batch = {name: _abstract(one) for name, one in entries_of(config["build"]).items()}
    try:
        model, task = build(config["build"])
        like = jax.eval_shape(task.init, jax.random.key(0), batch)
        if config["build"].get("views"):
            jax.eval_shape(task.predict, like, batch)
    except Exception as error:  # options that do not fit together raise errors of any kind in the layers
        line = f"config.json: build: the model cannot be built from this description ({visible(reason(error))})"
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
            f"{visible(folder)}: no checkpoint that can be read; the run stopped before its first save, "
            "or its checkpoints are damaged: train it again"
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
    """Evaluate a run on its own test rows, or on other data with the same classes.

    Args:
        loaded: the run.
        place: other data, in any form that `rows_to_measure` accepts, or a data set with the task's arrays; None for
            the run's own test rows.
        data_dir: folder with prepared TFDS sets.
        batch_size: rows per batch.

    Returns:
        Dict from the name of a metric to its value; it includes `"count"`, the number of rows.

    Raises:
        InputError: The data cannot be read or do not match the run, see `rows_to_measure`.

    """
    if place is None or isinstance(place, str | os.PathLike):
        place = None if place is None else str(place)
        data = rows_to_measure(loaded.config, place, data_dir=data_dir).data
    else:
        data = place
        theirs, ours = named_classes(place), tuple(loaded.config.get("classes") or ())
        if theirs and ours and match.table(theirs, ours, "the data")[0] is not None:
            both = " and the run has ".join(visible(", ".join(one[:10])) for one in (theirs, ours))
            raise InputError(f"the data have the classes {both}; number the labels in the order of the run")
    run = compile_step(make_eval_step(loaded.task), "jit")
    return measure(run, loaded.variables, data, batch_size=batch_size)


def predict(loaded: TrainedRun, data: Any, *, batch_size: int = 256) -> Any:
    """Return the outputs of a run's task for each row, in order.

    Args:
        loaded: the run.
        data: a data set, or a dict from name to array `[N, ...]`, such as `{"image": ...}`.
        batch_size: rows per batch.

    Returns:
        The outputs, NumPy arrays `[N, ...]`.

    Raises:
        InputError: There are no rows, or they do not fit the task.

    """
    data = Resident(data) if isinstance(data, Mapping) else data
    return collect(loaded.task.predict, loaded.variables, data, batch_size=batch_size)[0]
