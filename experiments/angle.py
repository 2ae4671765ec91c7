"""Learns by which angle a digit is turned: `python -m experiments.angle`, a regression of one number from images.

Each image of MNIST (or of the embedded digits) is turned by an angle that is drawn once, and the network learns this
angle in degrees. The slant of the writer's hand adds noise. The same harness trains it as trains the classifiers.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

import jaxcnn as jc
from experiments import cli, common, inference, mnist, settings
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.core.types import scalars
from jaxcnn.runs.signals import Signals


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train, evaluate or use a network that tells by which angle a digit is turned."""

    dataset: str = "auto"
    """auto (MNIST if available, otherwise digits), mnist, digits, any TFDS name, or a path: an image folder, an .npz
    file, or a folder of IDX files."""
    data_dir: str = ""
    """Folder of prepared TFDS sets; by default TFDS_DATA_DIR, otherwise the default folder of TFDS."""
    angles: float = 45.0
    """Largest angle in either direction, in degrees, above 0 and at most 180."""
    model: str = "cnn"
    """cnn, lenet5, mlp, resnet18 or another of jaxcnn.models.MODELS."""
    learning_rate: float = 4e-3
    """Highest value of the one-cycle schedule of AdamW."""
    weight_decay: float = 1e-2
    """Weight decay of kernels; biases and norm scales have none."""
    ema: float = 0.99
    """Decay of the average of the weights that is validated and tested; 0 uses the weights themselves."""


PRESETS = {"smoke": {"epochs": 1, "max_steps": 8, "batch_size": 32, "limit_examples": 256}}


def turned(data: Any, angles: float, seed: int) -> jc.data.Resident:
    """Turn each image by a random angle.

    Args:
        data: images in memory.
        angles: largest angle in either direction, in degrees; the angles are uniformly distributed.
        seed: seed of the angles.

    Returns:
        The images, with the angle in degrees, counter-clockwise, as `"target"`.

    Raises:
        InputError: the images are not in memory.

    """
    from scipy.ndimage import rotate

    if not hasattr(data, "arrays"):
        raise jc.InputError("--dataset: the images are streamed; give data that fit in memory, such as mnist")
    target = np.random.default_rng(seed).uniform(-angles, angles, data.size).astype(np.float32)
    images = np.asarray(data.arrays["image"])
    found = np.stack([rotate(x, angle, reshape=False, order=1) for x, angle in zip(images, target, strict=True)])
    return jc.data.Resident({"image": found, "target": target})


def load(config: Config) -> tuple[str, jc.data.Splits]:
    """Return the name of the data, and the turned images."""
    if not 0 < config.angles <= 180:
        raise jc.InputError(f"--angles {config.angles}: must be above 0 and at most 180")
    flags = {"dataset": config.dataset, "data_dir": config.data_dir, "validation_fraction": config.validation_fraction}
    name, splits, _ = mnist.load(mnist.Config(**flags))
    return name, jc.data.Splits(*(turned(part, config.angles, seed) for seed, part in enumerate(splits)))


def plan(config: Config) -> runs.Plan:
    """Make the plan from the flags."""
    rate, model = jc.optim.check_rate(config.learning_rate), common.model(config.model, config, num_classes=1)
    name, splits = load(config)
    image = splits.train.example()["image"]
    target = {"center": 0.0, "scale": config.angles / 3**0.5, "limits": [-config.angles, config.angles]}
    target |= common.pixel_statistics(splits.train) | ({"size": [28, 28]} if max(image.shape[1:3]) < 28 else {})
    build = {
        "model": model, "task": {"name": "regression", "options": target},
        "ema": config.ema, "image": {"shape": list(image.shape[1:]), "dtype": str(image.dtype)},
    }  # fmt: skip

    def optimizer(steps):
        return jc.optim.adamw(jc.optim.one_cycle(rate, steps=steps), weight_decay=config.weight_decay)

    return runs.Plan(runs.build(build)[1], splits, optimizer, ema=config.ema, build=build, dataset=name)


def evaluate(config: Config) -> dict[str, Any]:
    """Print the test metrics of `--checkpoint` on its own turned images as one JSON line."""
    loaded = jc.load_run(config.checkpoint)
    if loaded.config["experiment"] != "angle":
        raise jc.InputError(f"--checkpoint {config.checkpoint}: a run of {loaded.config['experiment']}, not of angle")
    kept = {k: loaded.config["settings"][k] for k in ("angles", "validation_fraction")}
    chosen = loaded.config["data"]["name"] if config.dataset == "auto" else config.dataset
    name, splits = load(dataclasses.replace(config, dataset=chosen, **kept))
    values = scalars(runs.evaluate(loaded, splits.test, batch_size=config.eval_batch_size))
    print(files.to_json(values | {"data": name, "step": loaded.step, "checkpoint": config.checkpoint}), flush=True)
    return values


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Evaluate, predict or train, as the flags say."""
    if config.evaluate:
        return evaluate(config)
    if config.predict:
        return inference.predict(config)
    if config.resume and config.dataset == "auto":  # continue with the data that auto chose
        config = dataclasses.replace(config, dataset=runs.read_config(config.workdir)["data"]["name"])
    return common.train("angle", config, plan(config), signals, opened)


if __name__ == "__main__":
    cli.run(main, Config, "angle", PRESETS)
