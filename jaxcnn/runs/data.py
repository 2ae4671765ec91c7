"""Reading the data of a run again, or other data with the same classes, to evaluate the run."""

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import Splits
from jaxcnn.data.folder import class_names
from jaxcnn.data.table import read as read_table
from jaxcnn.runs import other_rows
from jaxcnn.runs.match import in_columns, matched, table
from jaxcnn.runs.other_rows import check_kind, kind_at
from jaxcnn.runs.source import ASK, NAME, PLACES, OnBad, described, expanded, read, read_described
from jaxcnn.train.checkpoint import digest

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


def read_data(config: Mapping[str, Any], place: str | None = None) -> Splits:
    """Read the rows that a run was trained and tested on, as its `config.json` describes them.

    Args:
        config: content of the run's `config.json`, from `read_config`.
        place: present location of the data (a path, or the `data_dir` of a TFDS set). It is needed if the data were
            moved, or if the run was made on another machine.

    Returns:
        The three parts. If the run's settings have `per_class`, the training part is the whole set that the rows were
        drawn from.

    Raises:
        InputError: The run does not describe its data, its paths are not trusted, the data are not there, or the test
            part has a different number of rows or different classes.

    """
    splits = _as_used(config, _as_read(config, place))
    _check_own(config, splits)
    return splits


def _check_own(config: Mapping[str, Any], used: Splits) -> None:
    tested = config["data"].get("rows", [0, 0, used.test.size])[2]
    if used.test.size != tested or list(used.test.classes) != list(config["classes"]):
        raise InputError(
            f"{visible(config['data']['name'])}: the test part has {used.test.size} rows, but the run was tested on "
            f"{tested}; the data changed, or are in another place now: {ASK}"
        )


def _as_read(
    config: Mapping[str, Any], place: str | None, on_bad: OnBad | None = None, elsewhere: bool = False
) -> Splits:
    """Read the data as the run did; with `elsewhere`, TFDS looks for a TFDS set in its default folder."""
    how, settings = described(config), config.get("settings") or {}
    if how is None:
        older = "" if "source" in config else " (an older version wrote it)"
        fix = "give evaluate the data set itself" if config["build"] is None else ASK
        raise InputError(f"its config.json does not say how the data were read{older}; {fix}")
    if elsewhere:
        how["options"] = {key: value for key, value in how["options"].items() if key not in PLACES}
    if on_bad is None and settings.get("on_bad_example") == "skip":
        on_bad = _leave_out
    return read_described(how, place, on_bad)


def _as_used(config: Mapping[str, Any], splits: Splits) -> Splits:
    """Return the rows that the run used: a sample if its settings have `limit_examples`."""
    limit = (config.get("settings") or {}).get("limit_examples")
    return Splits(*(limited(part, limit) for part in splits)) if limit else splits


def _leave_out(line: str, examples: int) -> None:
    """Ignore an unreadable example, as the run did."""
    del line, examples


def limited(data: Any, rows: int) -> Any:
    """Return a random sample of the rows, the same on every call.

    Args:
        data: a data set.
        rows: size of the sample.

    """
    return data.take(np.random.default_rng(0).permutation(data.size)[:rows])


def rows_to_measure(
    config: Mapping[str, Any],
    place: str | None = None,
    *,
    data_dir: str | None = None,
    whole: bool = False,
    on_bad: OnBad | None = None,
) -> Rows:
    """Read the rows to evaluate a run on: its own test rows, or those of other data with the same classes.

    The classes of other data are matched by name, and the channels converted. Images from a folder or from TFDS are
    also resized to the run's image size. If the data have a test part, only that part is used; otherwise all rows are.

    Args:
        config: content of the run's `config.json`, from `read_config`.
        place: other data, in any form that `find` accepts, or the present location of the run's own data; None for the
            run's own data at their original location.
        data_dir: folder with prepared TFDS sets.
        whole: use the whole test part, even if the run used only a sample of it (`limit_examples`).
        on_bad: called with a message and a count for each unreadable item, which is then left out; None to raise.

    Raises:
        InputError: The data cannot be read, or their classes or images do not match the run.

    """
    how = described(config)
    kind = (how or {}).get("name") if place is None else kind_at(how, place, None)[0]
    if data_dir is not None and kind != "tfds":
        raise InputError(
            f"data_dir={visible(data_dir)} (--data-dir): only TFDS sets are looked for there; "
            "name other data with --dataset"
        )
    own = _own_at(config, how, place, data_dir, whole, on_bad) if place is None or how is not None else None
    if own is not None:
        return own
    return _other(config, how or {}, cast(str, place), data_dir, on_bad)  # if place is None, `own` is not


def _own_at(
    config: Any, how: Any, place: str | None, data_dir: str | None, whole: bool, on_bad: OnBad | None
) -> Rows | None:
    """Read the run's own test rows from their original location or from `place`; None if `place` holds other data."""
    name, prepared = config["data"]["name"], None if place is None else _prepared(how, place)
    if place is None or prepared:
        splits = _as_read(config, prepared or data_dir, on_bad)
        used = _as_used(config, splits)
        _check_own(config, used)
        line = "The training rows are not those of the run: the data, or the way in which they are read, changed."
        return Rows((splits if whole else used).test, name, True, "test part", () if _same(config, used) else (line,))
    kind, options = kind_at(how, place, data_dir)
    if kind != how["name"] or kind == "tfds" and options["name"] != how["options"].get("name"):
        return None
    if (
        kind == "folder"
        and not config["settings"].get("limit_examples")
        and _files(expanded(place)) < sum(config["data"].get("rows", [0]))
    ):
        return None  # too few to be the run's own; `_other` reads them
    try:
        splits = _as_read(config, data_dir if kind == "tfds" else options.get("path"), on_bad, elsewhere=kind == "tfds")
    except InputError:
        return None  # `_other` reads the data again and reports the error
    used = _as_used(config, splits)
    shown = name if kind in ("tfds", "digits") else place
    return Rows((splits if whole else used).test, shown, True, "test part") if _same(config, used) else None


def _prepared(how: Mapping[str, Any] | None, place: str) -> str | None:
    """Return `place` if it is a folder in which TFDS has prepared the run's set."""
    name = how["options"].get("name") if how and how["name"] == "tfds" else None
    path = expanded(place)
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        return None
    return str(path) if (path / re.split("[/:]", name)[0]).is_dir() else None


def _files(path: pathlib.Path) -> int:
    return sum(len(files) for _, _, files in os.walk(path, followlinks=True))


def _same(config: Mapping[str, Any], splits: Splits) -> bool:
    """Whether these are the run's rows, judged by the number of rows and the digest of the training rows."""
    known = config["data"]
    if list(splits.test.classes) != list(config["classes"]) or "rows" not in known:
        return False
    if config["settings"].get("per_class"):  # nothing records which set the rows were drawn from
        return splits.test.size == known["rows"][2]
    hashed = known.get("sha256") is not None and hasattr(splits.train, "arrays")
    return [part.size for part in splits] == known["rows"] and (
        not hashed or digest(splits.train.arrays) == known["sha256"]
    )


def _other(config: Any, how: Mapping[str, Any], place: str, data_dir: str | None, on_bad: OnBad | None) -> Rows:
    """Read rows of other data to evaluate the run on."""
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
        data, part, numbers, note = *_dense(kind, config, how, options, on_bad), None, ""
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
) -> tuple[Any, str]:
    """Read images with masks or boxes of the run's classes: the test part, or all images if there are no parts."""
    own = ("percentiles",) if kind == "volumes" else ("values", "resize")
    kept = {k: v for k, v in how.get("options", {}).items() if k in ("ignore_label", *own)}
    more = {"classes": config["classes"], "size": config["build"]["image"]["shape"][:-1], "test_fraction": 0.0}
    splits = read(kind, {**options, **kept, **more, "validation_fraction": 0.0}, on_bad)
    if splits.test.size:
        return splits.test, "test part"
    _not_the_runs_own(how, str(options["path"]), "all images")
    return splits.train, "all images"


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
