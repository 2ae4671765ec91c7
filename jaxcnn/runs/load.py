"""`load_run` builds a run's model again from its folder, and `evaluate` measures it."""

import logging
import math
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
from jaxcnn.models import MODELS
from jaxcnn.parallel.compile import compile_step
from jaxcnn.runs.data import rows_to_measure
from jaxcnn.runs.schema import check_config
from jaxcnn.tasks import TASKS, expecting
from jaxcnn.train.checkpoint import Checkpoints, DamagedError, reading, unflatten
from jaxcnn.train.evaluation import evaluate as measure
from jaxcnn.train.step import make_eval_step

MOST_BYTES = 2**35  # of a model's variables
log = logging.getLogger("jaxcnn")


class LoadedRun(NamedTuple):
    """A run, ready to use.

    Attributes:
        config: what `config.json` says: settings, versions, class names, how to build the model.
        model: the Linen module.
        task: its `Task`; `task.predict(variables, {"image": uint8 [B, H, W, C]})` gives logits.
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
        description: `{"model": {"name", "options"}, "task": {"name", "options"}}`, names as in `MODELS` and `TASKS`, and perhaps
            `"views"`, the options of `augment.views`: outputs are then means over these views of the images.

    Returns:
        `(model, task)`.

    """
    model = MODELS[description["model"]["name"]](**description["model"]["options"])
    task = TASKS[description["task"]["name"]](model, **description["task"]["options"])
    views = description.get("views")
    return model, task if views is None else task._replace(predict=augment.averaged(task.predict, augment.views(**views)))


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
        raise InputError(f"{visible(folder)}: not a run's folder that can be used ({visible(reason(error))})") from error
    try:
        return check_config(found, "config.json")
    except InputError as error:
        raise InputError(f"{visible(folder)}: not a run's folder that can be used ({error})") from error


def load_run(folder: str | pathlib.Path) -> LoadedRun:
    """Load a run from its folder, finished or not: its best weights, else its latest.

    Args:
        folder: as an experiment left it, with `config.json` and `checkpoints/`.

    Raises:
        InputError: the folder is no run, or holds no sound checkpoint.

    """
    folder = pathlib.Path(folder)
    config = read_config(folder)
    model, task, like = _shapes(config, folder)
    task = expecting(task, config["build"]["image"]["shape"], resizes=bool(config["build"]["task"]["options"].get("size")))
    with reading(folder / "checkpoints") as saved:
        step, flat = _choose(saved, folder)
    if config["build"].get("ema"):
        kept = {path.removeprefix("extras.ema."): x for path, x in flat.items() if path.startswith("extras.ema.")}
    else:
        kept = {path.removeprefix("model_state."): x for path, x in flat.items() if path.startswith(("params.", "model_state."))}
    kept = {path: x for path, x in kept.items() if path.split(".", 1)[0] in like}  # a loss may have kept more there than the model has
    try:
        variables = unflatten(like, kept)
    except InputError as error:
        raise InputError(f"{visible(folder)}: its checkpoint {step} does not fit its config.json: {error}") from error
    return LoadedRun(config, model, task, jax.tree.map(jnp.asarray, variables), step)


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
        raise InputError(f"{visible(folder)}: config.json: build: a model of {size:,} bytes; must be {MOST_BYTES:,} at most")
    return model, task, like


def _choose(saved: Checkpoints, folder: pathlib.Path) -> tuple[int, dict[str, np.ndarray]]:
    found = saved.newest()
    if found is None:
        raise InputError(f"{visible(folder)}: no checkpoint that can be read; it was stopped before its first save, or they are damaged")
    step, flat, loop = found
    best = loop.get("best_step") if isinstance(loop, Mapping) else None
    if isinstance(best, int) and best != step:
        try:
            return best, saved.load(best)[0]
        except DamagedError as error:
            log.warning("the best checkpoint, %d, is damaged (%s): using the latest, %d", best, visible(error), step)
    return step, flat


def evaluate(loaded: LoadedRun, place: str | None = None, *, data_dir: str | None = None, batch_size: int = 256) -> dict[str, Any]:
    """Measure a run on its own test rows, or on other data of the same classes.

    Args:
        loaded: the run.
        place: the other data, as `rows_to_measure` takes them; None for the run's own test rows.
        data_dir: where TFDS sets are prepared.
        batch_size: rows at a time.

    Returns:
        Metrics by name, `"count"` among them.

    Raises:
        InputError: as `rows_to_measure`.

    """
    rows = rows_to_measure(loaded.config, place, data_dir=data_dir)
    run = compile_step(make_eval_step(loaded.task), "jit", donate=False)
    return measure(run, loaded.variables, rows.data, batch_size=batch_size)
