"""Tells classes of time series apart: `python -m experiments.series aeon-1.6.0-py3-none-any.whl --problem ArrowHead`.

Data: ItalyPowerDemand (24 hours of power demand, from October to March or from April to September; 67 training series)
and ArrowHead (outlines of projectile points of three classes; 36) of the UCR archive (Dau et al., 2019,
arXiv:1810.07758) with its split, which the Python package aeon has inside: `pip download --no-deps aeon==1.6.0`. The
network is one InceptionTime (Ismail Fawaz et al., 2020, arXiv:1909.04939), trained on all training series for a fixed
number of epochs; what a run prints as validation is measured on these same series. It must be better than the nearest
training series, by the Euclidean distance (`nearest`) and by dynamic time warping (`nearest_dtw`), measured beside it.
With `--tune`, a fifth of the training series, drawn with a fixed seed, takes the place of the test series, which are
then not measured.
"""

import dataclasses
import pathlib
import re
from typing import Any

import numpy as np
import tyro

import jaxcnn as jc
from experiments import archives, cli, common, pixels, settings
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.data.series import unlabelled
from jaxcnn.runs.signals import Signals

PROBLEMS = ("ItalyPowerDemand", "ArrowHead")
FILE = re.compile(r"(?:.*/)?((\w+)/\2_(?:TRAIN|TEST)\.ts)")


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train, evaluate or use a network that tells classes of time series apart."""

    data: tyro.conf.Positional[str] = ""
    """The wheel of aeon, or a folder with ItalyPowerDemand/ItalyPowerDemand_TRAIN.ts and so on."""
    unpacked: str = ""
    """Folder into which the wheel is unpacked; by default checkpoints/data/series."""
    problem: str = "ItalyPowerDemand"
    """ItalyPowerDemand or ArrowHead."""
    tune: bool = False
    """Measure on a fifth of the training series, to choose settings."""
    filters: int = 32
    """Channels of each convolution; a module has four times as many."""
    epochs: int = 300
    """Passes over the training rows."""
    batch_size: int = 16
    """Rows in one update, over all devices."""
    learning_rate: float = 2e-3
    """Highest value of the one-cycle schedule of AdamW."""
    weight_decay: float = 1e-2
    """Weight decay of kernels; biases and norm scales have none."""
    ema: float = 0.99
    """Decay of the average of the weights that is validated and tested; 0 uses the weights themselves."""
    validations: int = 3
    """Number of validations in a run."""


PRESETS = {"smoke": {"epochs": 1, "max_steps": 2, "batch_size": 4, "limit_examples": 8, "filters": 2, "ema": 0.0}}


def place(name: str) -> str | None:
    """Return where a file of the wheel goes: `ArrowHead/ArrowHead_TRAIN.ts` and so on."""
    found = FILE.fullmatch(name)
    return found[1] if found and found[2] in PROBLEMS else None


def source(config: Config) -> dict[str, Any]:
    """Return the arguments of `jc.data.series`."""
    settings.one_of("--problem", config.problem, PROBLEMS)
    path = archives.folder_of("series", config, place) / config.problem
    return {"path": str(path), "validation_fraction": 0.2 if config.tune else 0.0}


def plan(config: Config) -> runs.Plan:
    """Make the plan from the flags."""
    settings.unused(config, "validation_fraction", instead="the data have fixed parts")
    if not config.tune:  # nothing is held out
        settings.unused(config, "early_stopping", instead="give --epochs, or choose with --tune")
    rate, decay, read = jc.optim.check_rate(config.learning_rate), config.weight_decay, source(config)
    splits = jc.data.series(**read)
    valid, test = (splits.valid, splits.valid) if config.tune else (splits.train, splits.test)
    splits, row = jc.data.Splits(splits.train, valid, test), splits.train.example()
    options = {"num_classes": len(splits.train.classes), "filters": config.filters, "bottleneck": config.filters}
    build = {
        "model": common.model("inception_time", config, **options),
        "task": {"name": "classification", "options": {"field": "series", "also": ["length"]}},
        "ema": config.ema,
        "inputs": {
            name: {"shape": list(row[name].shape[1:]), "dtype": str(row[name].dtype)} for name in ("series", "length")
        },
    }

    def optimizer(steps):
        return jc.optim.adamw(jc.optim.one_cycle(rate, steps=steps), weight_decay=decay)

    return runs.Plan(
        runs.build(build)[1], splits, optimizer, ema=config.ema, build=build, dataset=config.problem, unit="series",
        best=False, source=runs.source("series", read), validations=config.validations,
    )  # fmt: skip


def warped(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the distance by dynamic time warping (Sakoe and Chiba, 1978) of `[N, T]` to `[M, T]`, `[N, M]`."""
    steps = b.shape[1]
    before = [np.full((len(a), len(b)), np.inf) for _ in range(steps + 1)]
    before[0] = np.zeros((len(a), len(b)))
    for i in range(a.shape[1]):
        row = [np.full((len(a), len(b)), np.inf)]
        for j in range(steps):
            best = np.minimum(np.minimum(before[j], before[j + 1]), row[j])
            row.append((a[:, i, None] - b[None, :, j]) ** 2 + best)
        before = row
    return np.sqrt(before[-1])


def nearest(splits: jc.data.Splits) -> dict[str, float]:
    """Measure the nearest training series, by both distances; series must have one channel and one length."""
    known, rows = (np.asarray(part.arrays["series"], np.float64)[..., 0] for part in (splits.train, splits.test))
    found = {"nearest": np.linalg.norm(rows[:, None] - known[None], axis=-1), "nearest_dtw": warped(rows, known)}
    label = splits.train.label
    return {name: float((label[d.argmin(1)] == splits.test.label).mean()) for name, d in found.items()}


def measure(config: Config, loaded: runs.TrainedRun, data: jc.data.Splits) -> dict[str, Any]:
    """Measure a network and the nearest training series on the test series."""
    logits, rows = jc.collect(loaded.task.predict, loaded.variables, data.test, keep=["label"])
    right = np.asarray(logits).argmax(-1) == rows["label"]
    return {"problem": config.problem, "accuracy": float(right.mean()), "series": len(right), **nearest(data)}


def show(config: Config, loaded: runs.TrainedRun) -> None:
    """Print the class and the probabilities of each series in the files of `--predict`, which have no labels."""
    classes = loaded.config["classes"]
    for path in map(pathlib.Path, config.predict):
        shares = np.asarray(jc.tasks.probabilities(loaded.task.predict(loaded.variables, unlabelled(path)[0])))
        for number, row in enumerate(shares.tolist()):
            answer = {"class": classes[int(np.argmax(row))], "probabilities": dict(zip(classes, row, strict=True))}
            print(files.to_json({"file": str(path), "series": number} | answer), flush=True)


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Evaluate, predict or train, as the flags say."""
    if config.checkpoint:
        saved = runs.read_config(config.checkpoint)["settings"]
        found = {name: saved.get(name, getattr(config, name)) for name in ("problem", "tune")}
        config = dataclasses.replace(config, **found)
    return pixels.main("series", config, signals, opened, plan, measure, show)


if __name__ == "__main__":
    cli.run(main, Config, "series", PRESETS)
