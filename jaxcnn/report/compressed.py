"""What smaller forms of a run's network cost: a table of accuracy, bytes and latency in the folder of the run."""

import pathlib
from collections.abc import Mapping
from typing import Any, NotRequired

from typing_extensions import TypedDict  # typing's own is not enough for pydantic on Python 3.11

from jaxcnn.core import files
from jaxcnn.core.schema import fitted
from jaxcnn.core.text import html as escape
from jaxcnn.core.text import markdown, visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.report.markup import table

FILE = "compression.json"
MOST, LARGEST = 100, 2**20  # variants that are shown, and bytes of the file
HEAD = (
    "variant", "accuracy", "same answer as float32", "weights not 0", "KiB", "KiB zipped", "1 image, ms: p50, p95",
    "16 images, ms: p50, p95",
)  # fmt: skip


class _Variant(TypedDict):
    name: str
    accuracy: float
    agreement: float
    weights: int
    bytes: int
    zipped: int
    one: NotRequired[list[float | None]]
    many: NotRequired[list[float | None]]


class _Table(TypedDict):
    rows: int
    runtime: str
    variants: list[_Variant]


def compressed(folder: str | pathlib.Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Read the table `compression.json` in the folder of a run.

    Args:
        folder: of the run.

    Returns:
        `{"rows", "runtime", "variants"}`, or None if there is none; and a line if it cannot be read.

    """
    path = pathlib.Path(folder) / FILE
    if not path.exists():
        return None, []
    try:
        found = fitted(_Table, files.read_json(path, LARGEST), FILE)
    except (OSError, InputError) as error:
        return None, [f"{FILE} is left out: {visible(reason(error)).removeprefix(f'{FILE}: ')}."]
    more = len(found["variants"]) - MOST
    notes = [f"{more} more variants in {FILE} are left out."] if more > 0 else []
    return {**found, "variants": found["variants"][:MOST]}, notes


def _cells(one: Mapping[str, Any]) -> list[str]:
    times = (", ".join("" if t is None else f"{t:.3g}" for t in one.get(size, ())) for size in ("one", "many"))
    shares = (f"{100 * one[name]:.2f} %" for name in ("accuracy", "agreement"))
    sizes = (f"{one['weights']:,d}", f"{one['bytes'] / 1024:,.0f}", f"{one['zipped'] / 1024:,.0f}")
    return [one["name"], *shares, *sizes, *times]


def _about(found: Mapping[str, Any]) -> str:
    return f"Each variant is an ONNX file; {found['runtime']} ran it on {found['rows']:,d} test rows with one thread."


def compressed_as_html(report: Mapping[str, Any]) -> str:
    """Return the variants as HTML, a line for each."""
    found = report["compression"]
    rows = [[escape(cell) for cell in _cells(one)] for one in found["variants"]]
    return f"<p>{escape(_about(found))}</p>" + table("Variants", HEAD, rows, (1, len(HEAD) - 1))


def compressed_as_markdown(report: Mapping[str, Any]) -> str:
    """Return the variants as Markdown, a line for each."""
    found = report["compression"]
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    lines += [f"| {' | '.join(map(markdown, _cells(one)))} |" for one in found["variants"]]
    return "\n".join(lines) + f"\n\n{markdown(_about(found))}"
