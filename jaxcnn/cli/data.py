"""`jaxcnn data DATA`: describe a data set, and draw examples with and without augmentation."""

import dataclasses
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from jaxcnn.cli import command, data_signals, flags, layouts, options, recipe
from jaxcnn.cli.train import say
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import Splits, draw_boxes
from jaxcnn.runs import plots
from jaxcnn.runs.results import Skipped
from jaxcnn.tasks.figures import new_figure

NAME, EXAMPLES, CLASSES, MOST_SIZES = "data", 8, 20, 1000
log = logging.getLogger("jaxcnn")


@dataclasses.dataclass(frozen=True)
class Data(flags.Augmentation, flags.Images, flags.Texts, flags.Sounds):
    """Describe DATA: task, classes, counts, sizes, parts and unreadable files; draw some examples."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")] = ""
    """A folder of classes (images, sounds or texts) or of images/ and masks/, a .csv of files, texts or series with
    their labels, an .npz, IDX files, or a TFDS name."""
    task: str = ""
    """classification, multilabel, regression or segmentation, if two layouts fit DATA."""
    validation_fraction: float = 0.1
    """Share of the training rows to make choices on."""
    on_bad_example: str = "skip"
    """What to do when an example cannot be read: skip it and count it, or stop."""
    output: str = "examples.png"
    """File of the picture: training images, with and without augmentation."""
    seed: int = 0
    """Seed of the augmentation."""


def main(arguments: Sequence[str]) -> int:
    """Describe the data, and return the exit code."""
    return command.run(lambda: show(options.parse(Data, NAME, arguments)), f"jaxcnn {NAME}", options.WIDTH)


def show(config: Data) -> Splits:
    """Print a description, draw examples, and return the parts."""
    columns = (config.text_column, config.label_column, config.table)
    found = layouts.look(config.data, config.task, config.data_dir, *columns)
    say(f"{visible(config.data)}: {found.line}")
    skipped = Skipped()
    splits, source = layouts.read(found, config, skipped)
    flags.refuse_others(config, found.kind)
    example = splits.train.example()
    if found.files:
        say(f"files    {_sizes(found)}")
    if found.kind in ("texts", "series", "sounds"):
        say(_words(config, splits) if found.kind == "texts" else data_signals.summary(splits, source))
        _parts(splits, skipped)
        if found.kind != "texts":  # of texts no picture is drawn
            data_signals.draw(splits, source, config.output)
        return splits
    say(f"images   {' x '.join(map(str, example['image'].shape[1:]))} {example['image'].dtype}")
    _parts(splits, skipped)
    change = recipe.change(config, found, example["image"].shape[1:])
    rows = next(splits.train.once(min(EXAMPLES, splits.train.size))).at(0)
    if not plots.draw(pathlib.Path(config.output), draw, rows, change, splits.train, config.seed):
        raise InputError(f"--output {visible(config.output)}: cannot be written; give another file")
    about = "training images, with and without augmentation" if example["image"].ndim == 4 else "slices of volumes"
    print(f"{visible(config.output)}: {len(rows['image'])} {about}", flush=True)
    return splits


def _words(config: Data, splits: Splits) -> str:
    """Describe the rows of texts."""
    known = f"{len(splits.train.words):,} different words" if splits.train.words else "bytes"
    return f"texts    rows of {splits.train.arrays['text'].shape[1]} {config.unit}, {known}"


def _parts(splits: Splits, skipped: Skipped) -> None:
    """Print the rows of each part and class, and how many examples are left out."""
    print(f"{'':<24}{'train':>9}{'validation':>12}{'test':>9}")
    print(f"{'rows':<24}{splits.train.size:>9,}{splits.valid.size:>12,}{splits.test.size:>9,}")
    _counts(splits)
    say(f"left out {skipped.examples} examples that cannot be read")


def _sizes(found: layouts.Found) -> str:
    """Describe the sizes of the image files."""
    sizes = layouts.sizes(found, MOST_SIZES)
    if not sizes:
        return "no size can be read"
    (low, narrow), (high, wide) = np.min(sizes, 0), np.max(sizes, 0)
    some = f"of the first {MOST_SIZES:,} " if len(sizes) >= MOST_SIZES else ""
    return f"{some}{low} to {high} pixels high, {narrow} to {wide} wide"


def _counts(splits: Splits) -> None:
    """Print the rows of each class, or the range of the targets."""
    classes = splits.train.classes
    if "target" in splits.train.example():
        target = recipe.targets(splits.train)
        say(f"target   {target.min():g} to {target.max():g}, mean {target.mean():g}, deviation {target.std():g}")
        return
    if "mask" in splits.train.example():
        _table([f"{name} (%)" for name in classes], [_shares(part) for part in splits], ".2f")
        return
    if "boxes" in splits.train.example():
        _table([f"{name} (boxes)" for name in classes], [_boxes(part) for part in splits], ",.0f")
        return
    labels = [part.label for part in splits if getattr(part, "label", None) is not None]
    if len(labels) < len(splits):
        names = ", ".join(map(visible, classes[:CLASSES]))
        say(f"classes  {len(classes)}: {names}; counts of streamed rows are not known beforehand")
        return
    for k, name in enumerate(classes[:CLASSES]):
        counts = [int((x[:, k] > 0.5).sum() if x.ndim > 1 else (x == k).sum()) for x in labels]
        print(f"{visible(name)[:23]:<24}{counts[0]:>9,}{counts[1]:>12,}{counts[2]:>9,}")
    if len(classes) > CLASSES:
        print(f"and {len(classes) - CLASSES} more classes")


def _table(names: Sequence[str], columns: Sequence[np.ndarray], form: str) -> None:
    """Print a line for each class, with a value for each part."""
    for k, name in enumerate(names[:CLASSES]):
        train, valid, test = (format(float(column[k]), form) for column in columns)
        print(f"{visible(name)[:23]:<24}{train:>9}{valid:>12}{test:>9}")
    if len(names) > CLASSES:
        print(f"and {len(names) - CLASSES} more classes")


def _batches(data: Any) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Yield batches, and which of their rows are not padding."""
    for chunk in data.once(64) if data.size else ():
        for k in range(int(chunk.count)):
            batch = chunk.at(k)
            yield batch, np.asarray(batch.get("row_mask", np.ones(len(batch["image"])))) > 0


def _shares(data: Any) -> np.ndarray:
    """Return the share of the pixels of each class, in percent, `[256]`."""
    counts = np.zeros(256)
    for batch, rows in _batches(data):
        counts += np.bincount(np.asarray(batch["mask"])[rows].ravel(), minlength=256)
    return 100 * counts / max(counts.sum(), 1)


def _boxes(data: Any) -> np.ndarray:
    """Return the number of boxes of each class."""
    counts = np.zeros(max(len(data.classes), 1))
    for batch, rows in _batches(data):
        labels, real = (np.asarray(batch[name])[rows] for name in ("box_label", "box_mask"))
        counts += np.bincount(labels[real > 0], minlength=len(counts))
    return counts


def _drawn(rows: Any) -> dict[str, np.ndarray] | None:
    """Return the boxes of a batch as `draw_boxes` takes them; None if it has none."""
    names = ("boxes", "box_label", "box_mask")
    return {name: np.asarray(rows[name]) for name in names} if "boxes" in rows else None


def draw(rows: Any, change: Any, data: Any, seed: int) -> Any:
    """Draw images in one row and, below it, the same images with augmentation.

    Args:
        rows: a batch with `image` `[B, H, W, C]`, and perhaps `label`, `mask` or `boxes`.
        change: the augmentation; None for none.
        data: the data set, for the names of its classes.
        seed: seed of the augmentation.

    """
    image = np.asarray(rows["image"])
    if image.ndim == 5:  # draw the middle slice of each volume
        rows = {name: rows[name][:, rows[name].shape[1] // 2, ::-1] for name in ("image", "mask")}
        image, change = np.asarray(rows["image"]), None
    sheets, masks, boxes = [image], [rows.get("mask")], [_drawn(rows)]
    if change is not None:
        changed = change(jax.random.key(seed), dict(rows))
        sheets.append(np.asarray(changed["image"]))
        masks.append(changed.get("mask"))
        boxes.append(_drawn(changed))
    figure = new_figure(1.3 * len(image), 1.6 * len(sheets))
    for k, row in enumerate(figure.subplots(len(sheets), len(image), squeeze=False)):
        for i, panel in enumerate(row):
            shown = sheets[k][i] if sheets[k].dtype == np.uint8 else np.clip(sheets[k][i], 0, 1)
            if marked := boxes[k]:
                shown = draw_boxes(shown, {}, data.classes, true={name: x[i] for name, x in marked.items()})
            panel.imshow(shown.squeeze(), cmap="gray")
            if masks[k] is not None:
                known = np.ma.masked_equal(np.asarray(masks[k][i]), recipe.IGNORED)
                panel.imshow(known, cmap="viridis", alpha=0.4, vmin=0, vmax=max(len(data.classes) - 1, 1))
            panel.set(xticks=[], yticks=[])
            if not k and data.classes and np.ndim(rows.get("label", image)) == 1:
                panel.set_title(visible(data.classes[int(rows["label"][i])])[:14], fontsize=7, parse_math=False)
    return figure
