"""How a classifier treats groups of rows: accuracy per group, the worst group, demographic parity, equalised odds."""

import csv
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcnn.core import files
from jaxcnn.core.schema import fitted
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.metrics import wilson_interval

MOST = 50  # most groups; a column with more values does not define groups
SHUFFLES = 999


def by_group(
    predicted: np.ndarray, label: np.ndarray, group: np.ndarray, classes: Sequence[str], name: str
) -> dict[str, Any]:
    """Compare groups of rows.

    Args:
        predicted: int `[N]`, the predicted class.
        label: int `[N]`.
        group: `[N]`, equal within a group.
        classes: names in order of label; of two, the second is the positive one.
        name: name of the column.

    Returns:
        - `"groups"`: name, rows, accuracy and its interval per group; `"worst"`: name of the least accurate group.
        - `"gap"`: difference between the best and the worst accuracy; `"gap_p"`: how often the gap is at least as large
          when the column is shuffled, 999 times (a permutation test, Fisher, 1935).
        - `"demographic_parity"` (Dwork et al., 2012, arXiv:1104.3913): largest difference between groups in how often a
          class is predicted; `"equalised_odds"` (Hardt et al., 2016, arXiv:1610.02413): largest difference in true or
          false positive rate. With more than two classes, each class is compared with the rest, and the class with the
          largest difference is given. Rates without rows are left out; None if fewer than two groups have a rate.

    Raises:
        InputError: the wrong number of rows, only one group, or more than 50.

    """
    group = np.asarray(group)
    if group.shape != label.shape:
        raise InputError(
            f"group column {name!r}: has {len(group)} values for {len(label)} test rows; give one per row, in order"
        )
    names, place = np.unique(group.astype(str), return_inverse=True)
    if not 2 <= len(names) <= MOST:
        raise InputError(f"group column {name!r}: has {len(names)} different values; needs 2 to {MOST} groups")
    rows = [_group(str(names[k]), predicted[place == k], label[place == k]) for k in range(len(names))]
    worst, best = min(rows, key=lambda r: r["accuracy"]), max(rows, key=lambda r: r["accuracy"])
    kinds = [1] if len(classes) == 2 else range(len(classes))
    parity, odds = [], []
    for k in kinds:
        chosen, true = predicted == k, label == k
        parity.append(_spread(chosen, place, len(names), np.ones_like(true)))
        odds.append(max(_spread(chosen, place, len(names), true), _spread(chosen, place, len(names), ~true)))
    found = {"demographic_parity": parity, "equalised_odds": odds}
    largest = {key: _largest(values, [classes[k] for k in kinds]) for key, values in found.items()}
    gap = best["accuracy"] - worst["accuracy"]
    compared = {"worst": worst["group"], "gap": gap, "gap_p": _by_chance(predicted == label, place, gap)}
    return {"column": name, "groups": rows, **compared, **largest}


def _group(name: str, predicted: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    accuracy = float((predicted == label).mean())
    found = list(wilson_interval(accuracy, len(label)))
    return {"group": name, "count": len(label), "accuracy": accuracy, "accuracy_interval": found}


def _by_chance(correct: np.ndarray, place: np.ndarray, gap: float) -> float:
    """Share of the columns, shuffled ones and the original, with a gap at least as large."""
    rng, count = np.random.default_rng(0), np.bincount(place)
    shuffled = (np.bincount(place, rng.permutation(correct)) / count for _ in range(SHUFFLES))
    return (1 + sum(float(np.ptp(accuracy)) >= gap - 1e-12 for accuracy in shuffled)) / (1 + SHUFFLES)


def _spread(chosen: np.ndarray, place: np.ndarray, groups: int, among: np.ndarray) -> float:
    """Difference between the largest and smallest rate of the groups, over rows in `among`; -1 with fewer than two."""
    count = np.bincount(place[among], minlength=groups)
    hits = np.bincount(place[among & chosen], minlength=groups)
    rates = hits[count > 0] / count[count > 0]
    return float(rates.max() - rates.min()) if len(rates) > 1 else -1.0


def _largest(values: list[float], names: list[str]) -> dict[str, Any]:
    k = int(np.argmax(values))
    return {"difference": values[k] if values[k] >= 0 else None, "class": names[k]}


def read_groups(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Read columns with one value per test row: a JSON object of lists, or a CSV file whose first line has the names.

    Raises:
        InputError: the file is neither of these.

    """
    path = pathlib.Path(path)
    try:
        text = files.read_text(path)
        if path.suffix.lower() == ".json":
            kind = dict[str, list[str | bool | int | float | None]]
            found = fitted(kind, files.parse_json(text, path.name), "columns")
            columns = {name: np.array([str(x) for x in values]) for name, values in found.items()}
        else:
            head, *lines = [line for line in csv.reader(text.splitlines()) if line]
            if any(len(line) != len(head) for line in lines):
                raise ValueError("lines of different lengths")
            if twice := {name.strip() for name in head if [x.strip() for x in head].count(name.strip()) > 1}:
                raise ValueError(f"two columns are named {twice.pop()}")
            columns = {name.strip(): np.array([line[k].strip() for line in lines]) for k, name in enumerate(head)}
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"{visible(path)}: no readable column of groups ({reason(error)}); must be CSV with a line of names, or "
            "JSON lists"
        ) from error
    return columns
