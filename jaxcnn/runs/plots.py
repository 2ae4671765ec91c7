"""Plots of a run; what cannot be drawn is a line in the log and costs nothing else."""

import io
import logging
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import reason

NAMED, SHADED = 20, 200  # classes: up to so many have their names and counts written, up to so many a row each
LONGEST = 24  # characters of a name
log = logging.getLogger("jaxcnn")


def draw(path: pathlib.Path, plot: Callable[..., Any], *arguments: Any) -> bool:
    """Write the picture of a figure; false, and said, where that cannot be.

    Args:
        path: of the picture.
        plot: gives the figure.
        *arguments: of `plot`.

    """
    try:
        with warnings.catch_warnings():  # of characters that the font lacks, which become boxes
            warnings.simplefilter("ignore")
            picture = io.BytesIO()
            plot(*arguments).savefig(picture, format="png", dpi=120)
        files.write_bytes(path, picture.getvalue())
    except Exception as error:
        log.warning("%s is not drawn (%s); nothing else is missing", path, reason(error))
        return False
    return True


def curves(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Loss and accuracy by epoch, one panel each; blue circles train, orange squares validate, readable without colour."""
    figure = new_figure(10, 4)
    panels = figure.subplots(1, 2)
    styles = {"train": ("#0072B2", "o"), "validation": ("#D55E00", "s")}
    for panel, name in zip(panels, ("loss", "accuracy"), strict=True):
        for split, (colour, marker) in styles.items():
            points = [(r["epoch"], r[name]) for r in rows if r["split"] == split and name in r]
            if points:
                panel.plot(*zip(*points, strict=True), color=colour, marker=marker, label=split)
                panel.legend()
        panel.set(xlabel="epoch", ylabel=name)
        panel.grid(alpha=0.3)
    return figure


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Any:
    """Rows the truth, columns the prediction, shaded by share of the row; counts are written in up to 20 classes.

    Of more than 200 classes there is a square for a group of them, in order, and a histogram of how many rows of a class are right.
    """
    many = len(classes) > SHADED
    side = min(max(4.0, 0.55 * len(classes)), 8 if many else 16)
    figure = new_figure(2 * side + 1 if many else side + 1, side)
    panel, *others = figure.subplots(1, 2) if many else [figure.subplots()]
    counts = grouped(matrix, SHADED) if many else matrix
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    edges = (-0.5, len(classes) - 0.5, len(classes) - 0.5, -0.5)
    shades = panel.imshow(share, cmap="Blues", vmin=0, vmax=1, extent=edges)
    if len(classes) <= NAMED:
        names = [short(name) for name in classes]
        panel.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0, parse_math=False)
        panel.set_yticks(range(len(names)), names, parse_math=False)
        for (i, j), n in np.ndenumerate(matrix):
            panel.text(j, i, int(n), ha="center", va="center", fontsize=8, color="white" if share[i, j] > 0.5 else "black")
    panel.set(xlabel="predicted", ylabel="true")
    figure.colorbar(shades, label="share of the true class" if not many else f"share of a group of {-(-len(classes) // SHADED)} classes")
    for other in others:
        total = matrix.sum(1)
        other.hist(np.diagonal(matrix)[total > 0] / total[total > 0], bins=20, range=(0, 1), color="#0072B2")
        other.set(xlabel="share of a class's rows that are right", ylabel="classes")
    return figure


def grouped(matrix: np.ndarray, most: int) -> np.ndarray:
    """Add up a square matrix in at most so many groups of neighbouring rows and columns."""
    first = np.arange(0, len(matrix), -(-len(matrix) // most))
    return np.add.reduceat(np.add.reduceat(matrix, first, 0), first, 1)


def short(name: str) -> str:
    """Make a class's name fit beside a plot."""
    shown = visible(name)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 3]}..."


def new_figure(width: float, height: float) -> Any:
    """Make a figure without pyplot, which no two threads may import or use at once, and which looks for a screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
