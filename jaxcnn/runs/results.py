"""Results at the end of a run: the summary, large arrays, unreadable examples and pictures."""

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

INLINE = 10_000  # most numbers of an array in summary.json: a confusion matrix of 100 classes
ARRAYS, SKIPPED = "test_arrays.npz", "skipped.txt"
LISTED = 20  # most skipped examples in summary.json
log = logging.getLogger("jaxcnn")


class Skipped:
    """Counts unreadable examples, each once, keeps a line about each for the run's folder, and logs the first few."""

    LOGGED = 5

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}

    def __call__(self, line: str, examples: int) -> None:
        """Count one line; to be passed as `on_bad`.

        Args:
            line: what could not be read, and why.
            examples: number of examples that are lost.

        """
        if line not in self.lines:
            self.lines[line] = examples
            if len(self.lines) <= self.LOGGED:
                last = len(self.lines) == self.LOGGED
                log.warning("left out: %s%s", line, f"; the run lists further ones in {SKIPPED}" if last else "")

    @property
    def examples(self) -> int:
        """Number of examples so far."""
        return sum(self.lines.values())


def tested(values: Mapping[str, Any], shares: Sequence[str] = ()) -> dict[str, Any]:
    """Add 95 % confidence intervals to test metrics, such as `accuracy_interval` for `accuracy`.

    Args:
        values: dict from the name of a metric to its value.
        shares: names of the metrics that are shares of the counted rows, see `Task`.

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
    """Return one line with the test metrics.

    Args:
        values: metrics and intervals from `tested`.
        folder: folder of the run.
        headline: metrics to show, in this order; the loss is shown only if there is no other.
        unit: name of the rows in the plural.

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
    """Whether the loss is finite or absent."""
    return math.isfinite(values.get("loss", 0.0))


def write(folder: pathlib.Path, summary: Mapping[str, Any], skipped: Skipped) -> None:
    """Write `summary.json` after the files that it refers to: large arrays and the list of unreadable examples.

    Args:
        folder: folder of the run.
        summary: content of `summary.json`; arrays above `INLINE` numbers go into a file of their own.
        skipped: the unreadable examples.

    Raises:
        OSError: The disk is full, or the folder is gone.

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
    """Divide values into small ones for the summary and large arrays."""
    large = {name: value for name, value in values.items() if isinstance(value, np.ndarray) and value.size > INLINE}
    return {name: value for name, value in values.items() if name not in large}, large


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the bytes of an `.npz` file; integers use the smallest type: most of a large confusion matrix is 0."""
    import io

    least = {}
    for name, x in arrays.items():
        whole = np.issubdtype(x.dtype, np.integer) and x.size and x.min() >= 0
        least[name] = x.astype(np.min_scalar_type(int(x.max()))) if whole else x
    out = io.BytesIO()
    np.savez_compressed(out, **least)
    return out.getvalue()


def tell_skipped(folder: pathlib.Path, skipped: Skipped) -> None:
    """Write the list of unreadable examples to a file in the run's folder, one per line."""
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
    """Draw `curves.png` and one picture per figure; a picture that fails is left out.

    Args:
        folder: folder of the run.
        rows: lines of `metrics.jsonl`.
        values: metrics of the test rows.
        classes: class names, if there are any.
        headline: metrics to draw by epoch.
        figures: dict from name to figure, see `Task`.

    Returns:
        Names of the pictures that were written.

    """
    drawn = [
        ("curves.png", plots.curves, (rows, headline)),
        *((f"{name}.png", f, (values, classes)) for name, f in (figures or {}).items()),
    ]
    return [name for name, plot, given in drawn if plots.draw(folder / name, plot, *given)]
