"""The recipe of `jaxcnn train` for rows that are no images: which network they suit, and what it gets of a row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from jaxcnn import runs
from jaxcnn.cli import planning, recipe
from jaxcnn.cli.layouts import Found
from jaxcnn.core import files
from jaxcnn.core.types import InputError
from jaxcnn.data import Splits
from jaxcnn.data.vectors import read_vectors
from jaxcnn.data.words import FIRST
from jaxcnn.models import TEXTS
from jaxcnn.models.text_cnn import with_vectors
from jaxcnn.runs.ready import inputs
from jaxcnn.train import init_state

BYTES = 257  # numbers of bytes, and of padding


class Kind(NamedTuple):
    """Rows of one kind.

    Attributes:
        field: the entry of a batch that the network gets.
        also: further entries that it gets as keywords.
        networks: those that suit the rows.
        usual: name of the default network.
        options: `(splits, source) -> options` of the network.
        unit: what a row is, in the plural.

    """

    field: str
    also: tuple[str, ...]
    networks: dict[str, Callable[..., Any]]
    usual: str
    options: Callable[[Splits, dict[str, Any]], dict[str, Any]]
    unit: str


def _words(splits: Splits, source: dict[str, Any]) -> dict[str, Any]:
    size = BYTES if source["options"].get("unit") == "bytes" else len(splits.train.words) + FIRST
    return {"words": size, "width": 128}


KINDS = {"texts": Kind("text", (), TEXTS, "text_cnn", _words, "texts")}  # by the name of the source


def plan(config: Any, found: Found, splits: Splits, source: dict[str, Any], skipped: Any) -> tuple[Any, runs.Plan]:
    """Make the plan of a run; arguments and results are those of `recipe.plan`.

    Raises:
        InputError: flags that do not fit the data or each other.

    """
    kind, augment = KINDS[found.kind], config.augment if config.augment in ("photos", "digits") else ""
    for flag, given in (("--weights", config.weights), ("--image-size", config.image_size), ("--augment", augment)):
        if given:
            raise InputError(f"{flag} {given}: applies to images, and these are {kind.unit}; leave it out")
    name = config.model or kind.usual
    if name not in kind.networks:
        raise InputError(f"--model {name}: is not for {kind.unit}; use one of {', '.join(sorted(kind.networks))}")
    config, vectors = recipe.settled(config, splits.train.size, name, found.kind), None
    options = kind.options(splits, source) | ({"dropout": config.dropout} if config.dropout else {})
    if config.vectors:
        vectors = read_vectors(files.expanded(config.vectors), getattr(splits.train, "words", ()))
        options["width"] = vectors[0].shape[1]
    outputs = 1 if found.task == "regression" else len(splits.train.classes)
    rows = {"field": kind.field} | ({"also": list(kind.also)} if kind.also else {})
    example, entries = splits.train.example(), (kind.field, *kind.also)
    build = {
        "model": planning.model(name, config, num_classes=outputs, **options),
        "task": recipe.task_of(config, found, splits, rows),
        "ema": 0,
        "inputs": {key: one for key, one in inputs(example).items() if key in entries},
    }
    _, task = runs.build(build)
    variables = None
    if vectors:
        variables = with_vectors(init_state(task, optax.identity(), example, config.seed).variables, *vectors)
    made = runs.Plan(
        task, splits, recipe.adamw(config), variables=variables, build=build, dataset=config.data, skipped=skipped,
        source=source, validations=recipe.VALIDATIONS, best=config.best, unit=kind.unit,
    )  # fmt: skip
    return config, made
