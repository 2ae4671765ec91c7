"""What a run leaves when it has ended: the summary first, then what may fail without a loss."""

import logging
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.metrics import wilson_interval
from jaxcnn.runs import plots

INLINE = 10_000  # numbers of an array in summary.json at most: a confusion matrix of 100 classes
ARRAYS, SKIPPED = "test_arrays.npz", "skipped.txt"
LISTED = 20  # skipped examples in summary.json
log = logging.getLogger("jaxcnn")


class Skipped:
    """Counts the examples that could not be read, each once, lists them for the run's folder, and says the first few."""

    SAID = 5

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}

    def __call__(self, line: str, examples: int) -> None:
        """Be told of one."""
        if line not in self.lines:
            self.lines[line] = examples
            if len(self.lines) <= self.SAID:
                log.warning("left out: %s%s", line, "; more are only listed in the run" if len(self.lines) == self.SAID else "")

    @property
    def examples(self) -> int:
        """How many so far."""
        return sum(self.lines.values())


def tested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the test set gave, with the interval that so many rows leave."""
    accuracy, count = values.get("accuracy"), values.get("count", 0)
    sure = count and isinstance(accuracy, int | float) and 0 <= accuracy <= 1
    return dict(values) | {"accuracy_interval": wilson_interval(accuracy, count) if sure else None}


def line(values: Mapping[str, Any], folder: pathlib.Path) -> str:
    """Say in one line what the test set gave."""
    where = f"on {values.get('count', 0)} images, {folder}"
    if not sound(values):
        return visible(f"test loss {values['loss']}: the outputs are not finite, so their accuracy means nothing, {where}")
    interval = "" if values["accuracy_interval"] is None else " (95 % interval {:.4f} to {:.4f})".format(*values["accuracy_interval"])
    return visible(f"test accuracy {values.get('accuracy', math.nan):.4f}{interval} {where}")


def sound(values: Mapping[str, Any]) -> bool:
    """Whether the loss is finite, where there is one."""
    return math.isfinite(values.get("loss", 0.0))


def write(folder: pathlib.Path, summary: Mapping[str, Any], skipped: Skipped) -> None:
    """Write `summary.json`, after the files that it names: large arrays, and the examples that could not be read.

    Raises:
        OSError: there is no room, or no folder.

    """
    small, large = apart(summary["test"])
    more: dict[str, Any] = {"test": small}
    if large:
        files.write_bytes(folder / ARRAYS, packed(large))
        more["test_arrays"] = {"file": ARRAYS, "shapes": {name: list(x.shape) for name, x in large.items()}}
    if skipped.lines:
        more["skipped"] = list(skipped.lines)[:LISTED]
    tell_skipped(folder, skipped)
    files.write_json(folder / "summary.json", dict(summary) | more)


def apart(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Divide values into those for a summary and large arrays."""
    large = {name: value for name, value in values.items() if isinstance(value, np.ndarray) and value.size > INLINE}
    return {name: value for name, value in values.items() if name not in large}, large


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the bytes of an `.npz`; whole numbers as small as they can be, because most of a large confusion matrix is 0."""
    import io

    least = {}
    for name, x in arrays.items():
        whole = np.issubdtype(x.dtype, np.integer) and x.size and x.min() >= 0
        least[name] = x.astype(np.min_scalar_type(int(x.max()))) if whole else x
    out = io.BytesIO()
    np.savez_compressed(out, **least)
    return out.getvalue()


def tell_skipped(folder: pathlib.Path, skipped: Skipped) -> None:
    """List the examples that could not be read in a file of the run, one a line."""
    if skipped.lines:
        files.write_text(folder / SKIPPED, "".join(f"{visible(one)}\n" for one in skipped.lines))


def draw(folder: pathlib.Path, rows: Sequence[Mapping[str, Any]], values: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Draw what can be drawn; nothing depends on it."""
    plots.draw(folder / "curves.png", plots.curves, rows)
    if "confusion" in values:
        plots.draw(folder / "confusion_matrix.png", plots.confusion, values["confusion"], classes)
