"""Tells two classes of images in a folder apart: `python -m experiments.binary FOLDER --classes A B`.

The network has one sigmoid logit and learns by binary cross-entropy. Images are resized to 64x64. If the folder has no
test part, the images of each class are split.
"""

import dataclasses
import pathlib
from typing import Any

import tyro

import jaxcnn as jc
from experiments import cli, common, inference, settings
from jaxcnn import runs
from jaxcnn.runs.signals import Signals


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train, evaluate or use a classifier of two classes of images."""

    folder: tyro.conf.Positional[str] = ""
    """Folder with <class>/<image>, or with train/<class>/<image> beside test/ or val/. With --evaluate: other data to
    measure --checkpoint on."""
    classes: tuple[str, ...] = ()
    """Names of two class folders, the second of which is the positive class; by default the only two."""
    image_size: int = 64
    """Side that images are resized to."""
    batch_size: int = 32
    """Rows in one update, over all devices."""
    epochs: int = 40
    """Passes over the training rows."""
    model: str = "cnn"
    """cnn, lenet5, tutorial, mlp, resnet18 or another of jaxcnn.models.MODELS."""
    learning_rate: float = 2e-3
    """Highest value of the one-cycle schedule of AdamW."""
    weight_decay: float = 5e-2
    """Weight decay of kernels; biases and norm scales have none."""
    dropout: float = 0.2
    """Share of units dropped before the last layer, in [0, 1)."""
    ema: float = 0.99
    """Decay of the average of the weights that is validated and tested; 0 uses the weights themselves."""


PRESETS = {"smoke": {"epochs": 1, "max_steps": 4, "batch_size": 16, "limit_examples": 64}}


def load(config: Config, skipped: settings.Skipped | None = None) -> jc.data.Splits:
    """Read the two classes; `skipped` counts unreadable images, if these are allowed."""
    if not config.folder:
        raise jc.InputError("FOLDER: give a folder of images, as in python -m experiments.binary FOLDER --classes A B")
    splits = jc.data.folder(
        **source(config), on_bad=(skipped or settings.Skipped()) if config.on_bad_example == "skip" else None
    )
    if len(splits.train.classes) != 2:
        raise jc.InputError(
            f"--classes: {len(splits.train.classes)} classes in {config.folder}; name two of them, --classes A B"
        )
    return splits


def source(config: Config) -> dict[str, Any]:
    """Return the arguments of `jc.data.folder`."""
    return {
        "path": config.folder, "classes": config.classes or None, "size": config.image_size,
        "validation_fraction": config.validation_fraction,
    }  # fmt: skip


def plan(config: Config) -> runs.Plan:
    """Make the plan from the flags."""
    model = common.model(config.model, config, num_classes=1, dropout=config.dropout)
    rate, decay = jc.optim.check_rate(config.learning_rate), config.weight_decay
    jc.layers.check_dropout(config.dropout)
    skipped = settings.Skipped()
    splits = load(config, skipped)
    image = splits.train.example()["image"]
    build = {
        "model": model,
        "task": {"name": "classification", "options": {"head": "sigmoid", **common.pixel_statistics(splits.train)}},
        "ema": config.ema,
        "image": {"shape": list(image.shape[1:]), "dtype": str(image.dtype)},
    }
    change = jc.augment.compose(jc.augment.flip, jc.augment.affine(degrees=10, scale=0.2, shift=0.1))

    def optimizer(steps):
        return jc.optim.adamw(jc.optim.one_cycle(rate, steps=steps), weight_decay=decay)

    def wrap(step):
        return jc.augmented(step, change)

    return runs.Plan(
        runs.build(build)[1], splits, optimizer, wrap=wrap, ema=config.ema, build=build, dataset=config.folder,
        skipped=skipped, source=runs.source("folder", source(config)),
    )  # fmt: skip


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Evaluate, predict or train, as the flags say."""
    if config.evaluate:
        return inference.evaluate_run("binary", config, config.folder)
    if config.predict:
        return inference.predict(config)
    return common.train("binary", config, plan(config), signals, opened)


if __name__ == "__main__":
    cli.run(main, Config, "binary", PRESETS)
