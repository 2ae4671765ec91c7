"""The recipe of `jaxcnn train`: from flags and data to a `runs.Plan`, with defaults that suit the data."""

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import optax

from jaxcnn import augment, layers, optim, runs
from jaxcnn.cli import planning, weights
from jaxcnn.cli.flags import one_of, refuse_others
from jaxcnn.cli.layouts import SMALL, Found
from jaxcnn.core.types import InputError, Step
from jaxcnn.data import Splits
from jaxcnn.methods import transfer
from jaxcnn.models import DETECTORS, MODELS, NETWORKS, SEGMENTERS
from jaxcnn.runs import protocol
from jaxcnn.train import augmented, init_state

LEAST = 28  # smaller images are enlarged to this side on the device; the default network needs 24
UPDATES, MANY, VALIDATIONS = 300, 10_000, 20
ROWS = {"detection": 8, "segmentation": 8, "volumes": 2}  # in one update, for few rows
FOUND_UPDATES = 1500  # for detection
RATES = {"cnn": 4e-3, "sound_cnn": 4e-3, "wave_cnn": 4e-3, "inception_time": 2e-3, "series_resnet": 2e-3}
RATE = 1e-3
FIT = {"detection": DETECTORS, "segmentation": SEGMENTERS}  # networks of a task; other tasks have those of MODELS
USUAL = {"detection": "fcos", "segmentation": "unet"}
OPTIONS: dict[str, dict[str, Any]] = {  # networks that a CPU trains in minutes
    "unet": {"widths": [16, 32, 64, 128, 256]},
    "fcos": {"backbone": "resnet18", "width": 64, "depth": 2, "levels": [3, 4, 5], "extra": 0},
}
VOLUMES = {"dims": 3, "widths": [16, 32, 64]}  # options of a U-Net for volumes
WINDOW = 48  # largest side of what is cut from volumes for training
IGNORED = 255  # label of pixels without a class
FOLLOW = augment.SpatialTargets(fill=IGNORED)
REFUSED = {  # flags that do not apply to a task
    "regression": ("--class-weights", "--label-smoothing"),
    "multilabel": ("--class-weights",),
    "detection": ("--class-weights", "--label-smoothing", "--dropout"),
    "segmentation": ("--label-smoothing",),
}


def check(config: Any) -> None:
    """Refuse bad values before any data is read.

    Raises:
        InputError: an unknown network, or a value out of range.

    """
    if config.model:
        one_of("--model", config.model, NETWORKS)
    layers.check_dropout(config.dropout)
    if config.learning_rate:
        optim.check_rate(config.learning_rate)
        if getattr(config, "lr_find", False):
            line = f"--learning-rate {config.learning_rate}: --lr-find chooses the rate itself"
            raise InputError(f"{line}; give only one of them")
    if not 0 <= config.label_smoothing < 1:
        raise InputError(f"--label-smoothing {config.label_smoothing}: must be at least 0 and below 1")
    if not 0 <= config.ema < 1:
        raise InputError(f"--ema {config.ema}: must be at least 0 and below 1")
    if not 0 <= config.momentum < 1:
        raise InputError(f"--momentum {config.momentum}: must be at least 0 and below 1")
    optim.adamw(1.0, weight_decay=config.weight_decay)


def settled(config: Any, rows: int, model: str, task: str = "classification") -> Any:
    """Return the flags with defaults that depend on the data: batch size, epochs and learning rate.

    Args:
        config: the flags.
        rows: number of training rows.
        model: name of the network.
        task: what the network learns.

    """
    batch = config.batch_size or (4 if rows >= MANY else 1) * ROWS.get(task, 32)
    epochs = config.epochs
    if epochs is None:
        updates = FOUND_UPDATES if task == "detection" else UPDATES
        epochs = max(10, math.ceil(updates * min(batch, rows) / rows))
    rate = config.learning_rate or RATES.get(model, RATE)
    return dataclasses.replace(config, batch_size=batch, epochs=epochs, learning_rate=rate, model=model)


def plan(
    config: Any, found: Found, splits: Splits, source: dict[str, Any], skipped: Any, begin: weights.Origin | None
) -> tuple[Any, runs.Plan]:
    """Make the plan of a run.

    Args:
        config: the flags.
        found: description of the data.
        splits: the rows.
        source: how the rows were read, for `config.json`.
        skipped: the examples that could not be read.
        begin: the pretrained network to start from, for images with three channels; None for random weights.

    Returns:
        The flags with their defaults filled in, and the plan.

    Raises:
        InputError: flags that do not fit the data or each other.

    """
    refuse_others(config, found.kind)
    image = splits.train.example()["image"]
    side, channels = min(image.shape[1:3]), image.shape[-1]
    if begin and channels != 3 and not os.path.isdir(config.weights):
        begin = weights.origin(config, channels)
    usual = USUAL.get(found.task) or ("cnn" if side <= SMALL else "resnet18")
    name = begin.model if begin else config.model or usual
    deep = image.ndim == 5
    _check_fit(name, found.task, deep)
    config = settled(config, splits.train.size, name, found.kind if deep else found.task)
    pixels = dict(begin.pixels) if begin else planning.pixel_statistics(splits.train)
    if config.image_size or found.task in FIT:
        pixels.pop("size", None)
    if not begin and name == "cnn" and side < LEAST:
        pixels |= {"size": [LEAST, LEAST]}
    options = begin.options if begin else (VOLUMES if deep else OPTIONS.get(name, {})) | weights.form_of(config, name)
    options = options | ({"dropout": config.dropout} if config.dropout else {})
    outputs = 1 if found.task == "regression" else len(splits.train.classes)
    build = {
        "model": planning.model(name, config, num_classes=outputs, **options),
        "task": task_of(config, found, splits, pixels),
        "ema": config.ema,
        "image": {"shape": list(image.shape[1:]), "dtype": str(image.dtype)},
    }
    _, task = runs.build(build)
    variables = None
    if begin:
        variables = init_state(task, optax.identity(), splits.train.example(), config.seed).variables
        try:
            variables = transfer.load_pretrained(variables, begin.variables)
        except InputError as error:
            raise InputError(f"--weights {config.weights}: {error}") from error
    made = runs.Plan(
        task, splits, adamw(config), wrap=_wrap(config, found, image.shape[1:]), build=build, dataset=config.data,
        skipped=skipped, variables=variables, source=source, validations=VALIDATIONS, best=config.best,
        ema=config.ema,
    )  # fmt: skip
    return config, made


def _check_fit(name: str, task: str, deep: bool) -> None:
    """Refuse a network that is for another task."""
    known = {"unet"} if deep else FIT.get(task, MODELS)
    if name not in known:
        about = f"{task} of volumes" if deep else task
        raise InputError(f"--model {name}: is not for {about}; use one of {', '.join(sorted(known))}")


def adamw(config: Any) -> Callable[[int], optax.GradientTransformation]:
    """Return a function from the number of steps to the optimiser: AdamW with a one-cycle schedule."""

    def make(steps: int) -> optax.GradientTransformation:
        rate = optim.one_cycle(config.learning_rate, steps=steps)
        return optim.adamw(rate, b1=config.momentum, weight_decay=config.weight_decay)

    return make


def task_of(config: Any, found: Found, splits: Splits, pixels: dict[str, Any]) -> dict[str, Any]:
    """Describe the task for `runs.build`."""
    flags = ("--class-weights", "--label-smoothing", "--dropout")
    for flag, given in zip(flags, (config.class_weights, config.label_smoothing, config.dropout), strict=True):
        if given and flag in REFUSED.get(found.task, ()):
            raise InputError(f"{flag} {given}: does not apply to {found.task}; leave it out")
    if found.task == "regression":
        target = targets(splits.train)
        spread = float(target.std()) or 1.0
        low, high = float(target.min()), float(target.max())
        limits = {"limits": [low, high]} if low < high else {}
        return {"name": "regression", "options": {"center": float(target.mean()), "scale": spread, **limits, **pixels}}
    weighted = {"class_weights": _class_weights(config.class_weights, splits.train)} if config.class_weights else {}
    if found.task == "detection":
        return {"name": "detection", "options": pixels}
    if found.task == "segmentation":
        return {"name": "segmentation", "options": pixels | {"ignore_label": IGNORED, "dice": 1.0} | weighted}
    options = pixels | weighted | {"label_smoothing": config.label_smoothing}
    if found.task == "multilabel":
        options |= {"head": "multilabel"}
    return {"name": "classification", "options": options}


def targets(data: Any) -> np.ndarray:
    """Return all targets, including those of streamed rows."""
    if hasattr(data, "arrays"):
        return np.asarray(data.arrays["target"], np.float64)
    batches = (chunk.at(k) for chunk in data.once(256) for k in range(int(chunk.count)))
    return np.concatenate([np.asarray(b["target"], np.float64)[np.asarray(b["row_mask"]) > 0] for b in batches])


def _class_weights(given: str, data: Any) -> list[float]:
    classes = len(data.classes)
    if given == "balanced":
        mask = getattr(data, "arrays", {}).get("mask")
        label = getattr(data, "label", None) if mask is None else mask[mask < classes]
        if label is None:
            raise InputError(
                "--class-weights balanced: the labels of streamed data are not known beforehand; give numbers w1,w2,..."
            )
        return [round(float(x), 6) for x in protocol.class_weights(np.asarray(label), classes)]
    try:
        values = [float(part) for part in given.split(",")]
    except ValueError:
        values = []
    if len(values) != classes or not all(math.isfinite(x) and x >= 0 for x in values):
        raise InputError(
            f"--class-weights {given}: must be balanced, or {classes} numbers w1,w2,... that are not negative"
        )
    return values


def change(config: Any, found: Found, shape: tuple[int, ...]) -> Any:
    """Return the augmentation of training images, or None.

    Args:
        config: the flags.
        found: description of the data.
        shape: shape of an image, `(height, width, channels)`, or of a volume.

    """
    kind = config.augment
    if len(shape) == 4:
        if kind == "digits":
            raise InputError("--augment digits: volumes are not turned; use auto or none")
        window = tuple(min(n, WINDOW) for n in shape[:-1])
        cut = augment.pad_crop(0, size=window)
        return cut if kind == "none" else augment.compose(cut, augment.flip)
    if kind == "auto":
        kind = "photos" if shape[-1] == 3 or max(shape[:2]) > SMALL else "digits"
    if kind == "none":
        return None
    if kind == "digits":
        return augment.affine(degrees=10, scale=0.1, shear=0.1, shift=0.05, follow=FOLLOW)
    if found.task in FIT:
        return augment.compose(augment.flip, augment.affine(scale=0.25, shift=0.1, follow=FOLLOW))
    return augment.compose(augment.flip, augment.shift(max(max(shape[:2]) // 8, 1)))


def _wrap(config: Any, found: Found, shape: tuple[int, ...]) -> Callable[[Step], Step]:
    made = change(config, found, shape)
    return (lambda step: step) if made is None else (lambda step: augmented(step, made))
