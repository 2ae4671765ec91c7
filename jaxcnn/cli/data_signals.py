"""`jaxcnn data` for sounds and series: their lengths, and a picture of some of them."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import Splits
from jaxcnn.data.drawn_series import series_picture
from jaxcnn.report.sound import spectrogram_picture
from jaxcnn.runs import plots
from jaxcnn.tasks.figures import new_figure

EXAMPLES = 8


def summary(splits: Splits, source: Mapping[str, Any]) -> str:
    """Describe the rows of sounds or of series."""
    example = splits.train.example()
    if "series" in example:
        _, steps, channels = example["series"].shape
        return f"series   rows of {steps:,} steps and {channels} channels"
    rate, size = source["options"]["rate"], example["audio"].shape[1]
    return f"sounds   rows of {size / rate:g} s, {rate:,} samples per second"


def draw(splits: Splits, source: Mapping[str, Any], output: str) -> None:
    """Draw the first training rows into a file.

    Raises:
        InputError: the file cannot be written.

    """
    rows = next(splits.train.once(min(EXAMPLES, splits.train.size))).at(0)
    if not plots.draw(pathlib.Path(output), _figure, rows, splits.train.classes, source["options"].get("rate")):
        raise InputError(f"--output {visible(output)}: cannot be written; give another file")
    print(f"{visible(output)}: {len(rows['label'])} training rows", flush=True)


def _figure(rows: Mapping[str, Any], classes: tuple[str, ...], rate: int | None) -> Any:
    label, length = np.asarray(rows["label"]), np.asarray(rows["length"])
    figure = new_figure(9, 1.5 * -(-len(label) // 2))
    panels = figure.subplots(-(-len(label) // 2), 2, squeeze=False).ravel()
    for panel in panels:
        panel.set(xticks=[], yticks=[])
    for i, (panel, k, n) in enumerate(zip(panels, label.tolist(), length.tolist(), strict=False)):
        one = np.asarray(rows["series" if rate is None else "audio"][i])[:n]
        sheet = series_picture(one) if rate is None else spectrogram_picture(one, rate)
        panel.imshow(sheet, aspect="auto")
        about = f"{n} steps" if rate is None else f"{n / rate:.2f} s, 0 to {rate // 2:,} Hz"
        panel.set_title(f"{visible(classes[k])[:24]}, {about}", fontsize=7, parse_math=False)
    return figure
