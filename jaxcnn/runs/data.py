"""Reading the data of a run again, or other data with the same classes, to evaluate the run."""

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, check_whole
from jaxcnn.data import Splits
from jaxcnn.runs import other_data
from jaxcnn.runs.other_data import Rows
from jaxcnn.runs.other_rows import kind_at
from jaxcnn.runs.source import ASK, NAME, PLACES, OnBad, described, expanded, read_described
from jaxcnn.train.checkpoint import digest


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
    more: dict[str, Any] = {}
    if how["name"] == "texts" and config["build"] is not None:  # the run's words, whatever its texts are now
        more = {"length": config["build"]["inputs"]["text"]["shape"][0]}
        more |= {"vocabulary": config["words"].split(" ")} if config.get("words") else {}
    if on_bad is None and settings.get("on_bad_example") == "skip":
        on_bad = _leave_out
    return read_described(how, place, on_bad, more)


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
        rows: size of the sample, at least 1.

    Raises:
        InputError: `rows` is less than 1.

    """
    check_whole("rows", rows)
    if rows < 1:
        raise InputError(f"rows={rows}: must be at least 1")
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
            "name other data with place= (--data, or --dataset with --evaluate)"
        )
    own = _own_at(config, how, place, data_dir, whole, on_bad) if place is None or how is not None else None
    if own is not None:
        return own
    return other_data.rows(config, how or {}, cast(str, place), data_dir, on_bad)  # if place is None, `own` is not


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
        return None  # too few to be the run's own; `other_data` reads them
    try:
        splits = _as_read(config, data_dir if kind == "tfds" else options.get("path"), on_bad, elsewhere=kind == "tfds")
    except InputError:
        return None  # `other_data` reads the data again and reports the error
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
