"""Names what a driver sees: `python -m experiments.roads camvid_every6th.zip`, eleven classes of a street scene.

Data: CamVid (Brostow et al., 2009, doi:10.1016/j.patrec.2008.04.005) with the eleven classes and the split of SegNet
(Badrinarayanan et al., 2015, arXiv:1511.00561), every sixth image: 62 to train on, 17 to validate on and 39 to test on,
480x360 pixels; pixels of class 11 have no label. Measured are the mean IoU of the classes and the IoU of the road.
`python -m experiments.baselines roads camvid_every6th.zip` has what this must be better than. Predictions are drawn
with the lines of the lane, which are fitted to bright pixels of the predicted road and not scored. Over three seeds,
the mean IoU is 0.375 ± 0.002 (a random forest has 0.267, measured at half that resolution) and that of the road 0.810 ±
0.008, in 18 minutes on one core.
"""

import dataclasses
import pathlib
import re
from typing import Any

import jax
import numpy as np

import jaxcnn as jc
from experiments import archives, cli, lanes, pixels, settings
from jaxcnn import runs
from jaxcnn.runs.signals import Signals

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
ROAD, VOID = CLASSES.index("road"), len(CLASSES)
PICTURE = re.compile(r"CamVid/(train|val|test)(annot)?/([\w-]+\.png)")


@dataclasses.dataclass(frozen=True)
class Config(pixels.Config):
    """Train, evaluate or use a network that names what a driver sees."""

    crop: int = 160
    """Side of the windows of training images."""
    height: int = 180
    """Height of the images that the network sees, before windows are cut; predictions are resized to the old size."""
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Channels of each level of the U-Net, from the image down."""
    epochs: int = 120
    """Passes over the training images, of which each gives one window."""
    dice: float = 0.5
    """Weight of the Dice loss beside the cross-entropy."""
    zoom: tuple[float, float] = (0.25, 1.0)
    """Smallest and largest share of an image that a window covers before it is resized."""
    jitter: float = 0.4
    """Strength of random changes of brightness, contrast and saturation."""


PRESETS = {
    "smoke": {
        "epochs": 1, "max_steps": 3, "batch_size": 2, "limit_examples": 2, "crop": 32, "widths": (4, 8), "ema": 0.0,
        "views": False,
    }
}  # fmt: skip


def place(name: str) -> str | None:
    """Return where a file of the archive goes: `train/images/NAME.png`, `train/masks/NAME.png` and so on."""
    found = PICTURE.fullmatch(name)
    return f"{found[1]}/{'masks' if found[2] else 'images'}/{found[3]}" if found else None


def load(config: Config) -> jc.data.Splits:
    """Read the images of the three parts."""
    return jc.data.masks(**source(config))


def source(config: Config) -> dict[str, Any]:
    """Return the arguments of `jc.data.masks`."""
    folder, size = archives.folder_of("roads", config, place), [config.height, config.height * 4 // 3]
    return {"path": folder, "classes": CLASSES, "ignore_label": VOID, "size": size}


def plan(config: Config) -> runs.Plan:
    """Make the plan from the flags."""
    settings.unused(config, "validation_fraction", instead="the data have fixed parts")
    windows = jc.augment.random_resized_crop(config.crop, scale=config.zoom)
    colors = jc.augment.color_jitter(config.jitter, config.jitter, config.jitter)
    change = jc.augment.compose(jc.augment.flip, colors)
    read = runs.source("masks", source(config))
    return pixels.plan("roads", config, load(config), change, read, windows=windows, ignore_label=VOID)


def scores(predicted: Any, masks: Any) -> dict[str, Any]:
    """Measure classes `[N, H, W]` against masks: `iou` as the mean over the classes, `road`, and `iou_per_class`."""
    true, found = np.asarray(masks).ravel().astype(int), np.asarray(predicted).ravel().astype(int)
    known = true != VOID
    pairs = np.bincount(true[known] * VOID + found[known], minlength=VOID**2).reshape(VOID, VOID)
    values = jc.metrics.Overlap(pairs).compute()
    each = dict(zip(CLASSES, values["iou_per_class"].round(4).tolist(), strict=True))
    accuracy = float(pairs.trace() / max(pairs.sum(), 1))
    return {"iou": values["iou"], "road": each["road"], "accuracy": accuracy, "iou_per_class": each}


def named(config: Config, loaded: runs.TrainedRun, images: Any) -> np.ndarray:
    """Return the class of each pixel, `[N, H, W]`, of whole images, over both views of a scene and its mirror image."""
    views = jc.augment.pixel_views() if config.views else []
    small = np.stack([resized(x / np.float32(255), (config.height, config.height * 4 // 3)) for x in images])
    found = pixels.shares(loaded, small, tile=small.shape[1:3], views=views)
    size = np.shape(images)[1:3]
    return np.stack([resized(x, size).argmax(-1).astype(np.uint8) for x in found])


def resized(image: Any, size: tuple[int, int]) -> np.ndarray:
    """Resize `[H, W, C]` bilinearly, with antialiasing."""
    return np.asarray(jax.image.resize(image, (*size, np.shape(image)[-1]), "linear"))


def measure(config: Config, loaded: runs.TrainedRun, data: jc.data.Splits) -> dict[str, Any]:
    """Measure a network on the test images."""
    whole = jc.data.masks(**source(config) | {"size": None})  # measured in the pixels of the files
    arrays = (whole.test if config.measure_test else whole.valid).arrays
    return scores(named(config, loaded, arrays["image"]), arrays["mask"])


def show(config: Config, loaded: runs.TrainedRun) -> None:
    """Draw the classes and the lines of the lane in the images of `--predict`."""

    def mask(image: np.ndarray) -> np.ndarray:
        return named(config, loaded, image[None])[0]

    def finish(image: np.ndarray, found: np.ndarray, picture: np.ndarray) -> np.ndarray:
        return lanes.drawn(picture, lanes.lines(image, found == ROAD))

    pixels.draw(config, mask, 3, finish, background=None, ignore_label=VOID)


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Evaluate, predict or train, as the flags say."""
    return pixels.main("roads", config, signals, opened, plan, measure, show)


if __name__ == "__main__":
    cli.run(main, Config, "roads", PRESETS)
