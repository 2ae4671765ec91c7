"""How the settings of a run were found: the study that `jaxcnn tune` left in its folder, its budget and its trials."""

import pathlib
from collections.abc import Mapping
from typing import Any

from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from jaxcnn.core import files
from jaxcnn.core.schema import fitted
from jaxcnn.core.text import html as escape
from jaxcnn.core.text import markdown, visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.report.general import read_pictures
from jaxcnn.report.markup import table
from jaxcnn.runs.options import Number
from jaxcnn.runs.schema import check_values

NUMBERS, PICTURE = "study.json", "study"
LARGEST = 2**23  # bytes of study.json
LISTED = 100  # most trials in the table
OWN = ("number", "state", "value", "steps", "error")  # keys of a row that are no settings


class _Study(TypedDict):
    """What a run's `study.json` holds."""

    name: str
    trials: dict[str, int]
    updates: int
    seconds: Number
    budget: str
    metric: list[str]
    best: int
    value: Number
    importance: dict[str, Number]
    test_reads: int
    rows: list[dict[str, Any]]


def study(folder: str | pathlib.Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Read the study that a run's settings come from.

    Args:
        folder: of the run.

    Returns:
        The study as a dict of plain values, its pictures among them, or None if there is none; and a note for each
        file that cannot be read.

    """
    place = pathlib.Path(folder)
    if not (place / NUMBERS).exists():
        return None, []
    try:
        found = files.read_json(place / NUMBERS, LARGEST)
        check_values(found, NUMBERS)
        found = fitted(_Study, found, NUMBERS)
        if len(found["metric"]) != 2 or not all({"number", "state"} <= row.keys() for row in found["rows"]):
            raise InputError(f"{NUMBERS}: metric, rows: must be a name and a mode, and trials with number and state")
    except (OSError, InputError) as error:
        return None, [f"{NUMBERS} is left out: {visible(reason(error)).removeprefix(f'{NUMBERS}: ')}."]
    pictures, notes = read_pictures(place, [PICTURE])
    return {**found, "pictures": pictures}, notes


def _lines(found: Mapping[str, Any]) -> list[str]:
    """Return what a reader should know first, as plain sentences."""
    count = ", ".join(f"{n:,d} {visible(state)}" for state, n in found["trials"].items())
    reads = found["test_reads"]
    often = "once, after the search" if reads == 1 else f"{reads} times, between trials too: the test is not unseen"
    return [
        f"Study {visible(found['name'])}: {sum(found['trials'].values()):,d} trials ({count}), {found['updates']:,d} "
        f"updates, {found['seconds']:,.0f} s.",
        f"Budget: {visible(found['budget'])}.",
        f"Best: trial {found['best']}, with a validation {visible(found['metric'][0])} of {found['value']:.4g}; the "
        "best of many is better on the validation rows than on others.",
        f"The test rows were read {often}.",
    ]


def study_as_html(report: Mapping[str, Any]) -> str:
    """Return the study as HTML: its budget, its pictures, and tables of importance and of trials."""
    found = report["study"]
    out = "".join(f"<p>{escape(line)}</p>" for line in _lines(found))
    for one in found["pictures"]:
        name = "Results by trial, and the importance of each setting"
        image = f'<img src="{escape(one["image"])}" alt="{name}">'
        out += f'<div class="plots explained"><figure><p class="name">{name}</p>{image}</figure></div>'
    if found["importance"]:
        rows = [(escape(name), f"{share:.4f}") for name, share in _ranked(found)]
        out += table("Share of each setting in the variance of the results", ("setting", "share"), rows)
    rows = [[escape(cell) for cell in _cells(row)] for row in found["rows"][:LISTED]]
    head = ("trial", "state", f"validation {escape(found['metric'][0])}", "updates", "settings")
    more = len(found["rows"]) - LISTED
    rest = f"<p>{more:,d} more trials are in {NUMBERS}.</p>" if more > 0 else ""
    return f"{out}<details><summary>The trials</summary>{table('Trials', head, rows, (1, 4))}{rest}</details>"


def study_as_markdown(report: Mapping[str, Any]) -> str:
    """Return the study as Markdown, without its single trials."""
    found = report["study"]
    out = "".join(f"- {markdown(line)}\n" for line in _lines(found))
    if found["importance"]:
        out += "\n| setting | share of the variance of the results |\n|---|---|\n"
        out += "".join(f"| {markdown(name)} | {share:.4f} |\n" for name, share in _ranked(found))
    return out


def _ranked(found: Mapping[str, Any]) -> list[tuple[str, float]]:
    return sorted(found["importance"].items(), key=lambda pair: -pair[1])


def _cells(row: Mapping[str, Any]) -> list[str]:
    value, settings = row.get("value"), {k: v for k, v in row.items() if k not in OWN}
    text = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in settings.items())
    why = f" ({row['error']})" if row.get("error") else ""
    shown = f"{value:.4g}" if isinstance(value, int | float) else ""
    return [visible(x) for x in (str(row["number"]), f"{row['state']}{why}", shown, str(row.get("steps", "")), text)]
