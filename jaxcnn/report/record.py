"""Reading a run's folder, and the one dict that page, card and comparison are made from."""

import base64
import datetime
import io
import math
import os
import pathlib
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcnn.core import files
from jaxcnn.core.files import plain
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.report.diagnosis import diagnose
from jaxcnn.runs import Rows, TrainedRun, check_lines, check_summary, read_config
from jaxcnn.train.checkpoint import digest
from jaxcnn.train.evaluation import collect
from jaxcnn.version import __version__

CURVE = ("split", "step", "epoch", "loss", "accuracy", "count", "learning_rate")
SIDE, LINES = 96, 400  # pixels of a picture at most; lines of curves kept
NEEDED = ("parameters", "steps", "epochs", "seed", "train_seconds")  # of summary.json
NOTES = 20  # kept at most: a set of many classes has one for each
FORMAT = 1
AGAIN = "get it again from a copy, or train again"


class Finished(NamedTuple):
    """What a finished run left: `config.json`, `summary.json`, and the lines of `metrics.jsonl`."""

    config: dict[str, Any]
    summary: dict[str, Any]
    lines: list[dict[str, Any]]


class Tested(NamedTuple):
    """A test set and what a model said to it: logits `[N, K]`, labels `[N]`, columns of groups `[N]`, a digest of rows and labels."""

    logits: np.ndarray
    label: np.ndarray
    columns: dict[str, np.ndarray]
    sha256: str


def read_finished(folder: str | pathlib.Path) -> Finished:
    """Read what a run left.

    Raises:
        InputError: no run, one that is not finished, or files that are damaged.

    """
    folder = pathlib.Path(folder)
    config, name = read_config(folder), visible(folder)
    try:
        summary = files.read_json(folder / "summary.json")
    except FileNotFoundError as error:
        command = config.get("command", "")
        started = re.match(r"python -m [\w.]+(?= |$)", command, re.ASCII)
        again = "the same train_run" if started is None else f"{started[0]} --resume --workdir {shlex.quote(name)}"
        again = f"jaxcnn train --resume {shlex.quote(name)}" if command.startswith("jaxcnn train ") else again
        raise InputError(f"{name}: the run is not finished (no summary.json); finish it with {again}") from error
    except (OSError, InputError) as error:
        raise InputError(f"{name}/summary.json: damaged ({_why(error, folder)}); {AGAIN}") from error
    if not isinstance(summary, dict) or not isinstance(summary.get("test"), dict):
        raise InputError(f"{name}/summary.json: has no test result; a study's folder holds the runs to report on")
    missing = [key for key in NEEDED if key not in summary]
    if missing:
        raise InputError(f"{name}/summary.json: damaged, it has no {missing[0]!r}; {AGAIN}")
    try:
        check_summary(summary, "summary.json")
    except InputError as error:
        raise InputError(f"{name}: damaged ({error}); {AGAIN}") from error
    return Finished(config, summary, _lines(folder))


def _why(error: Exception, folder: pathlib.Path) -> str:
    """Return the reason without the file's name, which the message has already."""
    text = visible(reason(error, 400))
    return text.removeprefix(f"{visible(folder)}/").split(": ", 1)[-1]


def _lines(folder: pathlib.Path) -> list[dict[str, Any]]:
    path, found = folder / "metrics.jsonl", []
    try:
        for line in files.read_text(path).splitlines():
            found.append(files.parse_json(line, "it"))
    except FileNotFoundError as error:
        raise InputError(
            f"{visible(folder)}: no metrics.jsonl in it; without it there are no curves to report"
        ) from error
    except (OSError, InputError) as error:
        where = f"line {len(found) + 1} is damaged" if str(error).startswith("it: ") else "damaged"
        raise InputError(
            f"{visible(path)}: {where} ({_why(error, folder)}); remove the line, or train again"
        ) from error
    try:
        return check_lines(found, "metrics.jsonl")
    except InputError as error:
        raise InputError(f"{visible(folder)}: damaged ({error}); remove the line, or train again") from error


def predict(loaded: TrainedRun, test: Any, *, batch_size: int = 256) -> Tested:
    """Compute the outputs of a run for its whole test set; other columns of one value a row come with it, to group by."""
    names = columns(test)
    logits, kept = collect(loaded.task.predict, loaded.variables, test, keep=("label", *names), batch_size=batch_size)
    rows = {"label": kept["label"]} | ({"image": np.asarray(test.arrays["image"])} if hasattr(test, "arrays") else {})
    return Tested(logits, kept["label"], {name: kept[name] for name in names}, digest(rows))


def columns(test: Any) -> list[str]:
    """Names of the arrays of a data set that have one value a row and are not its labels."""
    return [name for name, x in test.example().items() if name not in ("label", "row_mask") and np.ndim(x) == 1]


def images(test: Any, rows: Sequence[int]) -> dict[int, np.ndarray]:
    """Return some images by their number among the rows that are real: `[H, W, C]` each, read on until the last of them."""
    wanted, seen, found = set(rows), 0, {}
    for chunk in test.once(256) if wanted else ():
        for k in range(int(chunk.count)):
            batch = chunk.at(k)
            true = np.flatnonzero(np.asarray(batch["row_mask"]) > 0)
            here = [i for i in wanted if seen <= i < seen + len(true)]
            found |= {i: np.asarray(batch["image"][true[i - seen]]) for i in here}
            seen += len(true)
        if len(found) == len(wanted):
            break
    return found


def picture(image: np.ndarray, side: int | None = SIDE) -> str:
    """Turn an image `[H, W]` or `[H, W, 1 or 3]`, uint8 or float 0..1, into a `data:` address of a PNG, `side` pixels at most."""
    from PIL import Image

    image = np.asarray(image)
    if image.dtype != np.uint8:
        image = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    if image.ndim == 3 and image.shape[-1] not in (3, 4):
        image = image[..., 0]
    made = Image.fromarray(image)
    if side and max(made.size) > side:
        made.thumbnail((side, side))
    out = io.BytesIO()
    made.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def make(
    name: str,
    run: Finished,
    measured: Mapping[str, Any],
    *,
    sha256: str = "",
    shown: Mapping[int, np.ndarray] | None = None,
    explanations: Mapping[str, np.ndarray] | None = None,
    rows: Rows | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Put everything that is known of a run into one dict of plain values.

    Args:
        name: of the run.
        run: what it left.
        measured: its test set, as `measure` gives it.
        sha256: digest of the test rows, by which runs on the same rows know each other.
        shown: images of test rows by number, those in `"chosen"`; None for no images.
        explanations: pictures `[H, W, C]` uint8 by title, as methods of explanation made them.
        rows: what was measured; None for the run's own test rows.
        names: of the test rows, such as their files; None where they have none.

    """
    config, summary = run.config, run.summary
    test = {key: value for key, value in measured.items() if key != "chosen"}
    found, count = test["metrics"]["accuracy"], test["metrics"]["count"]
    tested = {"name": config["data"]["name"], "part": "test part", "own": True} if rows is None else {
        "name": rows.name, "part": rows.part, "own": rows.own}  # fmt: skip
    test["notes"] = _notes(summary, tested, found, count, [*(rows.notes if rows else ()), *measured["notes"]])
    pixels = {row: {"image": picture(image)} for row, image in (shown or {}).items()}
    if names is not None:
        pixels = {row: one | {"file": visible(names[row])} for row, one in pixels.items()}
    chosen = {
        kind: [entry | pixels.get(entry["row"], {}) for entry in entries]
        for kind, entries in measured["chosen"].items()
    }
    chance = max(row["count"] for row in test["per_class"]) / test["metrics"]["count"]
    diagnosis = diagnose(run.lines, chance, summary.get("best_step"), (found, test["metrics"]["count"]))
    curves = [{key: line[key] for key in CURVE if key in line} for line in few(run.lines)]
    training = {
        key: value for key, value in summary.items() if key not in ("test", "validation", "checkpoint", "first_step_at")
    }
    return plain({
        "format": FORMAT, "run": name, "made": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "experiment": config["experiment"], "model": config["build"]["model"]["name"], "command": config.get("command", ""),
        "data": config["data"], "tested": tested, "classes": config["classes"], "settings": config["settings"], "build": config["build"],
        "training": training, "validation": summary.get("validation", {}),
        "curves": curves, "diagnosis": diagnosis,
        "test": test | {"most_frequent_class": chance, "sha256": sha256},
        "examples": chosen, "explanations": [{"title": t, "image": picture(x, None)} for t, x in (explanations or {}).items()],
        "environment": {"trained with": config.get("versions", {}), "reported with": environment()},
    })  # fmt: skip


def _notes(
    summary: Mapping[str, Any], tested: Mapping[str, Any], found: float, count: int, more: Sequence[str]
) -> list[str]:
    """Say what was measured where that is not the run's own test part, or not with its result; then the other notes, not endlessly."""
    said = summary["test"].get("accuracy")
    said = math.nan if said is None else said
    known = math.isfinite(said)
    if not tested["own"]:
        own = f"; on its own test part the run measured an accuracy of {said:.4f}" if known else ""
        first = [
            f"The figures are of other data than the run's own: {count:,d} rows of {visible(tested['name'])} ({tested['part']}){own}."
        ]
    elif not known:
        first = [f"The run itself recorded no accuracy of its test rows; now it is {found:.6f}."]
    elif abs(said - found) > 0.5 / count:
        first = [
            f"The run itself measured an accuracy of {said}, and now it is {found:.6f}: the data or the weights changed."
        ]
    else:
        first = []
    left = len(more) - NOTES
    return [*first, *more[:NOTES], *([f"There are {left:,d} more notes of this kind."] if left > 0 else [])]


def environment() -> dict[str, Any]:
    """Versions and kind of machine; nothing that names it."""
    device = jax.devices()[0]
    return {
        "jaxcnn": __version__, "jax": jax.__version__, "numpy": np.__version__, "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count(),
        "devices": f"{jax.device_count()} x {device.platform} ({device.device_kind})",
    }  # fmt: skip


def few(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep at most some hundred lines of each split, the last always among them."""
    out = []
    for split in ("train", "validation", "test"):
        mine = [line for line in lines if line["split"] == split]
        out += (
            [mine[i] for i in np.unique(np.linspace(0, len(mine) - 1, min(len(mine), LINES)).astype(int))]
            if mine
            else []
        )
    return out
