"""Reading other data than a run's own, in the forms of its classes, images, texts and signals, to measure the run."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.folder import class_names
from jaxcnn.data.table import read as read_table
from jaxcnn.data.volumes import class_names as names_of_volumes
from jaxcnn.data.yolo import class_names as names_of_yolo
from jaxcnn.runs import other_rows
from jaxcnn.runs.match import in_columns, matched, table
from jaxcnn.runs.other_rows import check_kind, kind_at
from jaxcnn.runs.source import OnBad, expanded, read

DENSE = {  # source to task
    "masks": "segmentation", "volumes": "segmentation", "coco": "detection", "voc": "detection", "yolo": "detection",
}  # fmt: skip
PARTS = ("test", "valid", "validation", "val", "train")  # folders to measure on; the first that exists is used


class Rows(NamedTuple):
    """Rows to evaluate a run on.

    Attributes:
        data: the rows, with the run's labels and channels.
        name: name of the data.
        own: whether these are the run's own test rows.
        part: the part of the data, such as `"test part"`.
        notes: remarks about the rows, one line each.

    """

    data: Any
    name: str
    own: bool
    part: str
    notes: tuple[str, ...] = ()


def rows(config: Any, how: Mapping[str, Any], place: str, data_dir: str | None, on_bad: OnBad | None) -> Rows:
    """Read rows of other data to evaluate the run on; arguments as for `runs.rows_to_measure`.

    Raises:
        InputError: the data cannot be read, or their kind, classes or images do not match the run.

    """
    kind, options = kind_at(how, place, data_dir)
    task = config["build"]["task"]["name"] if config["build"] else None
    if task and DENSE.get(kind) != (task if task in DENSE.values() else None):
        line = f"a run of {task} is not measured on such data ({kind}); give data of its own kind"
        raise InputError(f"{visible(place)}: {line}")
    if config["build"] is not None:
        check_kind(kind, how, place)
    if kind in ("series", "sounds") and config["build"] is not None and config["classes"]:
        return _signals(kind, config, how, place, str(options["path"]), on_bad)
    if kind == "texts":
        return _texts(config, how, place, options, on_bad)
    if kind == "csv" and config["build"] is not None:
        return _listed(config, how, place, options, on_bad)
    if config["build"] is None or not config["classes"]:
        line = "other data are matched by their classes, and the run has none; give evaluate the data set itself"
        raise InputError(f"{visible(place)}: {line}")
    if "image" not in config["build"]:
        line = "other data than images are measured where they are the run's own; give evaluate the data set itself"
        raise InputError(f"{visible(place)}: {line}")
    *sides, channels = config["build"]["image"]["shape"]
    ours, part = tuple(config["classes"]), "test part"
    if kind in DENSE:
        data, part, numbers, note = _dense(kind, config, how, options, on_bad)
    elif kind == "folder":
        root, part = _root(pathlib.Path(options["path"]))
        _not_the_runs_own(how, place, part)
        theirs, some = class_names(root), how.get("options", {}).get("classes")
        chosen = ours if set(theirs) == set(ours) or some and set(theirs) > set(ours) else None
        numbers, note = (None, "") if chosen else table(theirs, ours, visible(place))
        options = {"path": root, "classes": chosen, "size": tuple(sides), "test_fraction": 0.0}
        data = read(kind, options | {"validation_fraction": 0.0} | _resize(how), on_bad).train
    else:
        more = {"tfds": {"size": tuple(sides)} | _resize(how), "digits": {}}.get(kind, {"validation_fraction": 0.0})
        data = read(kind, options | more, on_bad).test
        numbers, note = table(data.classes, ours, visible(place))
    if data.size < 1:
        raise InputError(f"{visible(place)}: no rows in its {part}; give data with rows to measure")
    return _sized(
        Rows(matched(data, ours, numbers, channels), place, False, part, (note,) if note else ()), config, place
    )


def _dense(
    kind: str, config: Any, how: Mapping[str, Any], options: Mapping[str, Any], on_bad: OnBad | None
) -> tuple[Any, str, np.ndarray | None, str]:
    """Read images with masks or boxes of the run's classes: the test part, or all images if there are no parts."""
    ours, numbers, note = tuple(config["classes"]), None, ""
    stated = {"yolo": names_of_yolo, "volumes": names_of_volumes}.get(kind, lambda _: None)(options["path"])
    if stated is not None:  # labels are numbers of these
        numbers, note = table(stated, ours, visible(options["path"]))
    own = ("percentiles",) if kind == "volumes" else ("values", "resize")
    kept = {k: v for k, v in how.get("options", {}).items() if k in ("ignore_label", *own)}
    more = {
        "classes": ours if stated is None else stated,
        "size": config["build"]["image"]["shape"][:-1],
        "test_fraction": 0.0,
    }
    splits = read(kind, {**options, **kept, **more, "validation_fraction": 0.0}, on_bad)
    if splits.test.size:
        return splits.test, "test part", numbers, note
    _not_the_runs_own(how, str(options["path"]), "all images")
    return splits.train, "all images", numbers, note


def _texts(config: Any, how: Mapping[str, Any], place: str, options: Mapping[str, Any], on_bad: OnBad | None) -> Rows:
    """Read texts with the vocabulary of the run: the test part, or all texts if there are no parts."""
    header = read_table(pathlib.Path(options["path"]), None).header if expanded(place).is_file() else []
    named = {k: v for k, v in how["options"].items() if k in ("column", "label") and v in header}
    kept = {k: v for k, v in how["options"].items() if k in ("unit", "task")} | named
    entry = config["build"]["inputs"]["text"]
    kept |= {"vocabulary": config.get("words", "").split(" "), "length": entry["shape"][0]}
    splits = read("texts", {**options, **kept, "validation_fraction": 0.0, "test_fraction": 0.0}, on_bad)
    part = "test rows" if splits.test.size else "all texts"
    _not_the_runs_own(how, place, part)
    data, ours, note = splits.test if splits.test.size else splits.train, tuple(config["classes"]), ""
    if config["build"]["task"]["name"] == "classification":
        if config["build"]["task"]["options"].get("head") == "multilabel":
            columns = None if data.classes == ours else table(data.classes, ours, visible(place))[0]
            data = in_columns(data, ours, None if columns is None else np.argsort(columns))
        else:
            numbers, note = table(data.classes, ours, visible(place))
            data = matched(data, ours, numbers)
    return Rows(data, place, False, part, (note,) if note else ())


def _signals(kind: str, config: Any, how: Mapping[str, Any], place: str, path: str, on_bad: OnBad | None) -> Rows:
    """Read the test part of other sounds or series, or all of them if there is none."""
    if kind == "series":
        data, part, note = other_rows.series(config, how, place, path)
        _not_the_runs_own(how, place, part)
    else:
        root, part = _root(pathlib.Path(path))
        part = part.replace("all images", "all sounds")
        _not_the_runs_own(how, place, part)
        data, note = other_rows.sounds(config, root, place, on_bad)
    return Rows(data, place, False, part, (note,) if note else ())


def _listed(config: Any, how: Mapping[str, Any], place: str, options: Mapping[str, Any], on_bad: OnBad | None) -> Rows:
    """Read the test rows of a CSV file, or all its rows if it has no test rows."""
    (height, width, channels), task = config["build"]["image"]["shape"], config["build"]["task"]
    several = task["options"].get("head") == "multilabel"
    kind = "regression" if task["name"] == "regression" else "multilabel" if several else "classification"
    more = {"task": kind, "size": (height, width), "validation_fraction": 0.0, "test_fraction": 0.0}
    splits, ours = read("csv", {**options, **_resize(how), **more}, on_bad), tuple(config["classes"])
    part = "test rows" if splits.test.size else "all images"
    data, note = splits.test if splits.test.size else splits.train, ""
    if kind == "classification":
        numbers, note = table(data.classes, ours, visible(place))
        data = matched(data, ours, numbers, channels)
    else:
        columns = None if kind == "regression" or data.classes == ours else table(data.classes, ours, visible(place))[0]
        data = in_columns(data, ours, None if columns is None else np.argsort(columns), channels)
    return _sized(Rows(data, place, False, part, (note,) if note else ()), config, place)


def _resize(how: Mapping[str, Any]) -> dict[str, Any]:
    """Return the run's options about resizing, if it has any."""
    options = how.get("options", {})
    return {name: options[name] for name in ("resize", "crop_ratio") if options.get(name)}


def _sized(rows: Rows, config: Any, place: str) -> Rows:
    """Refuse images whose size differs from the run's."""
    wanted, found = tuple(config["build"]["image"]["shape"]), rows.data.example()["image"].shape[1:]
    if found != wanted:
        was, ours = (" x ".join(map(str, shape)) for shape in (found, wanted))
        raise InputError(f"{visible(place)}: images of {was}, and the run's are {ours}; resize them to that size")
    return rows


def _root(path: pathlib.Path) -> tuple[pathlib.Path, str]:
    """Return the folder whose class folders are measured, and its name in messages; see `PARTS`."""
    inside = {p.name.lower(): p for p in path.iterdir() if p.is_dir()}
    for name in PARTS:
        if name in inside and any(p.is_dir() for p in inside[name].iterdir()):
            return inside[name], f"{visible(inside[name].name)}/ folder"
    return path, "all images"


def _not_the_runs_own(how: Mapping[str, Any], place: str, part: str) -> None:
    """Refuse to measure on all images of the training folder: most of them are training rows."""
    before = how.get("options", {}).get("path")
    whole = part.startswith("all ") or part.lower().startswith("train/")
    if whole and isinstance(before, str) and os.path.realpath(before) == os.path.realpath(expanded(place)):
        raise InputError(
            f"{visible(place)}: the run was trained on images of this folder, which has changed since, so that its "
            "test rows are not known; put the new images into another folder"
        )
