"""Finds and counts blood cells in microscope images: `python -m experiments.blood_cells bccd_voc.zip`.

Data: BCCD, 364 images of 640x480 pixels with boxes of red cells, white cells and platelets in Pascal VOC's format, in
the published split of 205, 87 and 72. Three detectors can be compared: `--model fcos` (Tian et al., 2019,
arXiv:1904.01355), `ssd` (Liu et al., 2015, arXiv:1512.02325) and `faster_rcnn` (Ren et al., 2015, arXiv:1506.01497),
each on a narrow ResNet-18 that starts from random weights. Measured is the average precision of COCO on the test
images, with the weights of the best validation. At an overlap of a half it is 0.893 ± 0.002 for faster_rcnn over three
seeds, 20 minutes each on one core; ssd and fcos are in RESULTS.md. This is no medical device.
"""

import dataclasses
import pathlib
import re
from typing import Any

import tyro

import jaxcnn as jc
from experiments import archives, cli, common, inference, settings
from jaxcnn import runs
from jaxcnn.cli import predict
from jaxcnn.core import files
from jaxcnn.runs.signals import Signals

CLASSES = ("Platelets", "RBC", "WBC")
FILE = re.compile(r"(?:.*/)?(Annotations/\w+\.xml|JPEGImages/\w+\.jpg|ImageSets/Main/(?:train|val|trainval|test)\.txt)")
OPTIONS: dict[str, dict[str, Any]] = {
    "fcos": {"width": 64, "depth": 2, "levels": [3, 4, 5], "extra": 0, "candidates": 300},
    "ssd": {"levels": [3, 4, 5], "extras": [64], "scales": [0.08, 0.6], "candidates": 200, "max_detections": 100},
    "faster_rcnn": {
        "levels": [3, 4, 5], "width": 64, "hidden": 128, "anchor_size": 4.0, "candidates": 200, "proposals": 128,
        "sampled": 64,
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train, evaluate or use a detector of blood cells."""

    data: tyro.conf.Positional[str] = ""
    """The archive, or a folder in the format of Pascal VOC."""
    unpacked: str = ""
    """Folder into which the archive is unpacked; by default checkpoints/data/blood_cells."""
    model: str = "fcos"
    """fcos, ssd or faster_rcnn."""
    height: int = 240
    """Height that images are resized to; the width follows from their shape, 4 to 3."""
    width: int = 32
    """Channels of the first stage of the ResNet-18; 64 is the usual network."""
    epochs: int = 40
    """Passes over the training rows."""
    batch_size: int = 8
    """Rows in one update, over all devices."""
    eval_batch_size: int = 8
    """Rows per batch in evaluation, over all devices; changes the speed, not the result."""
    learning_rate: float = 2e-3
    """Highest value of the one-cycle schedule of AdamW."""
    weight_decay: float = 5e-2
    """Weight decay of kernels; biases and norm scales have none."""
    ema: float = 0.99
    """Decay of the average of the weights that is validated and tested; 0 uses the weights themselves."""
    validations: int = 10
    """Number of validations in a run."""


PRESETS = {
    "smoke": {
        "epochs": 1, "max_steps": 2, "batch_size": 2, "limit_examples": 2, "height": 96, "width": 4, "ema": 0.0,
        "eval_batch_size": 2,
    }
}  # fmt: skip


def place(name: str) -> str | None:
    """Return where a file of the archive goes: `JPEGImages/BloodImage_00001.jpg` and so on."""
    found = FILE.fullmatch(name)
    return found[1] if found else None


def source(config: Config) -> dict[str, Any]:
    """Return the arguments of `jc.data.voc`."""
    sides = [config.height, config.height * 4 // 3]
    return {"path": archives.folder_of("blood_cells", config, place), "classes": list(CLASSES), "size": sides}


def plan(config: Config) -> runs.Plan:
    """Make the plan from the flags."""
    settings.unused(config, "validation_fraction", instead="the data have fixed parts")
    settings.one_of("--model", config.model, OPTIONS)
    rate, decay = jc.optim.check_rate(config.learning_rate), config.weight_decay
    if config.height < 32 or config.width < 1:
        raise jc.InputError(f"--height {config.height}, --width {config.width}: must be at least 32 and 1")
    skipped, read = settings.Skipped(), source(config)
    splits = jc.data.voc(**read, on_bad=skipped if config.on_bad_example == "skip" else None)
    image = splits.train.example()["image"]
    body = {"name": "resnet18", "options": {"width": config.width}}
    options = OPTIONS[config.model] | {"backbone": body, "num_classes": len(CLASSES)}
    build = {
        "model": common.model(config.model, config, **options),
        "task": {"name": "detection", "options": common.pixel_statistics(splits.train)},
        "ema": config.ema,
        "image": {"shape": list(image.shape[1:]), "dtype": str(image.dtype)},
    }
    change = jc.augment.compose(
        jc.augment.flip, jc.augment.flip_vertical, jc.augment.scale_jitter((0.7, 1.5)),
        jc.augment.color_jitter(0.2, 0.2, 0.2),
    )  # fmt: skip

    def optimizer(steps):
        return jc.optim.adamw(jc.optim.one_cycle(rate, steps=steps), weight_decay=decay)

    def wrap(step):
        return jc.augmented(step, change)

    return runs.Plan(
        runs.build(build)[1], splits, optimizer, wrap=wrap, ema=config.ema, build=build, dataset="blood_cells",
        skipped=skipped, source=runs.source("voc", read), validations=config.validations,
    )  # fmt: skip


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Evaluate, predict or train, as the flags say; boxes are drawn into the run's folder `predictions/`."""
    if config.evaluate:
        return inference.evaluate_run("blood_cells", config, config.data and str(files.expanded(config.data)))
    if config.predict:
        return predict.predict(predict.Predict(run=config.checkpoint, files=config.predict))
    return common.train("blood_cells", config, plan(config), signals, opened)


if __name__ == "__main__":
    cli.run(main, Config, "blood_cells", PRESETS)
