"""What the experiments with a class for each pixel share: their flags, data from an archive, the plan, predictions."""

import dataclasses
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import tyro

import jaxcnn as jc
from experiments import common, settings
from jaxcnn import runs
from jaxcnn.cli.flags import PRECISIONS
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import reason
from jaxcnn.data.drawing import indexed_png, overlay, png
from jaxcnn.data.folder import read_image
from jaxcnn.runs.signals import Signals

LARGEST = 2**26  # bytes of a file in an archive
Place = Callable[[str], str | None]  # name in an archive -> path below the folder, or None to leave it out


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
    batch_size: int = 8
    """Rows in one update, over all devices."""
    eval_batch_size: int = 2
    """Rows per batch in evaluation, over all devices; changes the speed, not the result."""


def unpack(archive: str | pathlib.Path, folder: str | pathlib.Path, place: Place) -> pathlib.Path:
    """Unpack the files of an archive that have a place, if they are not there already.

    Args:
        archive: a `.zip` file.
        folder: where the files go.
        place: name in the archive to the path below the folder, or None to leave a file out.

    Raises:
        InputError: the archive cannot be read, or has no such files.

    """
    folder = pathlib.Path(folder)
    try:
        with zipfile.ZipFile(archive) as found:
            wanted = {info: to for info in found.infolist() if (to := place(info.filename)) is not None}
            if not wanted:
                raise jc.InputError(f"{visible(archive)}: has none of the files of this experiment; give its archive")
            for info, to in wanted.items():
                path = folder / to
                if info.file_size > LARGEST:
                    raise jc.InputError(f"{visible(archive)}: {visible(info.filename)} has {info.file_size:,} bytes")
                if not path.is_file() or path.stat().st_size != info.file_size:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    files.write_bytes(path, found.read(info))
    except (OSError, zipfile.BadZipFile, RuntimeError) as error:
        raise jc.InputError(f"{visible(archive)}: cannot be unpacked ({reason(error)}); get it again") from error
    return folder


def folder_of(name: str, config: Config, place: Place) -> pathlib.Path:
    """Return the folder of the data, unpacked where an archive is given."""
    if not config.data:
        raise jc.InputError(f"DATA: give the archive, as in python -m experiments.{name} {name}.zip")
    given = files.expanded(config.data)
    return given if given.is_dir() else unpack(given, config.unpacked or f"checkpoints/data/{name}", place)


def plan(name: str, config: Config, splits: jc.data.Splits, change: jc.augment.Transform, **options: Any) -> runs.Plan:
    """Make the plan: a U-Net, trained on random windows.

    Args:
        name: of the data.
        config: the flags.
        splits: images and masks.
        change: augmentation of the windows.
        **options: of `tasks.segmentation`.

    """
    rate, decay = jc.optim.check_rate(config.learning_rate), config.weight_decay
    if config.limit_examples:
        splits = jc.data.Splits(*(runs.limited(part, config.limit_examples) for part in splits))
    network = PRECISIONS[config.precision] | {"remat": config.remat, "widths": config.widths}
    model = jc.models.unet(len(splits.train.classes), **network)
    options |= {"dice": config.dice, **common.pixel_statistics(splits.train)}
    task = jc.tasks.segmentation(model, **options)
    cropped = jc.augment.compose(jc.augment.pad_crop(0, size=config.crop), change)

    def optimizer(steps):
        return jc.optim.adamw(jc.optim.one_cycle(rate, steps=steps), weight_decay=decay)

    def wrap(step):
        return jc.augmented(step, cropped)

    options = {"ema": config.ema, "validations": config.validations, "dataset": name}
    return runs.Plan(task, splits, optimizer, wrap=wrap, **options)


def shares(predict: Any, variables: Any, images: Any, *, tile: Any, views: list[Any]) -> np.ndarray:
    """Return the share of each class in each pixel, `[N, H, W, K]`, averaged over tiles and views.

    Args:
        predict: of the task.
        variables: of the network.
        images: `[N, H, W, C]`.
        tile: size of a tile, as in `tasks.predict_tiled`.
        views: of `augment.pixel_views`; empty for none.

    """
    mean = jc.augment.test_time_augmentation(predict, views, over="softmax") if views else predict
    return np.stack([jc.tasks.predict_tiled(mean, variables, x, tile=tile, batch_size=1) for x in images])


def main(
    name: str,
    config: Config,
    signals: Signals,
    opened: list[pathlib.Path],
    make: Callable[[Any], runs.Plan],
    measure: Callable[[Any, runs.Plan, Any], dict[str, Any]],
    show: Callable[[Any, runs.Plan, Any], None],
) -> Any:
    """Evaluate, predict or train, as the flags say; scores are printed and written to a file in the run's folder.

    Args:
        name: of the experiment.
        config: the flags.
        signals: checked between dispatches.
        opened: receives the run's folder.
        make: function from the flags to the plan.
        measure: function from the flags, the plan and the variables to the scores.
        show: draws predictions, from the same arguments.

    """
    if config.evaluate or config.predict:
        loaded, config, made = load(name, config, make)
        folder = pathlib.Path(config.checkpoint)
    else:
        made = make(config)
        if not common.train(name, config, made, signals, opened):  # another process has the results
            return None
        folder = opened[-1]
        loaded = jc.load_run(folder, task=made.task)
    if config.predict:
        return show(config, made, loaded.variables)
    values = measure(config, made, loaded.variables)
    files.write_json(folder / f"{name}.json", values)
    print(files.to_json(values), flush=True)
    return values


def load(name: str, config: Config, make: Callable[[Any], runs.Plan]) -> tuple[Any, Config, runs.Plan]:
    """Load a run, with its flags and its plan, whose data are read again."""
    saved = runs.read_config(config.checkpoint)
    if saved["experiment"] != name:
        raise jc.InputError(f"--checkpoint {config.checkpoint}: a run of {saved['experiment']}, not of {name}")
    before = {field: saved["settings"][field] for field in ("data", "unpacked", "crop", "dice", "precision")}
    before |= {"data": config.data or before["data"], "widths": tuple(saved["settings"]["widths"])}
    config = dataclasses.replace(config, **before)
    made = make(config)
    return jc.load_run(config.checkpoint, task=made.task), config, made


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
