"""A run's folder: what it must hold so that its model can be built again, and `load_run`, which does."""

import json
import logging
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import augment
from jaxcnn.cache import cache_folder
from jaxcnn.checkpoint import Checkpoints, DamagedError, reading, unflatten
from jaxcnn.data import SOURCES, Splits
from jaxcnn.models import MODELS
from jaxcnn.tasks import TASKS, expecting
from jaxcnn.types import InputError, Task, Tree

PLACES = ("path", "data_dir")  # options of a source that say where it is
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


def source(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Describe how data are read, for `config.json`: a function of `jaxcnn.data` by name and its plain options, paths made absolute."""
    places = {k: str(pathlib.Path(options[k]).expanduser().absolute()) for k in PLACES if options.get(k)}
    return {"name": name, "options": options | places}


def read_data(config: dict[str, Any], place: str | None = None) -> Splits:
    """Read the rows that a run learned from and was tested on, as its `config.json` describes them.

    Args:
        config: of a run, as `read_config` gives it.
        place: where the data are now (a path, or the `data_dir` of a TFDS set), if they were moved.

    Returns:
        The three parts. Of a run of `experiments.transfer --per-class` the training part is the one that it drew from.

    Raises:
        InputError: the run does not say, the data are not there, or the test part has another number of rows.

    """
    said, classes = config.get("source"), config["classes"]
    if not isinstance(said, dict) or said.get("name") not in SOURCES:
        raise InputError("its config.json does not say how the data were read (it is older than that record); train it again")
    options = dict(said["options"])
    if place is not None:
        options["data_dir" if said["name"] == "tfds" else "path"] = place
    skip = {"on_bad": lambda line, examples: None} if config["settings"].get("on_bad_example") == "skip" else {}
    kept = {"cache": cache_folder("data")} if said["name"] == "tfds" else {}
    try:
        splits = SOURCES[said["name"]](**options, **kept, **(skip if said["name"] in ("folder", "tfds") else {}))
    except TypeError as error:
        raise InputError(f"its config.json says how the data were read in a way that this version does not know ({error})") from error
    if config["settings"].get("limit_examples"):
        splits = Splits(*(limited(part, config["settings"]["limit_examples"]) for part in splits))
    tested = config["data"]["rows"][2]
    if splits.test.size != tested or list(splits.test.classes) != list(classes):
        raise InputError(f"{config['data']['name']}: the test part has {splits.test.size} rows, and the run was tested on {tested}; "
                         "the data changed, or are in another place now")  # fmt: skip
    return splits


def limited(data: Any, rows: int) -> Any:
    """At most so many rows, drawn by lot, always the same ones."""
    return data.take(np.random.default_rng(0).permutation(data.size)[:rows])


def read_config(folder: str | pathlib.Path) -> dict[str, Any]:
    """Read a run's `config.json`.

    Raises:
        InputError: the folder is no run.

    """
    path = pathlib.Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text())
        known = config["build"]["model"]["name"] in MODELS and config["build"]["task"]["name"] in TASKS
        config["experiment"], config["settings"], config["data"]["name"], config["classes"], config["build"]["image"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: not a run's folder (no usable config.json in it)") from error
    if not known:
        raise InputError(f"{folder}: its model or task is unknown to this version of jaxcnn; update it")
    return config


def load_run(folder: str | pathlib.Path) -> LoadedRun:
    """Load a run from its folder, finished or not: its best weights, else its latest.

    Args:
        folder: as an experiment left it, with `config.json` and `checkpoints/`.

    Raises:
        InputError: the folder is no run, or holds no sound checkpoint.

    """
    folder = pathlib.Path(folder)
    config = read_config(folder)
    model, task = build(config["build"])
    task = expecting(task, config["build"]["image"]["shape"], resizes=bool(config["build"]["task"]["options"].get("size")))
    with reading(folder / "checkpoints") as saved:
        step, flat = _choose(saved, folder)
    like = jax.eval_shape(task.init, jax.random.key(0), example(config["build"]))
    if config["build"].get("ema"):
        kept = {path.removeprefix("extras.ema."): x for path, x in flat.items() if path.startswith("extras.ema.")}
    else:
        kept = {path.removeprefix("model_state."): x for path, x in flat.items() if path.startswith(("params.", "model_state."))}
    kept = {path: x for path, x in kept.items() if path.split(".", 1)[0] in like}  # a loss may have kept more there than the model has
    return LoadedRun(config, model, task, jax.tree.map(jnp.asarray, unflatten(like, kept)), step)


def _choose(saved: Checkpoints, folder: pathlib.Path) -> tuple[int, dict[str, np.ndarray]]:
    found = saved.newest()
    if found is None:
        raise InputError(f"{folder}: no checkpoint that can be read; it was stopped before its first save")
    step, flat, loop = found
    best = loop["best_step"]
    if best not in (None, step):
        try:
            return best, saved.load(best)[0]
        except DamagedError as error:
            log.warning("the best checkpoint, %d, is damaged (%s): using the latest, %d", best, error, step)
    return step, flat
