"""Schemas of a run's files: `config.json`, `summary.json` and the lines of `metrics.jsonl`."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from jaxcnn.core.schema import fitted
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.words import FIRST, ROOM
from jaxcnn.runs.described import CLASSES, NAMED, Build, Entry, check_build, check_entries
from jaxcnn.runs.options import Number, refuse

FORMAT = 1  # value of "format" in config.json, if it has one
DEPTH, INTEGER, TEXT = 32, 2**63, ROOM  # upper bounds: levels of nesting, absolute value of an integer, characters
LARGEST = 1e39  # bound on a finite logged value; float32 values beyond it are infinite
PICTURE = re.compile(r"[\w-]{1,100}", re.ASCII)  # names of figures, which are also file names
SHOWN = 50  # most metrics or pictures


class Shown(TypedDict):
    """Metrics to show, the metric that decides which weights are best and its mode, and names of pictures."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    headline: list[str]
    monitor: list[str]
    figures: list[str]


class Data(TypedDict):
    """The data that a run was trained on."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    name: str
    rows: NotRequired[list[int]]
    sha256: NotRequired[str | None]


class Source(TypedDict):
    """How data are read: a function of `SOURCES` and its options; a valid `made_here` makes their paths trusted."""

    name: str
    options: dict[str, Any]
    made_here: NotRequired[str]


class Settings(TypedDict):
    """The flags that are needed to read a run's data again; other flags are allowed."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    limit_examples: NotRequired[int]
    per_class: NotRequired[int]
    on_bad_example: NotRequired[str]
    validation_fraction: NotRequired[Number]
    folder: NotRequired[str]
    classes: NotRequired[list[str]]


class Config(TypedDict):
    """The content of `config.json`."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    experiment: str
    settings: Settings
    data: Data
    classes: list[str]
    build: Build | None
    ema: NotRequired[Number | bool | None]
    inputs: NotRequired[dict[str, Entry]]
    words: NotRequired[str]
    task: NotRequired[Shown]
    source: NotRequired[Source | None]
    command: NotRequired[str]
    versions: NotRequired[dict[str, str]]
    format: NotRequired[int]


class Summary(TypedDict):
    """The content of a run's `summary.json`."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    test: dict[str, Any]
    parameters: int
    steps: int
    epochs: Number
    seed: int | None
    train_seconds: Number
    best_step: NotRequired[int | None]
    validation: NotRequired[dict[str, Any]]


class Line(TypedDict):
    """A line of `metrics.jsonl`."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    split: Literal["train", "validation", "test"]
    step: int
    epoch: Number
    loss: NotRequired[Number | None]
    accuracy: NotRequired[Number | None]
    count: NotRequired[Number]
    learning_rate: NotRequired[Number | None]


def check_config(config: Any, where: str) -> dict[str, Any]:
    """Return the value of a `config.json` if a run can be built from it.

    Args:
        config: the parsed file.
        where: name of the file, for messages.

    Raises:
        InputError: A value is wrong; the message names its place.

    """
    check_values(config, where)
    fitted(Config, config, where)
    if config.get("format", FORMAT) != FORMAT:
        other = "newer" if config["format"] > FORMAT else "older"
        line = f"{other} than {FORMAT}, the format of this version of jaxcnn; use the version that wrote the run"
        refuse(where, "format", config["format"], line)
    if not config["experiment"].replace(".", "a").isidentifier():
        refuse(where, "experiment", config["experiment"], "must be the name of an experiment, such as 'mnist'")
    classes, rows = config["classes"], config["data"].get("rows", [0, 0, 0])
    least = 1 if config["build"] and config["build"]["task"]["name"] in NAMED else 0
    if not least <= len(classes) <= CLASSES or len(set(classes)) < len(classes):
        refuse(where, "classes", classes, f"{len(classes)} names; must be {least} to {CLASSES:,}, each once")
    if len(rows) != 3 or min(rows) < 0:
        refuse(where, "data.rows", rows, "must be the rows to train, validate and test")
    _check_shown(config.get("task"), where)
    if config["build"] is None:
        _check_inputs(config.get("inputs") or {}, where)
    else:
        check_build(config["build"], where, len(classes))
    _check_words(config, where)
    for name, value in config["settings"].items():
        values = value if isinstance(value, list) else [value]
        if not all(x is None or isinstance(x, bool | int | float | str) for x in values):
            refuse(where, f"settings.{name}", value, "must be a plain value or a list of them")
    if config["settings"].get("limit_examples", 0) < 0:
        refuse(where, "settings.limit_examples", config["settings"]["limit_examples"], "must be at least 0")
    return config


def _check_words(config: Mapping[str, Any], where: str) -> None:
    """Refuse a vocabulary that is not the model's."""
    words = config.get("words", "").split(" ") if config.get("words") else []
    wanted = ((config["build"] or {}).get("model") or {}).get("options", {}).get("words")
    if words and (len(set(words)) < len(words) or isinstance(wanted, int) and len(words) != wanted - FIRST):
        line = f"{len(words):,} words; must be those of the model, {(wanted or 0) - FIRST:,}, each once"
        raise InputError(f"{where}: words: {line}")


def _check_shown(task: Mapping[str, Any] | None, where: str) -> None:
    if task and (len(task["headline"]) > SHOWN or len(task["figures"]) > SHOWN):
        refuse(where, "task", task, f"must have {SHOWN} metrics and pictures at most")


def _check_inputs(inputs: Mapping[str, Any], where: str) -> None:
    """Refuse rows that are too large or not described."""
    if not inputs:
        raise InputError(f"{where}: the run has neither 'build' nor 'inputs'; train it again")
    check_entries(inputs, where, "inputs")


def check_summary(summary: Any, where: str) -> dict[str, Any]:
    """Return the value of a `summary.json` if a report can use it; values that are not finite count as unknown.

    Args:
        summary: the parsed file.
        where: name of the file, for messages.

    Raises:
        InputError: A value is wrong; the message names its place.

    """
    check_values(summary, where)
    fitted(Summary, summary, where)
    for name in ("parameters", "steps", "epochs", "train_seconds"):
        if not 0 <= summary[name] < INTEGER:
            refuse(where, name, summary[name], "must be at least 0")
    for part in ("test", "validation"):
        for name, value in summary.get(part, {}).items():
            _check_measured(value, where, f"{part}.{name}")
    accuracy = summary["test"].get("accuracy")
    if accuracy is not None and not isinstance(accuracy, int | float):
        refuse(where, "test.accuracy", accuracy, "must be a number or null")
    return summary


def check_lines(rows: Sequence[Any], where: str) -> list[dict[str, Any]]:
    """Return the lines of a `metrics.jsonl` if they are valid.

    Args:
        rows: the parsed lines.
        where: name of the file, for messages.

    Raises:
        InputError: A value is wrong; the message names its line and place.

    """
    try:
        fitted(list[Line], rows, where)
    except InputError:
        for number, row in enumerate(rows, 1):
            fitted(Line, row, f"{where}: line {number}")
        raise
    for number, row in enumerate(rows, 1):
        for name, value in row.items():
            if isinstance(value, dict | list):
                refuse(f"{where}: line {number}", name, value, "must be a plain value")
            _check_measured(value, f"{where}: line {number}", name)
        counts, accuracy = (row["step"], row["epoch"], row.get("count", 0)), row.get("accuracy") or 0
        if not all(0 <= x <= LARGEST for x in counts) or accuracy < 0 or accuracy > 1:  # NaN passes
            line = "must not be negative, nor the accuracy above 1"
            refuse(f"{where}: line {number}", "step, epoch, count, accuracy", (*counts, accuracy), line)
    return list(rows)


def _check_measured(value: Any, where: str, name: str) -> None:
    large = isinstance(value, int | float) and abs(value) > LARGEST
    if large and value not in (math.inf, -math.inf):
        refuse(where, name, value, f"larger than {LARGEST:g}")


def check_values(value: Any, where: str) -> None:
    """Refuse values that no run writes: deep nesting, integers beyond 64 bits, very long texts.

    Args:
        value: the parsed file.
        where: name of the file, for messages.

    Raises:
        InputError: There is such a value; the message names its place.

    """
    waiting = [(value, 0, "")]
    while waiting:
        found, depth, place = waiting.pop()
        if isinstance(found, dict | list) and depth >= DEPTH:
            raise InputError(f"{where}: {visible(place[:80])}: nested in more than {DEPTH} levels")
        if isinstance(found, dict):
            waiting += [(x, depth + 1, f"{place}.{k[:80]}".strip(".")) for k, x in found.items()]
            found = max(found, key=len, default="")
        elif isinstance(found, list):
            waiting += [(x, depth + 1, place) for x in found if isinstance(x, dict | list | int | str)]
        elif isinstance(found, int) and abs(found) >= INTEGER:
            raise InputError(
                f"{where}: {visible(place)}: an integer of {len(hex(found)) * 4 - 8} bits; must have 63 at most"
            )
        if isinstance(found, str) and len(found) > TEXT:
            raise InputError(
                f"{where}: {visible(place)}: a text of {len(found):,} characters; must be {TEXT:,} at most"
            )
