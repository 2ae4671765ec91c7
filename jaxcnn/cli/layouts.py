"""What `DATA` holds: which layouts fit, which task that implies, and how to read it."""

import contextlib
import difflib
import logging
import os
import pathlib
from typing import Any, NamedTuple

from jaxcnn import runs
from jaxcnn.cli.flags import one_of
from jaxcnn.core.files import expanded
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import Splits, classes_format, dense_format, is_idx_folder, table_format
from jaxcnn.data.formats import BOXES, is_series
from jaxcnn.data.image import head
from jaxcnn.data.image_file import ENDINGS
from jaxcnn.data.masks import MASKS
from jaxcnn.data.series_table import series_label
from jaxcnn.data.sound_file import ENDINGS as SOUNDS
from jaxcnn.data.sounds import usual_form
from jaxcnn.data.table import FILE, TARGET, kind_of
from jaxcnn.data.table import read as read_table
from jaxcnn.data.texts import LONGEST, columns
from jaxcnn.runs.source import read as read_source

TASKS = ("classification", "detection", "multilabel", "regression", "segmentation")
PHOTO, SMALL = 128, 64  # side to which photos are resized; up to SMALL, images of equal size keep it
SCENE, STRIDE = 256, 32  # longest side of images with masks or boxes, and what those with boxes are multiples of
LOOKED_AT = 32
log = logging.getLogger("jaxcnn")


class Found(NamedTuple):
    """Data that a user named.

    Attributes:
        kind: a key of `data.SOURCES`.
        options: arguments of that function.
        task: one of `TASKS`.
        line: description for the user.
        files: whether its rows are image files.

    """

    kind: str
    options: dict[str, Any]
    task: str
    line: str
    files: bool = False


def look(name: str, task: str = "", data_dir: str = "", text: str = "", label: str = "", table: str = "") -> Found:
    """Find out what a user named, and which task that implies.

    Known layouts (images and masks, IDX files, parts, a CSV file beside images) are tried before a plain folder of
    classes.

    Args:
        name: a path, `digits`, or the name of a TFDS data set.
        task: the task, needed if two layouts fit; empty lets the data decide.
        data_dir: where TFDS data sets are prepared.
        text: column of the texts in a CSV file; empty lets the file decide.
        label: column of their classes, or of those of series.
        table: what the rows of a CSV file are, `texts` or `series`; empty lets the file decide.

    Returns:
        The layout that fits.

    Raises:
        InputError: nothing is there, nothing fits, or two layouts fit.

    """
    if not name:
        raise InputError(
            "DATA: give a folder of classes or of images/ and masks/, a .csv, an .npz, IDX files, or a TFDS name"
        )
    if task:
        one_of("--task", task, TASKS)
    path = expanded(name)
    if is_series(path):
        found = [_series(path, label)]
    elif path.is_dir():
        found = _in_folder(path)
    elif path.suffix.lower() == ".csv" and path.is_file():
        found = [_csv(path, task, text, label, table)]
    else:
        _refuse_slip(name, path)
        found = [_dense(path) or _named(name, data_dir)]
    fit = [one for one in found if task in ("", one.task)]
    if not fit:
        raise InputError(f"{visible(name)}: --task {task} does not fit: {found[0].line}")
    if len(fit) == 1 or task:
        return fit[0]
    listed = ", or ".join(f"{one.line.split(':')[0]} (--task {one.task})" for one in fit)
    fix = "choose one with --task NAME"
    if len({one.task for one in fit}) < len(fit):
        fix = "choose one with --task NAME, or give the CSV file itself"
    raise InputError(f"{visible(name)}: two layouts fit, {listed}; {fix}")


def _named(name: str, data_dir: str) -> Found:
    """Return the layout of a file, or of a data set with a name."""
    kind, options = runs.find(name, data_dir or None)
    names = {"npz": "arrays in one .npz", "idx": "IDX files", "digits": "embedded digits", "tfds": "TFDS set"}
    return Found(kind, options, "classification", f"{names[kind]}: classification")


def _in_folder(path: pathlib.Path) -> list[Found]:
    """Return the layouts that fit a folder."""
    if dense := _dense(path):
        return [dense]
    known = []
    if is_idx_folder(path):
        known.append(Found("idx", {"path": str(path)}, "classification", "IDX files: classification"))
    names = {entry.name.lower(): entry for entry in sorted(path.iterdir()) if entry.is_dir()}
    parts = [name for name in ("train", "valid", "validation", "val", "test") if name in names]
    if classes_format(path) == "sounds":
        known.append(
            Found("sounds", {"path": str(path)}, "classification", "sounds in folders of classes: classification")
        )
    elif classes_format(path) == "texts":
        known.append(
            Found("texts", {"path": str(path)}, "classification", "texts in folders of classes: classification")
        )
    elif "train" in parts:
        inside = len(_class_folders(names["train"]))
        if inside:
            about = f"photos: {inside} classes in the folders {', '.join(f'{name}/' for name in parts)}: classification"
            known.append(Found("folder", {"path": str(path)}, "classification", about, True))
    known += [_csv(file, "") for file in sorted(path.glob("*.csv")) if _lists_images(file)]
    if known:
        return known
    inside = _class_folders(path)
    if len(inside) < 2:
        what = "no class folders, no IDX files and no CSV file of images"
        if inside:
            what = f"only one class folder, {visible(inside[0])}/"
        raise InputError(
            f"{visible(path)}: {what}; needs <class>/<image, sound or text> for at least two "
            "classes, images/ beside masks/, boxes of VOC, COCO or YOLO, or a CSV with a column 'file'"
        )
    about = f"photos: {len(inside)} classes in folders: classification"
    return [Found("folder", {"path": str(path)}, "classification", about, True)]


def _dense(path: pathlib.Path) -> Found | None:
    """Return the layout of images with masks or boxes, if the path has one."""
    kind = dense_format(path)
    if kind is None:
        return None
    if kind == "volumes":
        return Found(kind, {"path": str(path)}, "segmentation", "volumes with labels: segmentation")
    task, labels = ("segmentation", "masks") if kind == "masks" else ("detection", BOXES[kind])
    return Found(kind, {"path": str(path)}, task, f"images with {labels}: {task}", True)


def _class_folders(path: pathlib.Path) -> list[str]:
    """Return the names of the subfolders that hold an image at any depth."""
    inside = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    return [p.name for p in inside if any(q.suffix.lower() in ENDINGS for q in p.rglob("*"))]


def _lists_images(path: pathlib.Path) -> bool:
    """Whether a CSV file has a column of files, the first of which exists."""
    try:
        found = read_table(path)
        kind_of(found, path)
    except InputError as error:
        return "both fit" in str(error)
    return os.path.isfile(path.parent / found.column(FILE)[0]) and not _is_sound(found.column(FILE)[0])


def _is_sound(name: str) -> bool:
    return pathlib.PurePath(name).suffix.lower() in SOUNDS


def _csv(path: pathlib.Path, task: str, text: str = "", label: str = "", table: str = "") -> Found:
    kind = table_format(path, text, label, table)
    if kind == "series":
        return _series(path, series_label(path, label, table == "series"))
    if kind == "texts":
        return _texts(path, task, text, label)
    found = read_table(path)
    if _is_sound(found.column(FILE)[0]):
        fix = "give a folder with a folder for each class"
        raise InputError(f"{visible(path)}: lists sounds, which are read from folders of classes; {fix}")
    kind = task or kind_of(found, path)
    about = f"{visible(path.name)} with {len(found.rows):,} images: {kind}"
    return Found("csv", {"path": str(path), "task": kind}, kind, about, True)


def _texts(path: pathlib.Path, task: str, text: str, label: str) -> Found:
    found = read_table(path, None)
    column, answer = columns(found, path, text or None, label or None)
    kind = task or ("multilabel" if not answer else "regression" if answer == TARGET else "classification")
    about = f"{visible(path.name)} with {len(found.rows):,} texts, column {visible(column)!r}: {kind}"
    named = {"column": column} | ({"label": answer} if answer else {})
    return Found("texts", {"path": str(path), "task": kind, **named}, kind, about)


def _series(path: pathlib.Path, label: str) -> Found:
    at = {"label": label} if label and path.suffix.lower() != ".ts" else {}
    about = f"series of {visible(path.name)}" + (f", labels in column {visible(label)!r}" if at else "")
    return Found("series", {"path": str(path), **at}, "classification", f"{about}: classification")


def _refuse_slip(name: str, path: pathlib.Path) -> None:
    """Refuse a path that does not exist but nearly matches a file that does."""
    if path.exists() or name == "digits":
        return
    here = [p for p in os.listdir(path.parent)] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, [*here, "digits"], 1, 0.75)
    if near:
        there = near[0] if path.parent == pathlib.Path() else str(path.parent / near[0])
        raise InputError(f"{visible(name)}: no such file or folder; did you mean {visible(there)}?")


def read(found: Found, config: Any, skipped: Any = None, size: Any = None) -> tuple[Splits, dict[str, Any]]:
    """Read data that `look` found.

    Args:
        found: result of `look`.
        config: flags `validation_fraction`, `on_bad_example`, `image_size` and `resize`.
        skipped: called with each example that cannot be read, if the flags allow skipping.
        size: height and width for image files if the flags do not give them; None lets the files decide.

    Returns:
        The parts, and how they were read, for `config.json`.

    Raises:
        InputError: as raised by the reader.

    """
    options = found.options | {"validation_fraction": config.validation_fraction}
    if found.files:
        options |= {"size": config.image_size or size or side_of(found)}
        options |= {"resize": config.resize} if config.resize else {}
    elif config.resize:
        raise InputError(f"--resize {config.resize}: only image files are resized on reading; leave it out")
    if found.kind == "sounds":
        options |= _form(found, config)
    if found.kind == "texts":
        options |= {"unit": one_of("--unit", config.unit, LONGEST)}
    if config.image_size and found.kind in ("tfds", "volumes"):
        options |= {"size": config.image_size}
    elif config.image_size and found.kind in ("npz", "idx", "digits"):
        raise InputError(f"--image-size {config.image_size}: images in {found.kind} keep their size; leave it out")
    on_bad = skipped if config.on_bad_example == "skip" else None
    try:
        splits = read_source(found.kind, options, on_bad)
    except InputError as error:
        if found.kind != "tfds" or config.image_size or "size" not in str(error):
            raise
        options |= {"size": PHOTO}  # images of many sizes
        splits = read_source(found.kind, options, on_bad)
    return splits, runs.source(found.kind, options)


def _form(found: Found, config: Any) -> dict[str, Any]:
    """Return rate and length of the rows of sounds, of the flags or else of the training sounds."""
    rate, seconds = config.rate, config.seconds
    if not rate or not seconds:
        usual = usual_form(found.options["path"], (lambda *_: None) if config.on_bad_example == "skip" else None)
        rate, seconds = rate or usual[0], seconds or usual[1]
    line = "sounds are read at %s samples per second, in rows of %g seconds (--rate, --seconds)"
    log.info(line, f"{rate:,}", seconds)
    return {"rate": rate, "seconds": seconds}


def side_of(found: Found) -> int | tuple[int, int] | None:
    """Return the size to which image files are resized; None if they are small and equal in size and keep it."""
    found_sizes = set(sizes(found, LOOKED_AT))
    if found.task in ("segmentation", "detection"):
        height, width = next(iter(found_sizes)) if len(found_sizes) == 1 else (SCENE, SCENE)
        share, step = min(SCENE / max(height, width), 1), STRIDE if found.task == "detection" else 1
        return max(round(share * height / step), 1) * step, max(round(share * width / step), 1) * step
    small = len(found_sizes) == 1 and max(next(iter(found_sizes))) <= SMALL
    return None if small else PHOTO


def sizes(found: Found, most: int) -> list[tuple[int, int]]:
    """Return height and width of the first image files, skipping those that cannot be read."""
    out = []
    for file in _some_files(found, most):
        with contextlib.suppress(InputError):  # reported when the file is read
            out.append(head(file).size)
    return out


def _some_files(found: Found, most: int) -> list[pathlib.Path]:
    path = pathlib.Path(found.options["path"])
    if found.kind == "csv":
        return [path.parent / name for name in read_table(path).column(FILE)[:most]]
    path, files = path if path.is_dir() else path.parent, []
    for file in path.rglob("*"):
        mask = found.kind == "masks" and file.parent.name.lower() in MASKS
        if file.suffix.lower() in ENDINGS and not file.name.startswith(".") and not mask:
            files.append(file)
            if len(files) == most:
                break
    return files
