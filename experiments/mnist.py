"""Classifies handwritten digits: `python -m experiments.mnist`.

It trains `models.cnn` on MNIST if TFDS has prepared it or can download it, otherwise on the digits embedded in
scikit-learn. `--tutorial` is the classic recipe: one convolution, 128 units, Adam at 1e-3, batches of 32, 5 epochs.
"""

import dataclasses
import difflib
import pathlib
from typing import Any

import jaxcnn as jc
from experiments import cli, common, inference, settings
from jaxcnn import runs
from jaxcnn.cli import runtime
from jaxcnn.core.text import visible
from jaxcnn.runs.signals import Signals

TUTORIAL = {
    "model": "tutorial", "optimizer": "adam", "schedule": "constant", "learning_rate": 1e-3, "weight_decay": 0.0,
    "batch_size": 32, "epochs": 5, "validation_fraction": 0.05,
    "augment": False, "dropout": 0.0, "ema": 0.0, "early_stopping": 0, "gradient_norm": False,
}  # fmt: skip
SMOKE = {"epochs": 1, "max_steps": 8, "batch_size": 32, "limit_examples": 256}
PRESETS = {"tutorial": TUTORIAL, "smoke": SMOKE}


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train, evaluate or use a classifier of small images."""

    epochs: int | None = None
    """Passes over the training rows; by default 10, or 30 for fewer than 10,000 rows."""
    dataset: str = "auto"
    """auto (MNIST if available, otherwise digits), mnist, digits, any TFDS name, or a path: an image folder, an .npz
    file, or a folder of IDX files. With --evaluate: other data of the same classes to measure --checkpoint on; by
    default its own test data."""
    data_dir: str = ""
    """Folder of prepared TFDS sets; by default TFDS_DATA_DIR, otherwise the default folder of TFDS."""
    image_size: int = 0
    """Side that images are resized to; by default 28 for digits, otherwise as stored."""
    model: str = "cnn"
    """cnn, lenet5, tutorial, mlp, resnet18 or another of jaxcnn.models.MODELS."""
    optimizer: str = "adamw"
    """sgd, adam, adamw or lamb."""
    schedule: str = "one_cycle"
    """Schedule of the learning rate: constant, step (a tenth after 60 % of the steps, a hundredth after 85 %), cosine
    or one_cycle."""
    learning_rate: float = 4e-3
    """Highest value of the schedule."""
    weight_decay: float = 1e-2
    """Weight decay of kernels; biases and norm scales have none."""
    dropout: float = 0.0
    """Share of units dropped before the last layer, in [0, 1)."""
    label_smoothing: float = 0.0
    """Share of the label spread over all classes, in [0, 1)."""
    ema: float = 0.999
    """Decay of the average of the weights that is validated and tested; 0 uses the weights themselves."""
    augment: bool = True
    """Rotate, scale, shear and shift the training images a little."""
    tutorial: bool = False
    """Use the defaults of the classic recipe (conv32-pool-dense128, Adam 1e-3, batch 32, 5 epochs); other flags
    override them."""


def load(config: Config, skipped: settings.Skipped | None = None) -> tuple[str, jc.data.Splits, dict[str, Any]]:
    """Read the data of `--dataset`.

    Args:
        config: the flags.
        skipped: counts unreadable examples, if these are allowed.

    Returns:
        The name of the data, their splits, and how they were read (`runs.source`).

    Raises:
        InputError: `--dataset` names no data.

    """
    settled = {"validation_fraction": config.validation_fraction}
    bad = {"on_bad": (skipped or settings.Skipped()) if config.on_bad_example == "skip" else None}

    def read(source: str, options: dict[str, Any]) -> tuple[str, jc.data.Splits, dict[str, Any]]:
        more = bad if source in ("folder", "tfds") else {}
        more = more | ({"cache": runtime.cache_folder("data")} if source == "tfds" else {})
        options = options | settled
        name = {"digits": "digits", "tfds": options.get("name")}.get(source, config.dataset)
        return name, jc.data.SOURCES[source](**options, **more), runs.source(source, options)

    if config.dataset == "auto":
        try:
            return read(*runs.find("mnist", config.data_dir or None))
        except jc.InputError as error:
            print(f"dataset auto: using the embedded digits, because {visible(error)} (--data-dir)", flush=True)
            return read("digits", {})
    for known in ("auto", "digits"):
        near = difflib.SequenceMatcher(None, config.dataset.lower(), known).ratio() > 0.75
        if near and config.dataset != known and not pathlib.Path(config.dataset).exists():
            raise jc.InputError(f"--dataset {visible(config.dataset)!r}: unknown; did you mean {known!r}?")
    try:
        source, options = runs.find(config.dataset, config.data_dir or None)
    except jc.InputError as error:
        raise jc.InputError(f"--dataset {error}") from error
    return read(source, options | ({"size": config.image_size or None} if source in ("folder", "tfds") else {}))


def plan(config: Config) -> runs.Plan:
    """Make the plan from the flags."""
    settings.one_of("--optimizer", config.optimizer, jc.optim.OPTIMIZERS)
    settings.one_of("--schedule", config.schedule, SCHEDULES)
    model = common.model(config.model, config, dropout=config.dropout)
    optimizer(config, 1), jc.layers.check_dropout(config.dropout)  # refuse bad values before data are read
    skipped = settings.Skipped()
    name, splits, source = load(config, skipped)
    size = config.image_size or (28 if name == "digits" else None)
    model["options"]["num_classes"] = len(splits.train.classes)
    example = splits.train.example()["image"]
    task = common.pixel_statistics(splits.train) | {"label_smoothing": config.label_smoothing}
    task |= {"size": [size, size] if size else None}
    build = {
        "model": model, "task": {"name": "classification", "options": task}, "ema": config.ema,
        "image": {"shape": list(example.shape[1:]), "dtype": str(example.dtype)},
    }  # fmt: skip
    change = jc.augment.affine(degrees=10, scale=0.1, shear=0.1, shift=0.05)
    wrap = (lambda step: jc.augmented(step, change)) if config.augment else (lambda step: step)
    return runs.Plan(
        runs.build(build)[1], splits, lambda steps: optimizer(config, steps), wrap=wrap, ema=config.ema, build=build,
        dataset=name, skipped=skipped, source=source,
    )  # fmt: skip


SCHEDULES = {
    "constant": lambda peak, steps: jc.optim.constant(peak),
    "step": lambda peak, steps: jc.optim.step(peak, boundaries={steps * 60 // 100: 0.1, steps * 85 // 100: 0.1}),
    "cosine": lambda peak, steps: jc.optim.cosine(peak, steps=steps, warmup=steps // 20),
    "one_cycle": lambda peak, steps: jc.optim.one_cycle(peak, steps=steps, warmup=steps * 15 // 100),
}


def optimizer(config: Config, steps: int) -> Any:
    """Make the optimiser for a run of `steps` updates."""
    rate = SCHEDULES[config.schedule](jc.optim.check_rate(config.learning_rate), steps)
    return jc.optim.OPTIMIZERS[config.optimizer](rate, weight_decay=config.weight_decay)


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Evaluate, predict or train, as the flags say."""
    if config.evaluate:
        place = "" if config.dataset == "auto" else config.dataset
        return inference.evaluate_run("mnist", config, place, config.data_dir)
    if config.predict:
        return inference.predict(config)
    if config.resume and config.dataset == "auto":  # continue with the data that auto chose
        config = dataclasses.replace(config, dataset=runs.read_config(config.workdir)["data"]["name"])
    chosen = plan(config)
    epochs = (10 if chosen.data.train.size >= 10_000 else 30) if config.epochs is None else config.epochs
    return common.train("mnist", dataclasses.replace(config, epochs=epochs), chosen, signals, opened)


if __name__ == "__main__":
    cli.run(main, Config, "mnist", PRESETS)
