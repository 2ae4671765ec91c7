"""Other sounds and series than a run's own, in the form and with the classes of the run."""

import pathlib
from collections.abc import Mapping
from typing import Any

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.folder import class_names
from jaxcnn.data.series import fitted
from jaxcnn.data.series_table import ENDS, series_label
from jaxcnn.runs.match import matched, table
from jaxcnn.runs.single import rate_of
from jaxcnn.runs.source import OnBad, expanded, find, read

KINDS = ("series", "sounds", "texts")  # sources that are measured on data of their own kind only


def kind_at(how: Mapping[str, Any] | None, place: str, data_dir: str | None) -> tuple[str, dict[str, Any]]:
    """Find the function that reads other data, see `source.find`; a run on series takes any table to be series."""
    path = expanded(place)
    if (how or {}).get("name") == "series" and path.suffix.lower() in (".csv", ".txt") and path.is_file():
        return "series", {"path": str(path)}
    return find(place, data_dir)


def check_kind(kind: str, how: Mapping[str, Any], place: str) -> None:
    """Refuse data of another kind than the run's.

    Raises:
        InputError: Only one of both is a source of `KINDS`, or they are two of them.

    """
    ours = how.get("name")
    if kind != ours and (kind in KINDS or ours in KINDS):
        line = f"a run on {ours or 'other data'} is not measured on such data ({kind}); give data of its own kind"
        raise InputError(f"{visible(place)}: {line}")


def sounds(config: Mapping[str, Any], root: pathlib.Path, place: str, on_bad: OnBad | None) -> tuple[Any, str]:
    """Read all sounds in the class folders of `root`, at the rate and the length of the run.

    Returns:
        The rows, and a note about their classes.

    """
    ours, rate = tuple(config["classes"]), rate_of(config)
    theirs = class_names(root)
    numbers, note = (None, "") if set(theirs) == set(ours) else table(theirs, ours, visible(place))
    options = {"path": str(root), "classes": None if numbers is not None or note else ours, "rate": rate}
    options |= {"seconds": config["build"]["inputs"]["audio"]["shape"][0] / rate}
    data = read("sounds", {**options, "validation_fraction": 0.0, "test_fraction": 0.0}, on_bad).train
    return matched(data, ours, numbers), note


def series(config: Mapping[str, Any], how: Mapping[str, Any], place: str, path: str) -> tuple[Any, str, str]:
    """Read the test series of other data, or all if they have no test part.

    Returns:
        The rows, the part, and a note about their classes.

    """
    ours, own, at = tuple(config["classes"]), how["options"], pathlib.Path(path)
    kept = {k: own[k] for k in ("missing", "standardise", "separator") if k in own}
    if at.suffix.lower() != ".ts":
        label = own.get("label", "")
        kept["label"] = label if label in ENDS else series_label(at, "", True)
    splits = read("series", {"path": path, **kept, "validation_fraction": 0.0, "test_fraction": 0.0})
    data, part = (splits.test, "test rows") if splits.test.size else (splits.train, "all series")
    numbers, note = table(data.classes, ours, visible(place))
    steps, channels = config["build"]["inputs"]["series"]["shape"]
    return matched(fitted(data, steps, channels, visible(place)), ours, numbers), part, note
