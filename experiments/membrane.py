"""Finds the membranes of cells in electron microscopy: `python -m experiments.membrane membrane.zip`.

Task and data: the ISBI 2012 challenge (Arganda-Carreras et al., 2015, doi:10.3389/fnana.2015.00142), of which 30 slices
of 512x512 pixels have labels; membranes are black, value 0. Slices 0 to 19 are for training, 20 to 23 for validation
and 24 to 29 for the test. The network is the U-Net of Ronneberger et al. (2015, arXiv:1505.04597), with norms and
fewer channels. Measured are the accuracy of pixels, the IoU of the membranes, and the Rand F-score of the cells, whose
threshold is chosen on the validation slices: 0.9236 ± 0.0005, 0.673 ± 0.002 and 0.831 ± 0.005 with seeds 0 to 2, ten
minutes each on two cores. `python -m experiments.baselines membrane membrane.zip` has what this must be better than.
"""

import dataclasses
import pathlib
import re
from typing import Any

import numpy as np

import jaxcnn as jc
from experiments import archives, cli, pixels, settings
from jaxcnn import runs
from jaxcnn.metrics import components, rand_fscore
from jaxcnn.runs.signals import Signals

CLASSES = ("membrane", "cell")  # the values 0 and 255
FIRST = {"test": 24, "val": 20, "train": 0}  # number of the first slice of each part
SLICE = re.compile(r"membrane/train/(image|label)/(\d{1,2})\.png")
THRESHOLDS = np.linspace(0.1, 0.9, 17)


@dataclasses.dataclass(frozen=True)
class Config(pixels.Config):
    """Train, evaluate or use a network that finds the membranes of cells."""

    epochs: int = 240
    """Passes over the training slices, of which each gives one window."""


PRESETS = {
    "smoke": {
        "epochs": 1, "max_steps": 3, "batch_size": 2, "limit_examples": 2, "crop": 32, "widths": (4, 8), "ema": 0.0,
        "views": False,
    }
}  # fmt: skip


def place(name: str) -> str | None:
    """Return where a file of the archive goes: `train/images/07.png`, `train/masks/07.png` and so on."""
    if not (found := SLICE.fullmatch(name)):
        return None
    number = int(found[2])
    part = next(part for part, first in FIRST.items() if number >= first)
    return f"{part}/{'images' if found[1] == 'image' else 'masks'}/{number:02}.png"


def load(config: Config) -> jc.data.Splits:
    """Read the slices of the three parts."""
    return jc.data.masks(**source(config))


def source(config: Config) -> dict[str, Any]:
    """Return the arguments of `jc.data.masks`."""
    return {"path": archives.folder_of("membrane", config, place), "classes": CLASSES, "values": (0, 255)}


def plan(config: Config) -> runs.Plan:
    """Make the plan from the flags."""
    settings.unused(config, "validation_fraction", instead="the data have fixed parts")
    change = jc.augment.compose(jc.augment.flip, jc.augment.flip_vertical)
    return pixels.plan("membrane", config, load(config), change, runs.source("masks", source(config)))


def scores(valid: Any, valid_mask: Any, test: Any, test_mask: Any) -> dict[str, float]:
    """Measure shares of membrane `[N, H, W]` against masks, in which membranes are 0.

    Args:
        valid: shares of the validation slices, on which the threshold of the Rand F-score is chosen.
        valid_mask: their masks.
        test: shares of the test slices.
        test_mask: their masks.

    Returns:
        `accuracy` and `iou` of the membranes at a share of one half, `rand_f` as a mean over the slices, `threshold`.

    """

    def rand_f(found: Any, masks: Any, threshold: float) -> float:
        pairs = zip(np.asarray(found), np.asarray(masks), strict=True)
        return float(np.mean([rand_fscore(components(x < threshold), components(mask > 0)) for x, mask in pairs]))

    best = float(max(THRESHOLDS, key=lambda threshold: rand_f(valid, valid_mask, threshold)))
    here, there = np.asarray(test) >= 0.5, np.asarray(test_mask) == 0
    return {
        "accuracy": float((here == there).mean()),
        "iou": float((here & there).sum() / max((here | there).sum(), 1)),
        "rand_f": rand_f(test, test_mask, best),
        "threshold": best,
    }


def membranes(config: Config, loaded: runs.TrainedRun, images: Any) -> np.ndarray:
    """Return the share of membrane of each pixel, `[N, H, W]`, in tiles of 256 pixels and over up to eight views."""
    views = jc.augment.pixel_views(rotate=True) if config.views else []
    return pixels.shares(loaded, images, tile=256, views=views)[..., 0]


def measure(config: Config, loaded: runs.TrainedRun, data: jc.data.Splits) -> dict[str, float]:
    """Measure a network on the test slices."""
    found = []
    for rows in (data.valid, data.test):
        found += [membranes(config, loaded, rows.arrays["image"]), rows.arrays["mask"]]
    return scores(*found)


def show(config: Config, loaded: runs.TrainedRun) -> None:
    """Draw the membranes in the images of `--predict`."""

    def mask(image: np.ndarray) -> np.ndarray:
        return (membranes(config, loaded, image[None])[0] < 0.5).astype(np.uint8)

    pixels.draw(config, mask, 1, background=1, colours=[(213, 94, 0), (255, 255, 255)])


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Evaluate, predict or train, as the flags say."""
    return pixels.main("membrane", config, signals, opened, plan, measure, show)


if __name__ == "__main__":
    cli.run(main, Config, "membrane", PRESETS)
