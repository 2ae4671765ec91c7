"""What a run leaves when it has ended: the summary first, then what may fail without a loss."""

import logging
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import Figure, scalars
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
                log.warning(
                    "left out: %s%s", line, "; more are only listed in the run" if len(self.lines) == self.SAID else ""
                )

    @property
    def examples(self) -> int:
        """How many so far."""
        return sum(self.lines.values())


def tested(values: Mapping[str, Any], shares: Sequence[str] = ()) -> dict[str, Any]:
    """Return what the test set gave, and beside each share of its rows, as `accuracy_interval`, the 95 % interval.

    Args:
        values: metrics by name.
        shares: those that are shares of the counted rows, as in `Task`.

    """
    found, count = dict(values), values.get("count", 0)
    for name in shares:
        share = values.get(name)
        found[f"{name}_interval"] = None
        if count and isinstance(share, int | float) and 0 <= share <= 1:
            found[f"{name}_interval"] = wilson_interval(share, count)
    return found


def line(
    values: Mapping[str, Any], folder: pathlib.Path, headline: Sequence[str] = ("loss",), unit: str = "rows"
) -> str:
    """Say in one line what the test set gave.

    Args:
        values: as `tested` gives them.
        folder: of the run.
        headline: metrics to show, in this order; the loss only where there is no other.
        unit: what a row is called, in the plural.

    """
    where = f"on {values.get('count', 0)} {unit}, {folder}"
    if not sound(values):
        return visible(
            f"test loss {values['loss']}: the outputs are not finite, so no other metric means anything, {where}"
        )
    names = [name for name in headline if name != "loss" and name in values] or ["loss"]
    return visible(f"test {' '.join(_shown(name, values) for name in names)} {where}")


def _shown(name: str, values: Mapping[str, Any]) -> str:
    value, interval = scalars(values).get(name, math.nan), values.get(f"{name}_interval")
    text = f"{name} {value:.4f}" if isinstance(value, int | float) else f"{name} {value}"
    return text if interval is None else text + " (95 % interval {:.4f} to {:.4f})".format(*interval)


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


def draw(
    folder: pathlib.Path,
    rows: Sequence[Mapping[str, Any]],
    values: Mapping[str, Any],
    classes: Sequence[str],
    headline: Sequence[str] = ("loss",),
    figures: Mapping[str, Figure] | None = None,
) -> list[str]:
    """Draw what can be drawn, into `curves.png` and a picture for each figure; nothing depends on it.

    Args:
        folder: of the run.
        rows: lines of `metrics.jsonl`.
        values: metrics of the test rows.
        classes: names of the classes, if there are any.
        headline: metrics to draw by epoch.
        figures: as in `Task`.

    Returns:
        Names of the pictures that are there now.

    """
    drawn = [
        ("curves.png", plots.curves, (rows, headline)),
        *((f"{name}.png", f, (values, classes)) for name, f in (figures or {}).items()),
    ]
    return [name for name, plot, given in drawn if plots.draw(folder / name, plot, *given)]
