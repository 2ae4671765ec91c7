"""The report of a run of any task: its metrics, curves and pictures, read from the run's folder."""

import datetime
import io
import math
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.core import files
from jaxcnn.core.files import plain
from jaxcnn.core.text import html as escape
from jaxcnn.core.text import visible
from jaxcnn.core.types import reason
from jaxcnn.report.diagnosis import diagnose_loss
from jaxcnn.report.private import without_seed
from jaxcnn.report.record import NOT_TRAINING, Finished, environment, few, picture
from jaxcnn.runs.schema import PICTURE

KIND = "general"  # in report.json
LARGEST, PIXELS = 2**23, 2**24  # limits in bytes and pixels for a picture from a run's folder


def classifies(config: Mapping[str, Any]) -> bool:
    """Whether a run is of this library's classifier with one label per row, which is measured class by class."""
    task = config["build"] and config["build"]["task"]
    return bool(task) and task["name"] == "classification" and task["options"].get("head") != "multilabel"


def general(name: str, run: Finished, folder: str | pathlib.Path) -> dict[str, Any]:
    """Put the results of a run into one dict of plain values, without computing any of them again.

    Args:
        name: name of the run.
        run: content of its files.
        folder: folder of its pictures.

    Returns:
        A dict for `page`, `card` and `compare`, with `"kind": "general"`.

    """
    config, summary, secret = without_seed(run.config, run.summary)
    shown = config.get("task") or {"headline": ["loss"], "monitor": ["loss", "min"], "figures": []}
    values, intervals = _split(summary["test"])
    keys = ("split", "step", "epoch", "count", "learning_rate", "loss", *shown["headline"])

    def number(value):
        return isinstance(value, int | float) and not isinstance(value, bool)

    curves = [{k: line[k] for k in keys if k in line and (k == "split" or number(line[k]))} for line in few(run.lines)]
    pictures, notes = read_pictures(pathlib.Path(folder), shown["figures"])
    training = {key: value for key, value in summary.items() if key not in NOT_TRAINING}
    build = config["build"] or {}
    return plain({
        "format": 1,
        "kind": KIND,
        "run": name,
        "made": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "experiment": config["experiment"],
        "model": build["model"]["name"] if build else config["experiment"],
        "command": config.get("command", ""),
        "data": config["data"],
        "tested": {"name": config["data"]["name"], "part": "test part", "own": True},
        "classes": config["classes"],
        "settings": config["settings"],
        "build": build,
        "training": training,
        "validation": summary.get("validation", {}),
        "headline": shown["headline"],
        "curves": curves,
        "diagnosis": diagnose_loss(run.lines, summary.get("best_step")),
        "test": {"metrics": values, "intervals": intervals, "notes": [*secret, *notes], "sha256": ""},
        "figures": pictures,
        "environment": {"trained with": config.get("versions", {}), "reported with": environment()},
    })  # fmt: skip


def _split(test: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metrics that are single numbers, and their intervals."""
    whole = {k: v for k, v in test.items() if v is None or isinstance(v, int | float) and not isinstance(v, bool)}
    pairs = {k.removesuffix("_interval"): v for k, v in test.items() if k.endswith("_interval") and isinstance(v, list)}
    known = {k: v for k, v in pairs.items() if len(v) == 2 and all(isinstance(x, int | float) for x in v)}
    if isinstance(count := whole.get("count"), float):
        whole["count"] = int(count) if math.isfinite(count) else None
    return {k: v for k, v in whole.items() if not k.endswith("_interval")}, known


def read_pictures(folder: pathlib.Path, names: Sequence[str]) -> tuple[list[dict[str, str]], list[str]]:
    """Read pictures of a run's folder.

    Args:
        folder: of the run.
        names: of the pictures, without their ending.

    Returns:
        For each picture that exists a dict with its title and its `data:` address, and a note for each one that cannot
        be read.

    """
    from PIL import Image

    found, notes = [], []
    for name in names:
        path = folder / f"{name}.png"
        if not PICTURE.fullmatch(name):  # a name that no run uses might lead out of its folder
            notes.append(f"The picture {visible(name)[:80]} is left out: a run does not use such a name.")
            continue
        if not path.exists():  # the task had nothing to draw
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                image = Image.open(io.BytesIO(files.read_bytes(path, LARGEST)), formats=("PNG",))
                if math.prod(image.size) > PIXELS:
                    raise ValueError(f"{image.size[0]} x {image.size[1]} pixels")
                image = picture(np.asarray(image.convert("RGB")), None)
                found.append({"title": name.replace("_", " "), "image": image})
        except Exception as error:
            notes.append(f"The picture {visible(path.name)} cannot be read ({visible(reason(error))}).")
    return found, notes


def pictures(report: Mapping[str, Any]) -> str:
    """Return the pictures of the task as HTML."""
    if not report["figures"]:
        return "<p>The task draws none.</p>"
    each = ""
    for one in report["figures"]:
        title, image = escape(one["title"]), escape(one["image"])
        each += f'<figure><p class="name">{title}</p><img src="{image}" alt="{title}"></figure>'
    return f'<div class="plots explained">{each}</div>'
