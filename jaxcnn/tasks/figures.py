"""Figures that tasks bring: functions of the values that a test set gave, and of the names of the classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.core.text import visible

NAMED, SHADED = 20, 200  # the most classes that get names and counts, and the most that get a row each
LONGEST = 24  # characters of a name


def confusion(values: Mapping[str, Any], classes: Sequence[str]) -> Any:
    """Draw the confusion matrix among the values, if there is one."""
    return confusion_matrix(values["confusion"], classes) if "confusion" in values else None


def confusion_matrix(matrix: np.ndarray, classes: Sequence[str]) -> Any:
    """Rows the truth, columns the prediction, shaded by share of the row; counts are written in up to 20 classes.

    Of more than 200 classes there is a square for a group of them, in order, and a histogram of how many rows of a
    class are right.
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
    figure.colorbar(
        shades,
        label="share of the true class" if not many else f"share of a group of {-(-len(classes) // SHADED)} classes",
    )
    for other in others:
        total = matrix.sum(1)
        other.hist(np.diagonal(matrix)[total > 0] / total[total > 0], bins=20, range=(0, 1), color="#0072B2")
        other.set(xlabel="share of a class's rows that are right", ylabel="classes")
    return figure


def agreement(values: Mapping[str, Any], classes: Sequence[str], limits: tuple[float, float]) -> Any:
    """Draw how often each prediction was made for each target, darker for more rows; right ones are on the diagonal.

    Args:
        values: with `"agreement"`, as `metrics.agreement` counts it.
        classes: not used.
        limits: of targets and predictions.

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
    """Add up a square matrix into a limited number of groups of neighbouring rows and columns."""
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
