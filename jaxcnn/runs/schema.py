"""What the files of a run may hold: `config.json`, `summary.json`, the lines of `metrics.jsonl`, and options of functions by name."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from jaxcnn import augment
from jaxcnn.core.schema import fitted
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.models import MODELS
from jaxcnn.runs.options import Number, check_options, leaves, refuse
from jaxcnn.tasks import TASKS

FORMAT = 1  # of config.json, where it names one
DEPTH, INTEGER, TEXT = 32, 2**63, 2**20  # levels of nesting, size of an integer, characters of a text
CLASSES, LAYERS, WIDTH, PIXELS = 2**15, 512, 2**16, 2**28  # at most; an image's values count as pixels
LARGEST = 1e39  # of a logged value, which may be infinite in float32
IMAGES = ("uint8", "float16", "float32", "float64")
PICTURE = re.compile(r"[\w-]{1,100}", re.ASCII)  # names of figures, which are names of files as well
SHOWN, AXES = 50, 8  # metrics or pictures at most; axes of a row
DTYPES = (*IMAGES, "bfloat16", "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
COUNTED = ("depth", "blocks", "convs", "fires", "widths")  # options of models that say how many layers there are


class Named(TypedDict):
    """A function by name, and its options."""

    name: str
    options: dict[str, Any]


class Image(TypedDict):
    """One image of the data, `[H, W, C]`."""

    shape: list[int]
    dtype: str


class Build(TypedDict):
    """How model and task are made."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    model: Named
    task: Named
    image: Image
    ema: NotRequired[Number | bool | None]
    views: NotRequired[dict[str, Any] | None]
    variant: NotRequired[str]


class Shown(TypedDict):
    """What a task says of itself: metrics to show, which of them decides and how, and the names of its pictures."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    headline: list[str]
    monitor: list[str]
    figures: list[str]


class Data(TypedDict):
    """What a run learned from."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    name: str
    rows: NotRequired[list[int]]
    sha256: NotRequired[str | None]


class Source(TypedDict):
    """How data are read: a function of `jaxcnn.data` by name and its options; `made_here` vouches for their paths."""

    name: str
    options: dict[str, Any]
    made_here: NotRequired[str]


class Settings(TypedDict):
    """The flags of a run that matter for reading its data again; others may be there."""

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
    inputs: NotRequired[dict[str, Image]]
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
        config: what was read.
        where: the file's name, for messages.

    Raises:
        InputError: what does not fit, with its place and value.

    """
    check_values(config, where)
    fitted(Config, config, where)
    if config.get("format", FORMAT) != FORMAT:
        other = "newer" if config["format"] > FORMAT else "older"
        refuse(
            where,
            "format",
            config["format"],
            f"{other} than {FORMAT}, which this version of jaxcnn reads; use that version",
        )
    if not config["experiment"].replace(".", "a").isidentifier():
        refuse(where, "experiment", config["experiment"], "must be the name of an experiment, such as 'mnist'")
    classes, rows = config["classes"], config["data"].get("rows", [0, 0, 0])
    least = 1 if config["build"] and config["build"]["task"]["name"] == "classification" else 0
    if not least <= len(classes) <= CLASSES or len(set(classes)) < len(classes):
        refuse(where, "classes", classes, f"{len(classes)} names; must be {least} to {CLASSES:,}, each once")
    if len(rows) != 3 or min(rows) < 0:
        refuse(where, "data.rows", rows, "must be the rows to train, validate and test")
    _check_shown(config.get("task"), where)
    if config["build"] is None:
        _check_inputs(config.get("inputs") or {}, where)
    else:
        check_build(config["build"], where, len(classes))
    for name, value in config["settings"].items():
        values = value if isinstance(value, list) else [value]
        if not all(x is None or isinstance(x, bool | int | float | str) for x in values):
            refuse(where, f"settings.{name}", value, "must be a plain value or a list of them")
    if config["settings"].get("limit_examples", 0) < 0:
        refuse(where, "settings.limit_examples", config["settings"]["limit_examples"], "must be at least 0")
    return config


def _check_shown(task: Mapping[str, Any] | None, where: str) -> None:
    if task and (len(task["headline"]) > SHOWN or len(task["figures"]) > SHOWN):
        refuse(where, "task", task, f"must have {SHOWN} metrics and pictures at most")


def _check_inputs(inputs: Mapping[str, Any], where: str) -> None:
    """Refuse a row that is not described, or is too large."""
    if not inputs:
        raise InputError(f"{where}: build: the run has none, and no inputs; train it again")
    for name, value in inputs.items():
        shape, dtype = value["shape"], value["dtype"]
        if len(shape) > AXES or min(shape, default=1) < 1 or math.prod(shape) > PIXELS:
            refuse(where, f"inputs.{name}.shape", shape, f"must be {AXES} axes and {PIXELS:,} values at most")
        if dtype not in DTYPES:
            refuse(where, f"inputs.{name}.dtype", dtype, f"must be one of {', '.join(DTYPES)}")


def check_build(build: Mapping[str, Any], where: str, classes: int | None = None) -> None:
    """Refuse a description that no model and task can be made from, before anything is made.

    Args:
        build: as `runs.build` takes it, with `"image"`.
        where: for messages.
        classes: how many there are; None where that is not known.

    Raises:
        InputError: an unknown name, an option that the function does not have, or a value outside its range.

    """
    for kind, table in (("model", MODELS), ("task", TASKS)):
        name = build[kind]["name"]
        if name not in table:
            refuse(where, f"build.{kind}.name", name, f"a {kind} that this version of jaxcnn does not know; update it")
        check_options(table[name], build[kind]["options"], f"{where}: build.{kind}.options", leave=("model",))
    _check_sizes(build["model"]["options"], f"{where}: build.model.options")
    shape, dtype = build["image"]["shape"], build["image"]["dtype"]
    if len(shape) != 3 or min(shape) < 1 or math.prod(shape) > PIXELS:
        refuse(where, "build.image.shape", shape, f"must be height, width and channels, {PIXELS:,} values at most")
    if dtype not in IMAGES:
        refuse(where, "build.image.dtype", dtype, f"must be one of {', '.join(IMAGES)}")
    if not 0 <= (build.get("ema") or 0) < 1:
        refuse(where, "build.ema", build["ema"], "must be at least 0 and below 1")
    if build.get("views") is not None:
        check_options(augment.test_time_views, build["views"], f"{where}: build.views")
        if not 0 <= build["views"].get("shift", 0) < min(shape[:2]):
            refuse(where, "build.views.shift", build["views"]["shift"], "must be at least 0 and smaller than the image")
    size = build["task"]["options"].get("size")
    if size is not None and (len(size) != 2 or min(size) < 1 or math.prod(size) * shape[-1] > PIXELS):
        refuse(where, "build.task.options.size", size, "must be height and width, at least 1")
    if (build["task"]["options"].get("resize") or 1) ** 2 * shape[-1] > PIXELS:
        refuse(where, "build.task.options.resize", build["task"]["options"]["resize"], f"more than {PIXELS:,} values")
    head, made = build["task"]["options"].get("head", "softmax"), build["model"]["options"].get("num_classes")
    several = build["task"]["name"] == "classification" and classes is not None
    if several and (classes != 2 if head == "sigmoid" else made not in (None, classes)):
        line = "the sigmoid head tells two classes apart" if head == "sigmoid" else f"the model has num_classes={made}"
        raise InputError(f"{where}: classes: {classes:,} names, but {line}")


def _check_sizes(options: Mapping[str, Any], where: str) -> None:
    """Bound what a model's options make: the layers together, the width of each, and the logits."""
    layers = 0
    for name, value in options.items():
        if name == "num_classes" and not 1 <= value <= CLASSES:
            refuse(where, name, value, f"must be 1 to {CLASSES:,}")
        if name in ("dropout", "drop_path") and not 0 <= value < 1:
            refuse(where, name, value, "must be at least 0 and below 1")
        whole = [x for x in leaves(value) if isinstance(x, int) and not isinstance(x, bool)]
        if not all(0 <= x <= WIDTH for x in whole) or isinstance(value, float) and not 0 <= value <= WIDTH:
            refuse(where, name, value, f"must be 0 to {WIDTH:,}")
        if name in COUNTED:
            layers += len(whole) if name in ("fires", "widths") else sum(whole)
    if layers > LAYERS:
        raise InputError(f"{where}: {layers:,} layers; must be {LAYERS} at most")


def check_summary(summary: Any, where: str) -> dict[str, Any]:
    """Return the value of a run's `summary.json` if a report can be made of it; values that are not finite count as unknown.

    Raises:
        InputError: what does not fit, with its place and value.

    """
    check_values(summary, where)
    fitted(Summary, summary, where)
    for name in ("parameters", "steps", "epochs", "train_seconds"):
        if not 0 <= summary[name] < INTEGER:
            refuse(where, name, summary[name], "must be a number from 0 on")
    for part in ("test", "validation"):
        for name, value in summary.get(part, {}).items():
            _check_measured(value, where, f"{part}.{name}")
    said = summary["test"].get("accuracy")
    if said is not None and not isinstance(said, int | float):
        refuse(where, "test.accuracy", said, "must be a number or null")
    return summary


def check_lines(rows: Sequence[Any], where: str) -> list[dict[str, Any]]:
    """Return the values of the lines of a `metrics.jsonl` if they are such.

    Raises:
        InputError: what does not fit, with its line, place and value.

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
    """Refuse what no file of a run holds: deep nesting, integers beyond 64 bits, endless texts.

    Raises:
        InputError: with the place and the value.

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
