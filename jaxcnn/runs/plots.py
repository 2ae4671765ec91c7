"""Plots of a run; a plot that fails is reported in the log and changes nothing else."""

import io
import logging
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxcnn.core import files
from jaxcnn.core.types import reason
from jaxcnn.tasks.figures import new_figure

log = logging.getLogger("jaxcnn")


def draw(path: pathlib.Path, plot: Callable[..., Any], *arguments: Any) -> bool:
    """Draw a figure and write it as a PNG file.

    Args:
        path: path of the file.
        plot: function that returns the figure, or None if there is nothing to draw.
        *arguments: arguments of `plot`.

    Returns:
        Whether the file was written; an error is reported in the log.

    """
    try:
        with warnings.catch_warnings():  # about characters missing from the font, which become boxes
            warnings.simplefilter("ignore")
            picture = io.BytesIO()
            figure = plot(*arguments)
            if figure is None:
                return False
            figure.savefig(picture, format="png", dpi=120)
        files.write_bytes(path, picture.getvalue())
    except Exception as error:
        log.warning("%s is not drawn (%s); nothing else is missing", path, reason(error))
        return False
    return True


def curves(rows: Sequence[Mapping[str, Any]], names: Sequence[str] = ("loss",)) -> Any:
    """Draw metrics by epoch, one panel per metric.

    Training is drawn as blue circles and validation as orange squares, so that the plot is readable without colour.

    Args:
        rows: lines of `metrics.jsonl`.
        names: names of the metrics.

    """
    figure = new_figure(5 * max(len(names), 1), 4)
    panels = figure.subplots(1, max(len(names), 1), squeeze=False)[0]
    styles = {"train": ("#0072B2", "o"), "validation": ("#D55E00", "s")}
    for panel, name in zip(panels, names, strict=False):
        for split, (colour, marker) in styles.items():
            points = [(r["epoch"], r[name]) for r in rows if r["split"] == split and name in r]
            if points:
                panel.plot(*zip(*points, strict=True), color=colour, marker=marker, label=split)
                panel.legend()
        panel.set(xlabel="epoch", ylabel=name)
        panel.grid(alpha=0.3)
    return figure
