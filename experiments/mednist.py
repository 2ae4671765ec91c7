"""Tells kinds of medical images apart: `python -m experiments.mednist mednist.zip`.

Data: MedNIST, gray images of 64x64 pixels of six kinds (abdomen CT, breast MRI, chest CT, chest X-ray, hand X-ray, head
CT), put together from TCIA, the RSNA and the NIH. Whatever parts an archive has, all its images are divided by a
stratified draw with a fixed seed: 20 % for the test, and of the others 10 % for validation. The kinds differ so much
that almost any classifier separates them, and the images have no patient numbers: images of one patient may be on both
sides, and the accuracy says nothing about new patients.

Measured are the accuracy and the expected calibration error (15 bins) on the whole test set, before and after the
temperature that is fitted on the validation rows (Guo et al., 2017, arXiv:1706.04599); where all of these are right,
there is nothing to fit, and it stays 1. Grad-CAM (Selvaraju et al.,
2016, arXiv:1610.02391) shows where the network looks. This is no medical device.
"""

import dataclasses
import pathlib
import re
from typing import Any

import jax
import numpy as np
import tyro

import jaxcnn as jc
from experiments import archives, cli, common, inference, settings
from experiments.explain import draw
from jaxcnn import explain, runs
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.runs.signals import Signals
from jaxcnn.runs.single import pixels

CLASSES = ("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT")
FILE = re.compile(rf"(?:.*/)?({'|'.join(CLASSES)})/(\w+\.jpe?g)", re.IGNORECASE)
SPLIT_SEED, TEST_SHARE, BINS = 0, 0.2, 15
NOTICE = "This is no medical device: it tells kinds of images apart, and must not be used on patients."


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train, evaluate or use a classifier of medical images."""

    data: tyro.conf.Positional[str] = ""
    """The archive, or a folder with a folder per class."""
    unpacked: str = ""
    """Folder into which the archive is unpacked; by default checkpoints/data/mednist."""
    model: str = "cnn"
    """cnn, resnet18 or another of jaxcnn.models.MODELS."""
    epochs: int = 15
    """Passes over the training rows."""
    batch_size: int = 32
    """Rows in one update, over all devices."""
    learning_rate: float = 4e-3
    """Highest value of the one-cycle schedule of AdamW."""
    weight_decay: float = 1e-2
    """Weight decay of kernels; biases and norm scales have none."""
    ema: float = 0.99
    """Decay of the average of the weights that is validated and tested; 0 uses the weights themselves."""
    shown: int = 6
    """Test images of which Grad-CAM pictures are drawn."""


PRESETS = {"smoke": {"epochs": 1, "max_steps": 2, "batch_size": 8, "limit_examples": 24, "ema": 0.0, "shown": 2}}


def place(name: str) -> str | None:
    """Return where a file of the archive goes: `Hand/000042.jpeg`; the parts that an archive has are not kept."""
    found = FILE.fullmatch(name)
    return f"{found[1]}/{found[2]}" if found else None


def source(config: Config) -> dict[str, Any]:
    """Return the arguments of `jc.data.folder`; the split does not depend on the seed of the run."""
    return {
        "path": archives.folder_of("mednist", config, place), "classes": list(CLASSES), "seed": SPLIT_SEED,
        "test_fraction": TEST_SHARE, "validation_fraction": config.validation_fraction, "channels": 1,
    }  # fmt: skip


def plan(config: Config) -> runs.Plan:
    """Make the plan from the flags."""
    rate, decay, read = jc.optim.check_rate(config.learning_rate), config.weight_decay, source(config)
    skipped = settings.Skipped()
    splits = jc.data.folder(**read, on_bad=skipped if config.on_bad_example == "skip" else None)
    image = splits.train.example()["image"]
    build = {
        "model": common.model(config.model, config, num_classes=len(CLASSES)),
        "task": {"name": "classification", "options": common.pixel_statistics(splits.train)},
        "ema": config.ema,
        "image": {"shape": list(image.shape[1:]), "dtype": str(image.dtype)},
    }
    change = jc.augment.affine(degrees=10, scale=0.1, shift=0.05)

    def optimizer(steps):
        return jc.optim.adamw(jc.optim.one_cycle(rate, steps=steps), weight_decay=decay)

    def wrap(step):
        return jc.augmented(step, change)

    return runs.Plan(
        runs.build(build)[1], splits, optimizer, wrap=wrap, ema=config.ema, build=build, dataset="mednist",
        skipped=skipped, source=runs.source("folder", read),
    )  # fmt: skip


def measure(loaded: runs.TrainedRun, data: jc.data.Splits) -> dict[str, Any]:
    """Measure accuracy and calibration on the whole test set, with a temperature from the validation rows."""
    logits, rows = jc.collect(loaded.task.predict, loaded.variables, data.valid, keep=["label"])
    # where every validation row is right, the likelihood only grows as the temperature falls, and none is best
    perfect = bool((logits.argmax(-1) == rows["label"]).all())
    temperature = 1.0 if perfect else jc.protocol.temperature(logits, rows["label"])
    logits, rows = jc.collect(loaded.task.predict, loaded.variables, data.test, keep=["label"])
    right, count = float((logits.argmax(-1) == rows["label"]).mean()), len(logits)
    ece = [jc.metrics.calibration(BINS)(logits / t, rows).compute()["ece"] for t in (1.0, temperature)]
    return {
        "accuracy": right, "accuracy_interval": list(jc.metrics.wilson_interval(right, count)), "count": count,
        "temperature": temperature, "validation_rows_all_right": perfect, "ece_before": ece[0], "ece": ece[1],
        "notice": NOTICE,
    }  # fmt: skip


def look(config: Config, loaded: runs.TrainedRun, data: jc.data.Splits, path: pathlib.Path) -> None:
    """Draw where the network looks in test images, one of each class in turn."""
    order = np.argsort([int((data.test.label[:i] == k).sum()) for i, k in enumerate(data.test.label)], kind="stable")
    rows = data.test.take(order[: config.shown])
    image = explain.prepared(loaded, rows.arrays["image"])
    shares = np.asarray(jc.tasks.probabilities(loaded.task.predict(loaded.variables, dict(rows.arrays))))
    heat = jax.jit(lambda v, x, k: explain.grad_cam(loaded.model, v, x, k))(loaded.variables, image, shares.argmax(-1))
    titles = [f"{CLASSES[k]}\nfound: {CLASSES[p.argmax()]}" for k, p in zip(rows.label, shares, strict=True)]
    draw(str(path), np.asarray(rows.arrays["image"]), titles, {"grad_cam": np.asarray(heat)})


def show(config: Config, loaded: runs.TrainedRun) -> list[dict[str, Any]]:
    """Print class and calibrated probabilities of each image of `--predict`."""
    saved = files.read_json(pathlib.Path(config.checkpoint) / "mednist.json")
    images = np.stack([pixels(loaded, pathlib.Path(path)) for path in config.predict])
    logits = loaded.task.predict(loaded.variables, {"image": images})
    shares = np.asarray(jc.tasks.probabilities(logits / saved["temperature"]))
    found = []
    for path, row in zip(config.predict, shares, strict=True):
        named = {name: round(float(p), 6) for name, p in zip(CLASSES, row, strict=True)}
        found.append({"image": path, "class": CLASSES[row.argmax()], "probabilities": named, "notice": NOTICE})
        print(files.to_json(found[-1]), flush=True)
    return found


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Evaluate, predict or train, as the flags say."""
    if config.evaluate:
        return inference.evaluate_run("mednist", config, config.data and str(files.expanded(config.data)))
    if config.predict:
        loaded = jc.load_run(config.checkpoint)
        if loaded.config["experiment"] != "mednist":
            other = loaded.config["experiment"]
            raise jc.InputError(f"--checkpoint {visible(config.checkpoint)}: a run of {other}, not of mednist")
        return show(config, loaded)
    made = plan(config)
    if not common.train("mednist", config, made, signals, opened):  # another process has the results
        return None
    folder, loaded = opened[-1], jc.load_run(opened[-1])
    values = measure(loaded, made.data)
    files.write_json(folder / "mednist.json", values)
    print(files.to_json(values), flush=True)
    if config.shown > 0:
        look(config, loaded, made.data, folder / "grad_cam.png")
    return values


if __name__ == "__main__":
    cli.run(main, Config, "mednist", PRESETS)
