"""What the experiments with a class for each pixel share: their flags, the plan, and predictions."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tyro

import jaxcnn as jc
from experiments import common, settings
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.data.drawing import indexed_png, overlay, png
from jaxcnn.data.folder import read_image
from jaxcnn.runs.signals import Signals


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """The flags of an experiment with a class for each pixel."""

    data: tyro.conf.Positional[str] = ""
    """The archive, or a folder with train/, val/ and test/ that have images/ and masks/."""
    unpacked: str = ""
    """Folder into which the archive is unpacked; by default checkpoints/data/ and the experiment's name."""
    crop: int = 128
    """Side of the windows that are cut at random from training images."""
    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Channels of each level of the U-Net, from the image down."""
    dice: float = 0.0
    """Weight of the Dice loss beside the cross-entropy."""
    learning_rate: float = 2e-3
    """Highest value of the one-cycle schedule of AdamW."""
    weight_decay: float = 1e-2
    """Weight decay of kernels; biases and norm scales have none."""
    ema: float = 0.99
    """Decay of the average of the weights that is validated and tested; 0 uses the weights themselves."""
    validations: int = 10
    """Number of validations in a run."""
    views: bool = True
    """Average the final predictions over mirrored images."""
    measure_test: bool = True
    """Measure on the test images; if not, on those of validation, to choose among settings."""
    batch_size: int = 8
    """Rows in one update, over all devices."""
    eval_batch_size: int = 2
    """Rows per batch in evaluation, over all devices; changes the speed, not the result."""


def plan(
    name: str,
    config: Config,
    splits: jc.data.Splits,
    change: jc.augment.Transform,
    source: dict[str, Any],
    *,
    windows: jc.augment.Transform | None = None,
    dims: int = 2,
    **options: Any,
) -> runs.Plan:
    """Make the plan: a U-Net, trained on random windows.

    Args:
        name: of the data.
        config: the flags.
        splits: images and masks.
        change: augmentation of the windows.
        source: how the rows were read, of `runs.source`.
        windows: cuts a window from each training image; None for `config.crop` pixels at a random place.
        dims: number of spatial axes.
        **options: of `tasks.segmentation`.

    """
    rate, decay = jc.optim.check_rate(config.learning_rate), config.weight_decay
    if config.limit_examples:
        splits = jc.data.Splits(*(runs.limited(part, config.limit_examples) for part in splits))
    if not config.measure_test:
        splits = splits._replace(test=splits.valid)
    image, classes = splits.train.example()["image"], len(splits.train.classes)
    shape = {"widths": list(config.widths)} | ({"dims": dims} if dims != 2 else {})
    options |= {"dice": config.dice, **common.pixel_statistics(splits.train)}
    build = {
        "model": common.model("unet", config, num_classes=classes, **shape),
        "task": {"name": "segmentation", "options": options},
        "ema": config.ema,
        "image": {"shape": list(image.shape[1:]), "dtype": str(image.dtype)},
    }
    cropped = jc.augment.compose(windows or jc.augment.pad_crop(0, size=config.crop), change)

    def optimizer(steps):
        return jc.optim.adamw(jc.optim.one_cycle(rate, steps=steps), weight_decay=decay)

    def wrap(step):
        return jc.augmented(step, cropped)

    return runs.Plan(
        runs.build(build)[1], splits, optimizer, wrap=wrap, ema=config.ema, build=build, dataset=name, source=source,
        validations=config.validations,
    )  # fmt: skip


def shares(loaded: runs.TrainedRun, images: Any, *, tile: Any, views: list[Any]) -> np.ndarray:
    """Return the share of each class in each pixel, `[N, *spatial, K]`, averaged over tiles and views.

    Args:
        loaded: the run.
        images: `[N, *spatial, C]`.
        tile: size of a tile, as in `tasks.predict_tiled`.
        views: of `augment.pixel_views`; empty for none.

    """
    predict = loaded.task.predict
    mean = jc.augment.test_time_augmentation(predict, views, over="softmax") if views else predict
    return np.stack([jc.tasks.predict_tiled(mean, loaded.variables, x, tile=tile, batch_size=1) for x in images])


def main(
    name: str,
    config: Config,
    signals: Signals,
    opened: list[pathlib.Path],
    plan: Callable[[Any], runs.Plan],
    measure: Callable[[Any, runs.TrainedRun, jc.data.Splits], dict[str, Any]],
    show: Callable[[Any, runs.TrainedRun], None],
) -> Any:
    """Evaluate, predict or train, as the flags say; scores are printed and written to a file in the run's folder.

    Args:
        name: of the experiment.
        config: the flags.
        signals: checked between dispatches.
        opened: receives the run's folder.
        plan: function from the flags to the plan.
        measure: function from the flags, the run and the data to the scores.
        show: draws the predictions that the flags ask for.

    """
    if config.evaluate or config.predict:
        folder = pathlib.Path(config.checkpoint)
        config, loaded = load(name, config)
        if config.predict:
            return show(config, loaded)
        data = plan(config).data
    else:
        made = plan(config)
        if not common.train(name, config, made, signals, opened):  # another process has the results
            return None
        folder, data = opened[-1], made.data
        loaded = jc.load_run(folder)
    values = measure(config, loaded, data)
    files.write_json(folder / f"{name}.json", values)
    print(files.to_json(values), flush=True)
    return values


def load(name: str, config: Config) -> tuple[Config, runs.TrainedRun]:
    """Load the run of `--checkpoint`, and return the flags with the places of its data."""
    loaded = jc.load_run(config.checkpoint)
    if loaded.config["experiment"] != name:
        raise jc.InputError(f"--checkpoint {config.checkpoint}: a run of {loaded.config['experiment']}, not of {name}")
    saved = loaded.config["settings"]
    places = {field: getattr(config, field) or saved[field] for field in ("data", "unpacked")}
    rows = [field for field in ("split", "height", "validation_fraction") if hasattr(config, field)]
    return dataclasses.replace(config, **places, **settings.of_run(config, saved, *rows)), loaded


def draw(
    config: Config,
    predicted: Callable[[np.ndarray], np.ndarray],
    channels: int,
    finish: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] = lambda image, mask, picture: picture,
    **options: Any,
) -> None:
    """Write a mask and an overlay for each image of `--predict` into the run's folder `predictions/`.

    Args:
        config: the flags.
        predicted: function from an image `[H, W, C]` to its mask `[H, W]`.
        channels: of the images.
        finish: function from image, mask and overlay to the overlay that is written.
        **options: of `overlay`.

    """
    folder = pathlib.Path(config.checkpoint) / "predictions"
    folder.mkdir(exist_ok=True)
    for path in map(pathlib.Path, config.predict):
        image = read_image(path, channels, None)
        mask = predicted(image)
        files.write_bytes(folder / f"{path.stem}.mask.png", indexed_png(mask, options.get("colours")))
        files.write_bytes(
            folder / f"{path.stem}.overlay.png", png(finish(image, mask, overlay(image, mask, **options)))
        )
        print(f"{visible(folder / path.stem)}.overlay.png", flush=True)
