"""The classification report: precision, recall, F1 and support per class and on average, as text, JSON and Markdown."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from jaxcnn.core.types import InputError
from jaxcnn.metrics import scores

COLUMNS = ("precision", "recall", "f1-score", "support")
Row = tuple[float, float, float, int]


@dataclasses.dataclass(frozen=True)
class ClassificationReport:
    """Result of `classification_report`; `str()` gives the text.

    Attributes:
        classes: dict from class name to precision, recall, F1 and support.
        averages: dict from `"macro avg"`, `"weighted avg"` and, with several labels per row, `"micro avg"` to the same.
        accuracy: share of right rows; None with several labels per row.

    """

    classes: dict[str, Row]
    averages: dict[str, Row]
    accuracy: float | None

    def text(self, digits: int = 2) -> str:
        """Format it as scikit-learn does."""
        width = max(len(name) for name in (*self.classes, "weighted avg"))
        lines = [" " * width + "  " + " ".join(f"{column:>9}" for column in COLUMNS), ""]
        for name, cells in self._rows(digits):
            lines.append(f"{name:>{width}}  " + " ".join(f"{cell:>9}" for cell in cells) if cells else "")
        return "\n".join(lines) + "\n"

    def markdown(self, digits: int = 3) -> str:
        """Format it as a Markdown table."""
        lines = ["| | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
        for name, cells in self._rows(digits):
            if cells:
                lines.append("| " + " | ".join([name.replace("|", "\\|"), *cells]) + " |")
        return "\n".join(lines) + "\n"

    def as_dict(self) -> dict[str, float | dict[str, float]]:
        """Return plain JSON values, under scikit-learn's names (`output_dict=True`)."""
        named: dict[str, float | dict[str, float]] = {}
        for name, row in (self.classes | self.averages).items():
            named[name] = dict(zip(COLUMNS, map(float, row), strict=True))
        return named if self.accuracy is None else named | {"accuracy": self.accuracy}

    def _rows(self, digits: int) -> Iterator[tuple[str, list[str]]]:
        """Yield the name and four cells of every line; no cells mean the space before the averages."""

        def cells(row):
            return [*(f"{x:.{digits}f}" for x in row[:3]), str(row[3])]

        for name, row in self.classes.items():
            yield name, cells(row)
        yield "", []
        if self.accuracy is not None:
            yield "accuracy", ["", "", f"{self.accuracy:.{digits}f}", str(self.averages["macro avg"][3])]
        for name, row in self.averages.items():
            yield name, cells(row)

    __str__ = text


def classification_report(matrix: np.ndarray, classes: Sequence[str] | None = None) -> ClassificationReport:
    """Make the classification report of a confusion matrix, equal to scikit-learn's with `zero_division=0`.

    Args:
        matrix: `[K, K]`, rows are true classes, or `[K, 2, 2]` for several labels per row.
        classes: K names; by default 0 to K - 1. Classes in neither labels nor predictions are left out, as in
            scikit-learn.

    Raises:
        InputError: the wrong number of names, a name that occurs twice or is that of an average, or not a confusion
            matrix.

    """
    _, _, true, seen = scores.tallied(matrix)
    names = [str(name) for name in (range(len(true)) if classes is None else classes)]
    if len(names) != len(true):
        raise InputError(f"classes: {len(names)} names for {len(true)} classes; give one per class")
    kinds = ("micro", "macro", "weighted") if np.ndim(matrix) == 3 else ("macro", "weighted")
    reserved = {"accuracy", *(f"{kind} avg" for kind in kinds)}
    if bad := [name for i, name in enumerate(names) if name in names[:i] or name in reserved]:
        problem = "that of an average" if bad[0] in reserved else "given twice"
        raise InputError(f"classes: the name {bad[0]!r} is {problem}; change it")
    p, r, f = (np.asarray(score(matrix, None)) for score in (scores.precision, scores.recall, scores.f1))
    rows = {name: (float(p[k]), float(r[k]), float(f[k]), int(true[k])) for k, name in enumerate(names) if seen[k]}
    averages = {f"{kind} avg": _average(matrix, kind, int(true.sum())) for kind in kinds}
    return ClassificationReport(rows, averages, scores.accuracy_of(matrix) if np.ndim(matrix) == 2 else None)


def _average(matrix: np.ndarray, kind: scores.Average, support: int) -> Row:
    p, r, f = (float(score(matrix, kind)) for score in (scores.precision, scores.recall, scores.f1))
    return p, r, f, support
