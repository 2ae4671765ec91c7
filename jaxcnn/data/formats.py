"""Which function of `data.SOURCES` reads a folder or a CSV file."""

import itertools
import pathlib
from collections.abc import Collection

from jaxcnn.core.types import InputError
from jaxcnn.data.cells import rows_of, separator_of
from jaxcnn.data.image_file import ENDINGS
from jaxcnn.data.masks import IMAGES, MASKS
from jaxcnn.data.nifti import ENDINGS as VOLUMES
from jaxcnn.data.series import SUFFIXES
from jaxcnn.data.series_table import series_label
from jaxcnn.data.sound_file import ENDINGS as SOUNDS
from jaxcnn.data.table import FILE, read
from jaxcnn.data.texts import columns

BOXES = {"voc": "boxes of Pascal VOC", "coco": "boxes of COCO", "yolo": "boxes of YOLO"}  # names for users
PARTS = ("train", "valid", "validation", "val", "test")
LOOKED_AT = 64  # files of a folder of labels


def dense_format(path: pathlib.Path) -> str | None:
    """Return which function of `data.SOURCES` reads a folder's boxes or masks.

    Args:
        path: a folder, or a JSON file of COCO.

    Returns:
        `"voc"`, `"coco"`, `"yolo"`, `"masks"` or `"volumes"`, or None if the folder has neither boxes nor masks.

    """
    if path.is_file():
        return "coco" if path.suffix.lower() == ".json" else None
    if not path.is_dir():
        return None
    parts = [p for p in sorted(path.iterdir()) if p.is_dir() and p.name.lower() in PARTS]
    if _any(path, "Annotations/*.xml", "*/Annotations/*.xml", "*/*/Annotations/*.xml", "*.xml", parts=parts):
        return "voc"
    if _any(path, "annotations/*.json", "instances_*.json") or _any(None, "_annotations.coco.json", parts=parts):
        return "coco"
    if any(next(root.glob(f"[iI]mage*/*{end}"), None) for root in (path, *parts) for end in VOLUMES):
        return "volumes"
    for root in (path, *parts):
        inside = {p.name.lower(): p for p in sorted(root.iterdir()) if p.is_dir()}
        images = next((inside[name] for name in IMAGES if name in inside), None)
        if images is None:
            continue
        labels = [inside[name] for name in MASKS if name in inside]
        if any(_has(place, (".txt",)) for place in labels if place.name.lower() == "labels"):
            return "yolo"
        if any(_has(place, ENDINGS) for place in labels):
            return "masks"
    return None


def classes_format(path: pathlib.Path) -> str:
    """Return which function of `data.SOURCES` reads a folder of classes, by the first files in it.

    Args:
        path: a folder with a folder for each class, or with parts that have these.

    Returns:
        `"texts"`, `"sounds"`, or `"folder"` for images; the one that most of the first files are of.

    """
    files = (p for p in path.rglob("*") if not p.name.startswith(".") and len(p.relative_to(path).parts) > 1)
    some = [p.suffix.lower() for p in itertools.islice(files, LOOKED_AT)]
    kinds = {"folder": ENDINGS, "sounds": SOUNDS, "texts": (".txt",)}
    return max(kinds, key=lambda kind: sum(ending in kinds[kind] for ending in some))  # the first of equals


def table_format(path: pathlib.Path, text: str = "", label: str = "", rows: str = "") -> str:
    """Return which function of `data.SOURCES` reads a CSV file: `"series"`, `"texts"`, or `"csv"` for images.

    Args:
        path: the file.
        text: column of the texts that the user named.
        label: column of the labels that the user named.
        rows: what the rows are, if the user says so: `"series"` or `"texts"`.

    Raises:
        InputError: It is not clear what the rows are, or which column is the text.

    """
    series = rows == "series" or not rows and not text and FILE not in first_line(path)
    if series and series_label(path, label, rows == "series"):
        return "series"
    try:
        found = read(path, None)
    except InputError:
        return rows or "csv"  # reported when the file is read
    if FILE in found.header and not text and not rows:
        return "csv"
    columns(found, path, text or None, label or None)
    return "texts"


def first_line(path: pathlib.Path) -> list[str]:
    """Return the cells of the first line of a CSV file; none if it cannot be read."""
    try:
        found = rows_of(path, separator_of(path))
    except InputError:  # reported when the file is read
        return []
    return [cell.strip() for cell in found[0][1]] if found else []


def is_series(path: pathlib.Path) -> bool:
    """Whether a path is a file of series by its ending, or a folder with a file whose name ends in `_TRAIN`."""
    if path.is_dir():
        found = [file for end in SUFFIXES for file in path.glob(f"*_TRAIN{end}")]
        return any(file.suffix.lower() != ".csv" or FILE not in first_line(file) for file in found)
    return path.suffix.lower() in (".ts", ".tsv") and path.is_file()


def _any(path: pathlib.Path | None, *patterns: str, parts: list[pathlib.Path] = []) -> bool:  # noqa: B006 (read only)
    """Whether a file fits a pattern in the folder, or the last pattern in one of its parts."""
    places = [(path, pattern) for pattern in patterns if path is not None] + [(part, patterns[-1]) for part in parts]
    return any(next(place.glob(pattern), None) is not None for place, pattern in places)


def _has(folder: pathlib.Path, endings: Collection[str]) -> bool:
    """Whether one of the first files in a folder, at any depth, has one of these endings."""
    files = (p for p in folder.rglob("*") if not p.name.startswith(".") and p.is_file())
    return any(p.suffix.lower() in endings for p in itertools.islice(files, LOOKED_AT))
