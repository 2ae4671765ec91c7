"""The recipe of `jaxcnn train` for rows that are no images: which network they suit, and what it gets of a row."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from jaxcnn import augment, runs
from jaxcnn.cli import flags, planning, recipe, weights
from jaxcnn.cli.layouts import Found
from jaxcnn.core import files
from jaxcnn.core.types import InputError, Step
from jaxcnn.data import Splits
from jaxcnn.data.vectors import read_vectors
from jaxcnn.data.words import FIRST
from jaxcnn.models import SERIES, SOUNDS, TEXTS
from jaxcnn.models.text_cnn import with_vectors
from jaxcnn.runs.ready import inputs
from jaxcnn.train import augmented, init_state

BYTES = 257  # numbers of bytes, and of padding
FRAMES = 400  # most frames of a spectrogram


class Kind(NamedTuple):
    """Rows of one kind.

    Attributes:
        field: the entry of a batch that the network gets.
        also: further entries that it gets as keywords.
        networks: those that suit the rows.
        usual: name of the default network.
        options: `(splits, source, network) -> options` of the network.
        unit: what a row is, in the plural.
        change: `source -> transform` that augments training rows; None for rows that are not augmented.

    """

    field: str
    also: tuple[str, ...]
    networks: dict[str, Callable[..., Any]]
    usual: str
    options: Callable[[Splits, dict[str, Any], str], dict[str, Any]]
    unit: str
    change: Callable[[dict[str, Any]], augment.Transform] | None = None


def _words(splits: Splits, source: dict[str, Any], name: str) -> dict[str, Any]:
    del name
    size = BYTES if source["options"].get("unit") == "bytes" else len(splits.train.words) + FIRST
    return {"words": size, "width": 128}


def _sounds(splits: Splits, source: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the windows of a network for sounds: 10 ms from one to the next, or more for rows above four seconds."""
    rate, (size,) = source["options"]["rate"], splits.train.example()["audio"].shape[1:]
    if name != "sound_cnn":
        return {"window": max(rate // 100, 4), "stride": max(rate // 2000, 1)}
    hop = max(rate // 100, -(-size // FRAMES))
    n_fft = 2 ** math.ceil(math.log2(max(0.032 * rate, 2 * hop)))
    bands = min(40 if rate <= 8000 else 64, n_fft // 6)
    return {"rate": rate, "n_fft": n_fft, "hop": hop, "n_mels": bands, "widths": [16, 32, 64]}


def _changed_sounds(source: dict[str, Any]) -> augment.Transform:
    """Return the augmentation of sounds: speed, a shift of up to 0.1 seconds, noise and loudness."""
    shift = augment.time_shift(source["options"]["rate"] // 10)
    return augment.compose(augment.speed((0.8, 1.25)), shift, augment.add_noise((10, 40)), augment.gain())


KINDS = {  # by the name of the source
    "texts": Kind("text", (), TEXTS, "text_cnn", _words, "texts"),
    "sounds": Kind("audio", ("length",), SOUNDS, "sound_cnn", _sounds, "sounds", _changed_sounds),
    "series": Kind(
        "series", ("length",), {name: make for name, make in SERIES.items() if name != "tcn"}, "inception_time",
        lambda *_: {}, "series",
    ),
}  # fmt: skip
MASKS = {"time_masks": 2, "mel_masks": 2}  # of the spectrograms in training, see `models.sound_cnn`


def plan(config: Any, found: Found, splits: Splits, source: dict[str, Any], skipped: Any) -> tuple[Any, runs.Plan]:
    """Make the plan of a run; arguments and results are those of `recipe.plan`.

    Raises:
        InputError: flags that do not fit the data or each other.

    """
    flags.refuse_others(config, found.kind)
    kind, wanted = KINDS[found.kind], config.augment if config.augment in ("photos", "digits") else ""
    for flag, given in (("--weights", config.weights), ("--image-size", config.image_size), ("--augment", wanted)):
        if given:
            raise InputError(f"{flag} {given}: applies to images, and these are {kind.unit}; leave it out")
    name = config.model or kind.usual
    if name not in kind.networks:
        raise InputError(f"--model {name}: is not for {kind.unit}; use one of {', '.join(sorted(kind.networks))}")
    change = kind.change(source) if kind.change and config.augment == "auto" else None
    config, vectors = recipe.settled(config, splits.train.size, name, found.kind), None
    options = kind.options(splits, source, name) | weights.form_of(config, name)
    options |= {"dropout": config.dropout} if config.dropout else {}
    options |= MASKS if change and name == "sound_cnn" else {}
    if config.vectors and config.width:
        raise InputError(f"--width {config.width}: --vectors {config.vectors} have their own width; leave it out")
    if config.vectors:
        vectors = read_vectors(files.expanded(config.vectors), getattr(splits.train, "words", ()))
        options["width"] = vectors[0].shape[1]
    outputs = 1 if found.task == "regression" else len(splits.train.classes)
    rows = {"field": kind.field} | ({"also": list(kind.also)} if kind.also else {})
    example, entries = splits.train.example(), (kind.field, *kind.also)
    build = {
        "model": planning.model(name, config, num_classes=outputs, **options),
        "task": recipe.task_of(config, found, splits, rows),
        "ema": config.ema,
        "inputs": {key: one for key, one in inputs(example).items() if key in entries},
    }
    _, task = runs.build(build)
    variables = None
    if vectors:
        variables = with_vectors(init_state(task, optax.identity(), example, config.seed).variables, *vectors)

    def wrap(step: Step) -> Step:
        return augmented(step, change) if change else step

    made = runs.Plan(
        task, splits, recipe.adamw(config), wrap=wrap, variables=variables, build=build, dataset=config.data,
        skipped=skipped, source=source, validations=recipe.VALIDATIONS, best=config.best, unit=kind.unit,
        ema=config.ema,
    )  # fmt: skip
    return config, made
