"""Figures of tasks: each is drawn from the metrics of a test set and the names of the classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.core.text import visible

NAMED, SHADED = 20, 200  # up to NAMED classes get names and counts, up to SHADED classes a row each
LONGEST = 24  # longest name, in characters


def confusion(values: Mapping[str, Any], classes: Sequence[str]) -> Any:
    """Draw the confusion matrix if it is among the values."""
    return confusion_matrix(values["confusion"], classes) if "confusion" in values else None


def confusion_matrix(matrix: np.ndarray, classes: Sequence[str]) -> Any:
    """Draw a confusion matrix: rows are true classes, columns are predictions, shades are shares of the row.

    Up to 20 classes, each cell shows its count. Above 200 classes, neighbouring classes share a cell, and a histogram
    beside the matrix shows the accuracy of each class.

    Args:
        matrix: counts `[K, K]`.
        classes: the K names.
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
            panel.text(
                j, i, int(n), ha="center", va="center", fontsize=8, color="white" if share[i, j] > 0.5 else "black"
            )
    panel.set(xlabel="predicted", ylabel="true")
    group = f"a group of {-(-len(classes) // SHADED)} classes" if many else "the true class"
    figure.colorbar(shades, label=f"share of {group}")
    for other in others:
        total = matrix.sum(1)
        other.hist(np.diagonal(matrix)[total > 0] / total[total > 0], bins=20, range=(0, 1), color="#0072B2")
        other.set(xlabel="share of a class's rows that are right", ylabel="classes")
    return figure


def agreement(values: Mapping[str, Any], classes: Sequence[str], limits: tuple[float, float]) -> Any:
    """Draw how often each prediction was made for each target; darker means more rows, right ones lie on the diagonal.

    Args:
        values: with `"agreement"`, the counts of `metrics.agreement`.
        classes: not used.
        limits: lowest and highest value on both axes.

    """
    del classes
    if "agreement" not in values:
        return None
    figure = new_figure(5.5, 4.5)
    panel = figure.subplots()
    shades = panel.imshow(
        np.asarray(values["agreement"]).T, cmap="Blues", origin="lower", extent=(*limits, *limits), aspect="equal"
    )
    panel.plot(limits, limits, color="#D55E00", linestyle="--", linewidth=1)
    panel.set(xlabel="target", ylabel="prediction")
    figure.colorbar(shades, label="rows")
    return figure


def grouped(matrix: np.ndarray, most: int) -> np.ndarray:
    """Add up neighbouring rows and columns of a square matrix, so that at most `most` of each are left."""
    first = np.arange(0, len(matrix), -(-len(matrix) // most))
    return np.add.reduceat(np.add.reduceat(matrix, first, 0), first, 1)


def short(name: str) -> str:
    """Shorten a class name to fit beside a plot."""
    shown = visible(name)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 3]}..."


def new_figure(width: float, height: float) -> Any:
    """Make a figure without pyplot, which is not thread-safe and looks for a display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
