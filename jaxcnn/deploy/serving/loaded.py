"""A run that is ready to be served: loaded, its programs compiled, and tried on a row."""

import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.deploy.answers import described
from jaxcnn.deploy.outputs import Row, outputs, width_within
from jaxcnn.deploy.serving.explaining import Explain, explainer
from jaxcnn.deploy.serving.limits import Limits
from jaxcnn.runs import TrainedRun, load_run, single

FIELDS = ("image", "audio", "text")


class Served(NamedTuple):
    """A run that answers.

    Attributes:
        run: the loaded run.
        name: of its folder.
        task: of its task.
        field: what is asked about: `"image"`, `"audio"` or `"text"`.
        compute: rows to their outputs, at most `width` at once; compiled.
        width: rows of one call.
        explain: what speaks for the class of a row; None for tasks without it.

    """

    run: TrainedRun
    name: str
    task: str
    field: str
    compute: Callable[[Sequence[Row]], list[Any]]
    width: int
    explain: Explain | None


def check(path: str | pathlib.Path) -> TrainedRun:
    """Load a run, and refuse one that cannot be served.

    Raises:
        InputError: the folder is not a run's, or the run's model, task or rows are not served.

    """
    run = load_run(path)
    build = run.config["build"]
    if build is None:
        raise InputError(
            f"{visible(path)}: its model is your own; serve it with jaxcnn.load_run(RUN, task=...) in Python"
        )
    image, inputs = build.get("image", {}).get("shape", ()), set(build.get("inputs", {}))
    sounds = inputs == {"audio", "length"} and build["task"]["name"] == "classification"
    if len(image) != 3 and inputs != {"text"} and not sounds:
        what = "volumes" if len(image) == 4 else f"rows with {', '.join(build.get('inputs', build))}"
        raise InputError(f"{visible(path)}: {what} are not served; only images, sounds with classes, and texts are")
    if sounds:
        single.rate_of(run.config)
    return run


def prepare(path: str | pathlib.Path, limits: Limits, together: bool = False) -> Served:
    """Load a run, compile everything that a request can need, and try it.

    Args:
        path: folder of the run, or a link to it.
        limits: the limits of the server.
        together: see `deploy.outputs.outputs`.

    Raises:
        InputError: see `check`.

    """
    where = pathlib.Path(os.path.realpath(path))
    run = check(where)
    build = run.config["build"]
    inputs = {"image": build["image"]} if "image" in build else build["inputs"]
    field = next(name for name in FIELDS if name in inputs)
    row = {name: np.zeros(about["shape"], about["dtype"]) for name, about in inputs.items()}
    if "length" in row:
        row["length"] += len(row["audio"])
    width, call = width_within(run, row, limits.batch), outputs(run, together)
    found = call([row], width)[0]
    task = build["task"]["name"]
    if task not in ("segmentation", "detection"):
        described(run, "", found)
    explain = explainer(run, field)
    if explain is not None:
        explain(row, 0, "a word")
    return Served(run, where.name, task, field, lambda rows: call(rows, width), width, explain)


def signature(path: str | os.PathLike) -> str:
    """Return what changes when a link leads to another run, or a file of a run's checkpoints or configuration changes.

    A copy that is not complete yet has another signature than the complete one.
    """
    where = pathlib.Path(os.path.realpath(path))
    try:
        steps = sorted(one for one in (where / "checkpoints").iterdir() if one.name.isdigit())
        paths = [where / "config.json", *(one for step in steps for one in sorted(step.rglob("*")))]
        found = [(str(one), one.stat()) for one in paths]
    except OSError:
        return ""
    return json.dumps([[name, about.st_ino, about.st_mtime_ns, about.st_size] for name, about in found])
