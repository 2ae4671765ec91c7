"""Names the direction in which a digit moves: `python -m experiments.moving_digits MNIST`.

Task: clips of 32x32 pixels, in which one of MNIST's digits moves in one of eight directions, by one to three pixels per
frame; training, validation and test clips show different digits. What leaves the frame on one side enters it on the
other, and the first place is uniform, so that the place of the digit in each single frame says nothing about the
direction: a network that sees one frame (`--frames 1`) is right one time in eight. `--model cnn3d` is a small C3D (Tran
et al., 2014, arXiv:1412.0767), `cnn_gru` a GRU over a convolutional network for each frame (Donahue et al., 2014,
arXiv:1411.4389).
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import tyro

import jaxcnn as jc
from experiments import cli, common, digit_clips, settings
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.runs.signals import Signals

FRAME = 32  # side of a frame in pixels
WAYS = {
    "down": (1, 0), "down-left": (1, -1), "down-right": (1, 1), "left": (0, -1), "right": (0, 1), "up": (-1, 0),
    "up-left": (-1, -1), "up-right": (-1, 1),
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "cnn3d": {"widths": [16, 32, 64], "first_pool": [1, 2, 2]},
    "cnn_gru": {"backbone": {"name": "cnn", "options": {"widths": [16, 32, 32]}}, "flatten": 128, "hidden": 128},
}


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train or evaluate a network that names the direction of a moving digit."""

    data: tyro.conf.Positional[str] = ""
    """Folder of MNIST's IDX files."""
    model: str = "cnn3d"
    """cnn3d or cnn_gru."""
    frames: int = 8
    """Frames of a clip; 1 shows that a single frame is not enough."""
    clips: int = 12_000
    """Number of training clips; a sixth of it for validation and for the test."""
    epochs: int = 4
    """Passes over the training clips."""
    batch_size: int = 64
    """Rows in one update, over all devices."""
    learning_rate: float = 4e-3
    """Highest value of the one-cycle schedule of AdamW."""
    weight_decay: float = 1e-2
    """Weight decay of kernels; biases and norm scales have none."""


PRESETS = {"smoke": {"epochs": 1, "max_steps": 2, "batch_size": 8, "clips": 96}}


def clips(digits: np.ndarray, count: int, frames: int, seed: int) -> jc.data.Resident:
    """Make clips `[N, T, 32, 32, 1]` and the number of their direction in `WAYS`.

    Args:
        digits: `[M, 14, 14]` uint8, from which each clip has one.
        count: number of clips.
        frames: of a clip.
        seed: of everything that is drawn.

    """
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.arange(count) % len(WAYS)).astype(np.int32)
    step = np.array(list(WAYS.values()))[label] * rng.integers(1, 4, (count, 1))
    begin = rng.integers(0, FRAME, (count, 2))
    corners = begin[:, None] + step[:, None] * np.arange(frames)[:, None]
    chosen = digits[rng.integers(0, len(digits), count)]
    image = digit_clips.drawn(chosen, corners, FRAME)[..., None]
    return jc.data.Resident({"image": image, "label": label}, tuple(WAYS))


def load(config: Config) -> jc.data.Splits:
    """Make the clips of the three parts; they do not depend on `--seed`."""
    if config.frames < 1 or config.clips < 48:
        raise jc.InputError(f"--frames {config.frames}, --clips {config.clips}: must be at least 1 and 48")
    digits = digit_clips.digits(config.data, "moving_digits")
    sizes = zip(digit_clips.PARTS, (config.clips, config.clips // 6, config.clips // 6), strict=True)
    return jc.data.Splits(*(clips(digits[part][0], n, config.frames, i) for i, (part, n) in enumerate(sizes)))


def plan(config: Config) -> runs.Plan:
    """Make the plan from the flags."""
    settings.unused(config, "validation_fraction", instead="the data have fixed parts")
    settings.one_of("--model", config.model, MODELS)
    rate, decay = jc.optim.check_rate(config.learning_rate), config.weight_decay
    splits = load(config)
    image = splits.train.example()["image"]
    build = {
        "model": common.model(config.model, config, num_classes=len(WAYS), **MODELS[config.model]),
        "task": {"name": "classification", "options": {"dims": 3, **common.pixel_statistics(splits.train)}},
        "image": {"shape": list(image.shape[1:]), "dtype": str(image.dtype)},
    }

    def optimizer(steps):
        return jc.optim.adamw(jc.optim.one_cycle(rate, steps=steps), weight_decay=decay)

    return runs.Plan(runs.build(build)[1], splits, optimizer, build=build, dataset="moving_digits")


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Train, or measure a run on the test clips."""
    if config.predict:
        raise jc.InputError("--predict: images do not move; use --evaluate, or jc.load_run on clips of your own")
    if not config.evaluate:
        return common.train("moving_digits", config, plan(config), signals, opened)
    loaded = jc.load_run(config.checkpoint)
    made = dataclasses.replace(config, frames=loaded.config["build"]["image"]["shape"][0])
    values = runs.evaluate(loaded, load(made).test)
    print(files.to_json({"loss": values["loss"], "accuracy": values["accuracy"], "count": values["count"]}), flush=True)
    return values


if __name__ == "__main__":
    cli.run(main, Config, "moving_digits", PRESETS)
