"""The description of a model and a task, from which a run is built again, and its check."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NotRequired

from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from jaxcnn import augment
from jaxcnn.core.schema import fitted
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.models import BRANCHES, MODELS, NETWORKS
from jaxcnn.runs.options import Number, check_options, leaves, refuse
from jaxcnn.tasks import TASKS

CLASSES, LAYERS, WIDTH, PIXELS = 2**15, 512, 2**16, 2**28  # upper bounds; PIXELS counts the values of an image
AXES = 8  # most axes of a row
IMAGES = ("uint8", "float16", "float32", "float64")
DTYPES = (*IMAGES, "bfloat16", "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
NAMED = ("classification", "detection", "segmentation")  # tasks whose logits are the classes by name
# model options that determine the number of layers
COUNTED = ("depth", "blocks", "cells", "convs", "fires", "layers", "widths")


class Named(TypedDict):
    """Name of a function, and its options."""

    name: str
    options: dict[str, Any]


class Entry(TypedDict):
    """Shape of one row of an array, such as `[H, W, C]` of images, and its dtype."""

    shape: list[int]
    dtype: str


class Build(TypedDict):
    """How the model and the task are built."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    model: Named
    task: Named
    image: NotRequired[Entry]
    inputs: NotRequired[dict[str, Entry]]
    ema: NotRequired[Number | bool | None]
    views: NotRequired[dict[str, Any] | None]
    variant: NotRequired[str]


def check_build(build: Mapping[str, Any], where: str, classes: int | None = None) -> None:
    """Check the description of a model and a task before they are built.

    Args:
        build: description for `runs.build`, with `"image"`, or with `"inputs"` for a model of other things.
        where: name of the file, for messages.
        classes: number of classes; None if it is not known.

    Raises:
        InputError: A name is unknown, the function has no such option, or a value is out of range.

    """
    for kind, table in (("model", NETWORKS), ("task", TASKS)):
        name = build[kind]["name"]
        if name not in table:
            refuse(where, f"build.{kind}.name", name, f"this version of jaxcnn has no such {kind}; update it")
        check_options(table[name], build[kind]["options"], f"{where}: build.{kind}.options", leave=("model",))
    _check_sizes(build["model"]["options"], f"{where}: build.model.options")
    _check_inside(build["model"]["options"], f"{where}: build.model.options")
    if not 0 <= (build.get("ema") or 0) < 1:
        refuse(where, "build.ema", build["ema"], "must be at least 0 and below 1")
    if "inputs" in build:
        check_entries(build["inputs"], where, "build.inputs")
    if "image" in build:
        _check_image(build, where)
    elif not build.get("inputs"):
        raise InputError(f"{where}: build: has neither 'image' nor 'inputs'; train the run again")
    elif build.get("views") is not None:
        refuse(where, "build.views", build["views"], "only images have views; leave it out")
    head, made = build["task"]["options"].get("head", "softmax"), build["model"]["options"].get("num_classes")
    several = build["task"]["name"] in NAMED and classes is not None
    if several and (classes != 2 if head == "sigmoid" else made not in (None, classes)):
        line = "the sigmoid head tells two classes apart" if head == "sigmoid" else f"the model has num_classes={made}"
        raise InputError(f"{where}: classes: {classes:,} names, but {line}")


def check_entries(entries: Mapping[str, Any], where: str, name: str) -> None:
    """Refuse rows that are too large, or whose dtype no run has."""
    for key, value in entries.items():
        shape, dtype = value["shape"], value["dtype"]
        if len(shape) > AXES or min(shape, default=1) < 1 or math.prod(shape) > PIXELS:
            refuse(where, f"{name}.{key}.shape", shape, f"must have at most {AXES} axes and {PIXELS:,} values")
        if dtype not in DTYPES:
            refuse(where, f"{name}.{key}.dtype", dtype, f"must be one of {', '.join(DTYPES)}")


def entries_of(build: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shape and dtype of a row of each array that a model gets, by name."""
    return {**build.get("inputs", {}), **({"image": build["image"]} if "image" in build else {})}


def _check_image(build: Mapping[str, Any], where: str) -> None:
    """Check the shape of the images and what depends on it."""
    shape, dtype = build["image"]["shape"], build["image"]["dtype"]
    axes = {2: "length and channels", 3: "height, width and channels", 4: "depth, height, width and channels"}
    dims = build["task"]["options"].get("dims") or build["model"]["options"].get("dims", 2)
    if len(shape) != dims + 1 or min(shape) < 1 or math.prod(shape) > PIXELS:
        about = axes.get(dims + 1, f"{dims} sides and the channels")
        refuse(where, "build.image.shape", shape, f"must be {about}, {PIXELS:,} values at most")
    if dtype not in IMAGES:
        refuse(where, "build.image.dtype", dtype, f"must be one of {', '.join(IMAGES)}")
    if build.get("views") is not None:
        if build["task"]["name"] == "detection":
            refuse(where, "build.views", build["views"], "boxes of several views cannot be averaged; leave it out")
        if build["task"]["name"] == "embedding":
            refuse(where, "build.views", build["views"], "a mean of unit vectors has another length; leave it out")
        check_options(views_of(build["task"]["name"]), build["views"], f"{where}: build.views")
        if not 0 <= build["views"].get("shift", 0) < min(shape[:-1]):
            refuse(where, "build.views.shift", build["views"]["shift"], "must be at least 0 and smaller than the image")
    size = build["task"]["options"].get("size")
    if size is not None and (len(size) != 2 or min(size) < 1 or math.prod(size) * shape[-1] > PIXELS):
        refuse(where, "build.task.options.size", size, "must be height and width, at least 1")
    if (build["task"]["options"].get("resize") or 1) ** 2 * shape[-1] > PIXELS:
        refuse(where, "build.task.options.resize", build["task"]["options"]["resize"], f"more than {PIXELS:,} values")


def _check_inside(options: Mapping[str, Any], where: str) -> None:
    """Check the descriptions of networks inside another one: that of its body, or those of its branches."""
    for name, value in options.items():
        if name == "branches" and isinstance(value, Mapping):
            for branch, body in value.items():
                _check_body(body, f"{where}.branches.{visible(branch)[:80]}", BRANCHES)
        elif name != "takes" and isinstance(value, Mapping):
            _check_body(value, f"{where}.{name}", MODELS)


def _check_body(body: Any, where: str, table: Mapping[str, Callable[..., Any]]) -> None:
    """Check the description of a network inside another one; one that is only named has the usual options."""
    if isinstance(body, str):
        body = {"name": body, "options": {}}
    fitted(Named, body, where)
    if body["name"] not in table:
        refuse(where, "name", body["name"], "this version of jaxcnn has no such model; update it")
    check_options(table[body["name"]], body["options"], f"{where}.options")
    _check_sizes(body["options"], f"{where}.options")
    _check_inside(body["options"], f"{where}.options")


def _check_sizes(options: Mapping[str, Any], where: str) -> None:
    """Bound the size of a model: the number of layers, the width of each, and the number of logits."""
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


def reading(config: Mapping[str, Any]) -> tuple[Any, float]:
    """Return how a run's image files become rows: `resize` and `crop_ratio`, as its reader took them."""
    how = (config.get("source") or {}).get("options", {})
    boxes = config["build"]["task"]["name"] == "detection"  # whose readers pad by default
    return how.get("resize", "pad" if boxes else "squash"), how.get("crop_ratio", 1.0)


def views_of(task: str) -> Callable[..., Any]:
    """Return the function that makes the views of a task's images over which outputs are averaged."""
    return augment.pixel_views if task == "segmentation" else augment.test_time_views
