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
HEAD = ("file", "format", "SHA-256", "state", "largest difference", "agreement", "accuracy", "rows")
SHORT = ("export", "format", "files", "KiB", "state", "largest difference", "agreement", "accuracy", "rows")
STATES = ("unchanged", "missing", "changed")  # the worst last
ABOUT = (
    "The largest difference is relative to the largest output; it and the agreement of the classes were measured on "
    "rows when the files were written, and the files were compared with their digests when this was made."
)


class _Check(TypedDict):
    rows: int
    source: str
    largest_difference: float
    agreement: NotRequired[float]
    accuracy: NotRequired[float]
    float32_accuracy: NotRequired[float]


class _Report(TypedDict):
    format: str
    bytes: int
    sha256: dict[str, str]
    made: str
    check: _Check
    step: NotRequired[int]
    precision: NotRequired[str]


def exported(folder: str | pathlib.Path, step: int | None = None) -> tuple[list[dict[str, Any]], list[str]]:
    """Read what `jaxcnn export` has written into the folder of a run, and compare the files with their digests.

    Args:
        folder: of the run.
        step: whose weights were measured; None if that is not known.

    Returns:
        For each export a dict of plain values, whose `"files"` have a name, a digest and a state (`"unchanged"`,
        `"changed"` or `"missing"`), and whose `"other_step"` is the step of its weights if that is not the measured
        one; and a line for each report that cannot be read.

    """
    place, found, notes = pathlib.Path(folder) / FOLDER, [], []
    try:
        paths = sorted(place.glob("*.json"))
    except OSError:
        paths = []
    for path in paths[:MOST]:
        name = f"{FOLDER}/{visible(path.name)}"
        try:
            found.append(_entry(path, fitted(_Report, files.read_json(path, LARGEST), name), step))
        except (OSError, InputError) as error:
            notes.append(f"{name} is left out: {visible(reason(error)).removeprefix(f'{name}: ')}.")
    if len(paths) > MOST:
        notes.append(f"{len(paths) - MOST} more exports are left out.")
    return found, notes


def _entry(path: pathlib.Path, report: _Report, step: int | None) -> dict[str, Any]:
    check, parts, own = report["check"], [], report.get("step")
    for name, digest in list(report["sha256"].items())[:PARTS]:
        parts.append({"name": name, "sha256": digest, "state": _state(path.parent, name, digest)})
    return {
        "name": path.name.removesuffix(".json"), "format": report["format"], "bytes": report["bytes"],
        "precision": report.get("precision"), "other_step": None if step in (None, own) else own,
        "made": report["made"], "files": parts,
        "rows": check["rows"], "source": check["source"], "largest_difference": check["largest_difference"],
        "agreement": check.get("agreement"), "accuracy": check.get("accuracy"),
        "float32_accuracy": check.get("float32_accuracy"),
    }  # fmt: skip


def _state(folder: pathlib.Path, name: str, digest: str) -> str:
    """Return whether a file is there and has its digest; a name that leads out of the folder is not followed."""
    if pathlib.PurePosixPath(name).is_absolute() or ".." in pathlib.PurePosixPath(name).parts:
        return "missing"
    try:
        with files.opened(folder / name) as file:
            return "unchanged" if hashlib.file_digest(file, "sha256").hexdigest() == digest else "changed"
    except (OSError, InputError, ValueError):
        return "missing"


def _format(one: Mapping[str, Any]) -> str:
    return ", ".join(filter(None, (one["format"], one.get("precision"))))


def _said(one: Mapping[str, Any], state: str) -> str:
    """Return the state of a file, and of which step its weights are if not of the measured one."""
    other = one.get("other_step")
    return state if other is None else f"{state}, but of step {other:,d}, not the measured one"


def _measured(one: Mapping[str, Any]) -> list[str]:
    agreement = "" if one["agreement"] is None else f"{one['agreement']:.4f}"
    accuracy = "" if one.get("accuracy") is None else f"{one['accuracy']:.4f}"
    if accuracy and one.get("float32_accuracy") is not None:
        accuracy += f" (float32: {one['float32_accuracy']:.4f})"
    return [f"{one['largest_difference']:.1e}", agreement, accuracy, f"{one['rows']:,d} ({one['source']})"]


def exported_as_html(report: Mapping[str, Any]) -> str:
    """Return the exports as HTML, a line for each."""
    rows = []
    for one in report["exported"]:
        state = max((part["state"] for part in one["files"]), key=STATES.index, default=STATES[0])
        about = [f"{FOLDER}/{one['name']}", _format(one), str(len(one["files"])), f"{one['bytes'] / 1024:,.0f}"]
        about.append(_said(one, state))
        rows.append([escape(cell) for cell in (*about, *_measured(one))])
    return f"<p>{ABOUT} MODEL_CARD.md has the digests.</p>" + table("Exports", SHORT, rows, (1, 8))


def exported_as_markdown(report: Mapping[str, Any]) -> str:
    """Return the exports as Markdown, a line for each file; what was measured stands at the first of an export."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    for one in report["exported"]:
        for i, part in enumerate(one["files"]):
            cells = [f"{FOLDER}/{part['name']}", _format(one), part["sha256"], _said(one, part["state"])]
            cells += [""] * 4 if i else _measured(one)
            lines.append(f"| {' | '.join(map(markdown, cells))} |")
    return "\n".join(lines) + f"\n\n{ABOUT}"
