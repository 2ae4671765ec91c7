"""What was exported from a run: the files beside it, their digests, and how far they differ from the run."""

import hashlib
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

FOLDER = "exported"
MOST, LARGEST = 40, 2**20  # reports of exports that are read, and bytes of one
PARTS = 200  # most files of one export
HEAD = ("file", "format", "SHA-256", "state", "largest difference", "agreement", "rows")
ABOUT = (
    "The largest difference is relative to the largest output; it and the agreement of the classes were measured on "
    "rows when the files were written, and the files were compared with their digests when this was made."
)


class _Check(TypedDict):
    rows: int
    source: str
    largest_difference: float
    agreement: NotRequired[float]


class _Report(TypedDict):
    format: str
    bytes: int
    sha256: dict[str, str]
    made: str
    check: _Check


def exported(folder: str | pathlib.Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Read what `jaxcnn export` has written into the folder of a run, and compare the files with their digests.

    Args:
        folder: of the run.

    Returns:
        For each export a dict of plain values, whose `"files"` have a name, a digest and a state (`"as exported"`,
        `"changed"` or `"missing"`); and a line for each report that cannot be read.

    """
    place, found, notes = pathlib.Path(folder) / FOLDER, [], []
    try:
        paths = sorted(place.glob("*.json"))
    except OSError:
        paths = []
    for path in paths[:MOST]:
        name = f"{FOLDER}/{visible(path.name)}"
        try:
            found.append(_entry(path, fitted(_Report, files.read_json(path, LARGEST), name)))
        except (OSError, InputError) as error:
            notes.append(f"{name} is left out: {visible(reason(error)).removeprefix(f'{name}: ')}.")
    if len(paths) > MOST:
        notes.append(f"{len(paths) - MOST} more exports are left out.")
    return found, notes


def _entry(path: pathlib.Path, report: _Report) -> dict[str, Any]:
    check, parts = report["check"], []
    for name, digest in list(report["sha256"].items())[:PARTS]:
        parts.append({"name": name, "sha256": digest, "state": _state(path.parent, name, digest)})
    return {
        "format": report["format"], "bytes": report["bytes"], "made": report["made"], "files": parts,
        "rows": check["rows"], "source": check["source"], "largest_difference": check["largest_difference"],
        "agreement": check.get("agreement"),
    }  # fmt: skip


def _state(folder: pathlib.Path, name: str, digest: str) -> str:
    """Return whether a file is there and has its digest; a name that leads out of the folder is not followed."""
    if pathlib.PurePosixPath(name).is_absolute() or ".." in pathlib.PurePosixPath(name).parts:
        return "missing"
    try:
        with files.opened(folder / name) as file:
            return "as exported" if hashlib.file_digest(file, "sha256").hexdigest() == digest else "changed"
    except (OSError, InputError, ValueError):
        return "missing"


def _rows(found: list[dict[str, Any]], short: int) -> list[list[str]]:
    """Return the cells of a table, plain, a line for each file; what is measured stands at the first of an export."""
    lines = []
    for one in found:
        agreement = "" if one["agreement"] is None else f"{one['agreement']:.4f}"
        measured = [f"{one['largest_difference']:.1e}", agreement, f"{one['rows']:,d} ({one['source']})"]
        for i, part in enumerate(one["files"]):
            digest = part["sha256"][:short]
            first = measured if not i else ["", "", ""]
            lines.append([f"{FOLDER}/{part['name']}", one["format"], digest, part["state"], *first])
    return lines


def as_html(report: Mapping[str, Any]) -> str:
    """Return the exports as HTML."""
    rows = [[escape(cell) for cell in row] for row in _rows(report["exported"], 16)]
    return f"<p>{ABOUT} MODEL_CARD.md has the whole digests.</p>" + table("Exports", HEAD, rows, (1, 2, 3, 6))


def as_markdown(report: Mapping[str, Any]) -> str:
    """Return the exports as Markdown."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    lines += [f"| {' | '.join(map(markdown, row))} |" for row in _rows(report["exported"], 64)]
    return "\n".join(lines) + f"\n\n{ABOUT}"
