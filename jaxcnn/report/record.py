"""Read the folder of a run, and make the report: the dict behind page, card and comparison."""

import base64
import datetime
import hashlib
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
from jaxcnn.core.types import Batch, InputError, reason, row_mask
from jaxcnn.data.checking import Checked
from jaxcnn.report.diagnosis import diagnose
from jaxcnn.report.private import without_seed
from jaxcnn.runs import Rows, TrainedRun, check_lines, check_summary, read_config
from jaxcnn.train.checkpoint import digest
from jaxcnn.train.evaluation import collect
from jaxcnn.version import __version__

INPUTS = {"image", "text", "audio", "series"}  # entries of a row that a network gets
CURVE = ("split", "step", "epoch", "loss", "accuracy", "count", "learning_rate")
# keys of summary.json with a place elsewhere
NOT_TRAINING = ("test", "validation", "checkpoint", "first_step_at", "study")
SIDE, LINES = 96, 400  # largest side of a picture in pixels; most lines of curves kept per split
NEEDED = ("parameters", "steps", "epochs", "seed", "train_seconds")  # of summary.json
NOTES = 20  # most notes kept: data with many classes may have one per class
FORMAT = 1
AGAIN = "restore it from a copy, or train again"


class Finished(NamedTuple):
    """Files of a finished run: `config.json`, `summary.json`, and the lines of `metrics.jsonl`."""

    config: dict[str, Any]
    summary: dict[str, Any]
    lines: list[dict[str, Any]]


class Tested(NamedTuple):
    """A test set with outputs: logits `[N, K]`, labels `[N]`, columns of groups `[N]`, a digest of rows and labels."""

    logits: np.ndarray
    label: np.ndarray
    columns: dict[str, np.ndarray]
    sha256: str


def read_finished(folder: str | pathlib.Path) -> Finished:
    """Read the files of a finished run.

    Raises:
        InputError: not a run, a run that is not finished, or damaged files.

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
    """Return the reason of an error without the file name, which the message already has."""
    text = visible(reason(error, 400))
    return text.removeprefix(f"{visible(folder)}/").split(": ", 1)[-1]


def _lines(folder: pathlib.Path) -> list[dict[str, Any]]:
    path, found = folder / "metrics.jsonl", []
    try:
        for line in files.read_text(path).splitlines():
            found.append(files.parse_json(line, "it"))
    except FileNotFoundError as error:
        raise InputError(f"{visible(folder)}: has no metrics.jsonl, which a report needs for its curves") from error
    except (OSError, InputError) as error:
        where = f"line {len(found) + 1} is damaged" if str(error).startswith("it: ") else "damaged"
        why = _why(error, folder)
        raise InputError(f"{visible(path)}: {where} ({why}); remove the line, or train again") from error
    try:
        return check_lines(found, "metrics.jsonl")
    except InputError as error:
        raise InputError(f"{visible(folder)}: damaged ({error}); remove the line, or train again") from error


def predict(loaded: TrainedRun, test: Any, *, batch_size: int = 256) -> Tested:
    """Compute the outputs of a run for its whole test set.

    Args:
        loaded: the run.
        test: the test set; other columns with one value per row are kept, to group by.
        batch_size: rows per batch; does not change the result.

    """
    names, hashes = columns(test), {name: hashlib.sha256() for name in INPUTS & test.example().keys()}

    def hashed(rows: Batch) -> None:  # one hash for each entry, so that the size of batches does not matter
        true = np.asarray(row_mask(rows)) > 0
        for name, found in hashes.items():
            found.update(np.ascontiguousarray(np.asarray(rows[name])[true]).data)

    held = {k: x for k, x in getattr(test, "arrays", {}).items() if k in INPUTS}
    test = test if held else Checked(test, hashed)
    logits, kept = collect(loaded.task.predict, loaded.variables, test, keep=("label", *names), batch_size=batch_size)
    rows = {"label": kept["label"]} | {k: np.asarray(x) for k, x in held.items()}
    rows |= {name: np.frombuffer(found.digest(), np.uint8) for name, found in hashes.items() if name not in held}
    known = digest(rows) if len(rows) > 1 else ""
    return Tested(logits, kept["label"], {name: kept[name] for name in names}, known)


def columns(test: Any) -> list[str]:
    """Return the names of the arrays of a data set that have one value per row, without its labels and lengths."""
    own = ("label", "length", "row_mask")
    return [name for name, x in test.example().items() if name not in own and np.ndim(x) == 1]


def images(test: Any, rows: Sequence[int]) -> dict[int, np.ndarray]:
    """Return a dict from row number to image `[H, W, C]`, empty if rows have none; reading stops at the last one."""
    if "image" not in test.example():
        return {}
    return {i: row["image"] for i, row in entries(test, rows, ("image",)).items()}


def entries(test: Any, rows: Sequence[int], names: Sequence[str]) -> dict[int, dict[str, np.ndarray]]:
    """Return a dict from row number to arrays of the row by name; reading stops at the last row."""
    wanted, seen, found = set(rows), 0, {}
    for chunk in test.once(256) if wanted else ():
        for k in range(int(chunk.count)):
            batch = chunk.at(k)
            true = np.flatnonzero(np.asarray(batch["row_mask"]) > 0)
            here = [i for i in wanted if seen <= i < seen + len(true)]
            found |= {i: {name: np.asarray(batch[name][true[i - seen]]) for name in names} for i in here}
            seen += len(true)
        if len(found) == len(wanted):
            break
    return found


def picture(image: np.ndarray, side: int | None = SIDE) -> str:
    """Turn an image into a `data:` address of a PNG.

    Args:
        image: `[H, W]` or `[H, W, 1 or 3]`, uint8 or float 0..1.
        side: largest side in pixels; None keeps the size.

    """
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
    shown: Mapping[int, np.ndarray | Mapping[str, str]] | None = None,
    explanations: Mapping[str, Any] | None = None,
    rows: Rows | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Put everything that is known of a run into one dict of plain values.

    Args:
        name: name of the run.
        run: content of its files.
        measured: result of `measure` on the test set.
        sha256: digest of the test rows, which identifies runs measured on the same rows.
        shown: dict from row number to image, for the rows in `"chosen"`, or to addresses of elements of a page, such as
            those of `heard.heard`; None for neither.
        explanations: dict from title to picture `[H, W, C]` uint8, or to words with their weights.
        rows: the rows that were measured; None for the run's own test rows.
        names: names of the test rows, such as their files; None if they have none.

    """
    config, summary, secret = without_seed(run.config, run.summary)
    test = {key: value for key, value in measured.items() if key != "chosen"}
    found, count = test["metrics"]["accuracy"], test["metrics"]["count"]
    tested = {"name": config["data"]["name"], "part": "test part", "own": True}
    if rows is not None:
        tested = {"name": rows.name, "part": rows.part, "own": rows.own}
    test["notes"] = _notes(summary, tested, found, count, [*secret, *(rows.notes if rows else ()), *measured["notes"]])
    every = [entry["row"] for some in measured["chosen"].values() for entry in some]
    shown_as = {row: x if isinstance(x, Mapping) else {"image": picture(x)} for row, x in (shown or {}).items()}
    pixels: dict[int, Mapping[str, str]] = {row: shown_as.get(row, {}) for row in every}
    if names is not None:
        pixels = {row: {**one, "file": visible(names[row])} for row, one in pixels.items()}
    chosen = {
        kind: [{**entry, **pixels.get(entry["row"], {})} for entry in some] for kind, some in measured["chosen"].items()
    }
    chance = max(row["count"] for row in test["per_class"]) / test["metrics"]["count"]
    own = chance if rows is None or rows.own else None  # the classes of other data say nothing about the training
    diagnosis = diagnose(run.lines, own, summary.get("best_step"), (found, test["metrics"]["count"]))
    curves = [{key: line[key] for key in CURVE if key in line} for line in few(run.lines)]
    return plain({
        "format": FORMAT,
        "run": name,
        "made": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "experiment": config["experiment"],
        "model": config["build"]["model"]["name"],
        "command": config.get("command", ""),
        "data": config["data"],
        "tested": tested,
        "classes": config["classes"],
        "settings": config["settings"],
        "build": config["build"],
        "training": {key: value for key, value in summary.items() if key not in NOT_TRAINING},
        "validation": summary.get("validation", {}),
        "curves": curves,
        "diagnosis": diagnosis,
        "test": test | {"most_frequent_class": chance, "sha256": sha256},
        "examples": chosen,
        "explanations": [
            {"title": t} | ({"words": x} if isinstance(x, list) else {"image": picture(x, None)})
            for t, x in (explanations or {}).items()
        ],
        "environment": {"trained with": config.get("versions", {}), "reported with": environment()},
    })  # fmt: skip


def _notes(
    summary: Mapping[str, Any], tested: Mapping[str, Any], found: float, count: int, more: Sequence[str]
) -> list[str]:
    """Note other test data, or an accuracy that differs from the run's own; then the other notes, up to a limit."""
    before = summary["test"].get("accuracy")
    before = math.nan if before is None else before
    known = math.isfinite(before)
    first = []
    if not tested["own"]:
        own = f"; on its own test part the run measured an accuracy of {before:.4f}" if known else ""
        where = f"{count:,d} rows of {visible(tested['name'])} ({tested['part']})"
        first = [f"The figures are of data other than the run's own: {where}{own}."]
    elif not known:
        first = [f"The run itself recorded no accuracy of its test rows; now it is {found:.6f}."]
    elif abs(before - found) > 0.5 / count:
        change = f"The run itself measured an accuracy of {before}, and now it is {found:.6f}"
        first = [f"{change}: the data or the weights changed."]
    left = len(more) - NOTES
    return [*first, *more[:NOTES], *([f"There are {left:,d} more notes of this kind."] if left > 0 else [])]


def environment() -> dict[str, Any]:
    """Return versions and the kind of machine, but nothing that identifies it."""
    device = jax.devices()[0]
    return {
        "jaxcnn": __version__, "jax": jax.__version__, "numpy": np.__version__, "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count(),
        "devices": f"{jax.device_count()} x {device.platform} ({device.device_kind})",
    }  # fmt: skip


def few(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep at most `LINES` lines per split, always with the last one."""
    out = []
    for split in ("train", "validation", "test"):
        mine = [line for line in lines if line["split"] == split]
        if mine:
            kept = np.unique(np.linspace(0, len(mine) - 1, min(len(mine), LINES)).astype(int))
            out += [mine[i] for i in kept]
    return out
