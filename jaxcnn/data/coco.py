"""COCO: images, categories and objects in one JSON file per part.

Reference: Lin et al., 2014, arXiv:1405.0312.
"""

import collections
import logging
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxcnn.core.files import parse_json, read_text
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.data.core import OnBad, Splits
from jaxcnn.data.crops import Sides
from jaxcnn.data.detection import Annotation, Options, boxes, detection
from jaxcnn.data.image import Resize
from jaxcnn.data.listing import TEST, TRAIN, VALID
from jaxcnn.data.reader import guarded
from jaxcnn.data.splitting import tested

BYTES = 2**30  # most bytes of a JSON file; that of COCO's training part has 450 MB
LOOKED_AT = 100  # images to look for in each folder that may hold them
PARTS = {"train": r"train", "valid": r"val", "test": r"test"}  # in the name of a file or folder
log = logging.getLogger("jaxcnn")
Id = int | str


def coco(
    path: str | pathlib.Path,
    *,
    images: str | None = None,
    annotations: str | None = None,
    classes: Sequence[str] | None = None,
    size: int | tuple[int, int] | None = None,
    resize: Resize = "pad",
    channels: int | None = None,
    max_boxes: int | None = None,
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    group: str | None = None,
    resident_bytes: int = 2**30,
    on_bad: OnBad | None = None,
) -> Splits:
    """Load images and boxes in the format of COCO.

    A folder has `annotations/instances_train*.json` and `instances_val*.json` beside the folders of the images, or one
    JSON file, or `_annotations.coco.json` in `train/`, `valid/` and `test/`. Without a test part, the validation part
    becomes it. Images without objects are kept: in this format they show none. Objects with `iscrowd` are in
    `"box_crowd"`; polygons and RLE are passed over, see `jaxcnn.data.coco_masks`.

    Rows, and what happens to boxes that cannot be meant, are as in `jaxcnn.data.voc`.

    Args:
        path: the folder, or one JSON file, whose rows are divided.
        images: folder of the images, relative to the folder `path`, or to that of the JSON file (to the folder above
            `annotations/`); by default the folder that has them.
        annotations: the JSON file, relative to `path`, whose rows are divided; by default those described above.
        classes: names of the categories in order of label; by default all, in order of their ids.
        size: height and width of the rows, or one number for both; required if sizes of images differ.
        resize: see `jaxcnn.data.voc`.
        channels: see there.
        max_boxes: see there.
        seed: see there.
        validation_fraction: see there.
        test_fraction: see there.
        group: see there.
        resident_bytes: see there.
        on_bad: called with a message and a count for each image that is not there or not readable, which is then left
            out (or has `row_mask = 0` if rows are read as needed); None to raise.

    Returns:
        The parts; `names` of each has the files of its images, relative to `path`.

    Raises:
        InputError: A file is missing or not readable, an object belongs to no image or no category, a category is not
            in `classes`, or an image has another size than its JSON states.

    """
    top, found = located(path, annotations)
    parsed = {part: parse(file, drop=("segmentation",)) for part, file in found.items()}
    names = class_names(parsed, classes, top)
    listed = {part: _annotations(x, found[part], names, top, images, on_bad) for part, x in parsed.items()}
    options = Options(
        size, resize, channels, max_boxes, seed, validation_fraction, test_fraction, group, resident_bytes, on_bad
    )
    return detection(listed, names, options, top)


class Parsed(NamedTuple):
    """A JSON file.

    Attributes:
        images: dict from id to the name of the file and height and width, or None if they are not stated.
        categories: dict from id to name, in order of id.
        objects: dict from the id of an image to its objects as they are in the JSON file.

    """

    images: dict[Id, tuple[str, Sides | None]]
    categories: dict[Id, str]
    objects: dict[Id, list[Mapping[str, Any]]]


def located(path: str | pathlib.Path, annotations: str | None) -> tuple[pathlib.Path, dict[str, pathlib.Path]]:
    """Return the folder of a set, and the JSON file of each part."""
    path = pathlib.Path(path)
    if path.is_file():
        return path.parent.parent if path.parent.name == "annotations" else path.parent, {"train": path}
    if not path.is_dir():
        raise InputError(f"{visible(path)}: no such file or folder")
    if annotations is not None:
        return path, {"train": path / annotations}
    named, other = ("annotations/instances_*.json", "instances_*.json"), ("annotations/*.json", "*.json")
    for pattern in (*named, "*/_annotations.coco.json", *other):
        if files := [p for p in sorted(path.glob(pattern)) if not p.name.startswith(".")]:
            return path, tested(_parts(files, path), path)
    raise InputError(f"{visible(path)}: no annotations/instances_*.json and no other JSON file; give annotations=")


def _parts(files: list[pathlib.Path], top: pathlib.Path) -> dict[str, pathlib.Path]:
    """Assign JSON files to parts by their names, or by the folders that they are in."""
    if len(files) == 1 and not files[0].name.startswith("_"):
        return {"train": files[0]}
    found: dict[str, pathlib.Path] = {}
    for file in files:
        name = file.parent.name if file.name.startswith("_") else file.stem
        part = next((part for part, word in PARTS.items() if re.search(word, name.lower())), None)
        if part is None or part in found:
            why = f"{visible(found[part].name)} is the same part" if part else "neither train nor val nor test"
            raise InputError(f"{visible(file)}: {why}; give annotations= for one file of {visible(top)}")
        found[part] = file
    return found


def parse(file: pathlib.Path, drop: Sequence[str] = ()) -> Parsed:
    """Read a JSON file.

    Args:
        file: the file.
        drop: keys that are passed over as the file is read, which saves memory.

    Raises:
        InputError: It is not JSON, or an entry is missing, has another type, or refers to one that is not there.

    """
    where = visible(file)
    try:
        value = parse_json(read_text(file, BYTES), where, drop, once=True)
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({reason(error)}); give another file") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: must be an object with images, annotations and categories")
    lists = [_list(value, key, where) for key in ("images", "categories", "annotations")]
    images = _by_id(lists[0], "images", where, _image)
    categories = _by_id(lists[1], "categories", where, lambda entry: _text(entry, "name"))
    for what, names in (
        ("file_name", [str(pathlib.PurePosixPath(name)) for name, _ in images.values()]),
        ("name", list(categories.values())),
    ):
        again = next((name for name, n in collections.Counter(names).items() if n > 1), None)
        if again is not None:
            raise InputError(f"{where}: the {what} {visible(again)[:80]!r} is there twice; remove one")
    objects: dict[Id, list[Mapping[str, Any]]] = {}
    for i, entry in enumerate(lists[2]):
        image, category = entry.get("image_id"), entry.get("category_id")
        for key, known, given in (("image_id", images, image), ("category_id", categories, category)):
            if not _is_id(given) or given not in known:
                raise InputError(f"{where}: annotations[{i}]: {key} {visible(given)[:40]} is not there; correct it")
        objects.setdefault(image, []).append(entry)  # pyright: ignore[reportArgumentType] (is in a dict of ids)
    ordered = sorted(categories.items(), key=lambda pair: (isinstance(pair[0], str), pair[0]))
    return Parsed(images, dict(ordered), objects)


def _list(value: Mapping[str, Any], key: str, where: str) -> list[Mapping[str, Any]]:
    found = value.get(key)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise InputError(f"{where}: {key} must be a list of objects; a file of COCO's form has one")
    return found


def _by_id(entries: list[Mapping[str, Any]], key: str, where: str, read: Callable[[Any], Any]) -> dict[Id, Any]:
    found: dict[Id, Any] = {}
    for i, entry in enumerate(entries):
        number = entry.get("id")
        if not _is_id(number) or number in found:
            raise InputError(f"{where}: {key}[{i}]: id {visible(number)[:40]} must be a number of its own")
        try:
            found[number] = read(entry)  # pyright: ignore[reportArgumentType] (is an id)
        except InputError as error:
            raise InputError(f"{where}: {key}[{i}]: {error}") from None
    return found


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _text(entry: Mapping[str, Any], key: str) -> str:
    found = entry.get(key)
    if not isinstance(found, str) or not found.strip():
        raise InputError(f"{key} {visible(found)[:80]!r} must be a text")
    return found


def _image(entry: Mapping[str, Any]) -> tuple[str, Sides | None]:
    name, sides = _text(entry, "file_name"), (entry.get("height"), entry.get("width"))
    inside = pathlib.PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or "\0" in name:
        raise InputError(f"file_name {visible(name)[:80]!r} leads out of the folder; correct it")
    if sides == (None, None):
        return name, None
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sides):
        raise InputError(f"height {visible(sides[0])[:40]}, width {visible(sides[1])[:40]}: must be pixels")
    return name, sides  # pyright: ignore[reportReturnType] (two integers)


def class_names(parsed: Mapping[str, Parsed], classes: Sequence[str] | None, top: pathlib.Path) -> tuple[str, ...]:
    """Return the classes in order of label; refuse a category that is not in `classes`, or that parts number apart."""
    for part, mine in parsed.items():
        used = {x["category_id"] for some in mine.objects.values() for x in some}
        wanted = set(parsed["train"].categories.values()) if classes is None else set(classes)
        extra = next((name for number, name in mine.categories.items() if number in used and name not in wanted), None)
        if extra is not None:
            place = "among those of the training part" if classes is None else "in classes="
            raise InputError(
                f"{visible(top)}, {part} part: the category {visible(extra)[:80]!r} is not {place}; add it"
            )
    return tuple(parsed["train"].categories.values()) if classes is None else tuple(classes)


def image_folder(parsed: Parsed, file: pathlib.Path, top: pathlib.Path, images: str | None) -> pathlib.Path:
    """Return the folder that has the images of a JSON file."""
    if images is not None:
        return top / images
    short = file.stem.removeprefix("instances_")
    part = next((part for part, word in PARTS.items() if re.search(word, short)), None)
    folders = [short, *{"train": TRAIN, "valid": VALID, "test": TEST}.get(part or "", ())]
    inside = [*folders, *(f"images/{name}" for name in folders), "images", "."]
    places = [place for place in (file.parent, *(top / name for name in inside)) if place.is_dir()]
    names = [name for name, _ in list(parsed.images.values())[:LOOKED_AT]]
    hits = {place: sum(os.path.isfile(place / name) for name in names) for place in dict.fromkeys(places)}
    best = max(hits, key=lambda place: hits[place])
    if names and not hits[best]:
        raise InputError(f"{visible(file)}: no image {visible(names[0])[:80]!r} in its folders; give images=")
    return best


def _annotations(
    parsed: Parsed, file: pathlib.Path, classes: tuple[str, ...], top: pathlib.Path, images: str | None,
    on_bad: OnBad | None,
) -> list[Annotation]:  # fmt: skip
    """Return the images of a part with their boxes."""
    root = image_folder(parsed, file, top, images)
    label = {number: classes.index(name) for number, name in parsed.categories.items() if name in classes}

    def one(number: Id) -> Annotation:
        name, size = parsed.images[number]
        if not os.path.isfile(root / name):
            raise InputError(f"{visible(root / name)[:200]}: no such image, but {visible(file)} names it; add it")
        mine = parsed.objects.get(number, [])
        try:
            corners = [_corners(entry) for entry in mine]
            crowd = [is_crowd(entry) for entry in mine]
        except InputError as error:
            raise InputError(f"{visible(file)}: image {visible(number)[:40]}: {error}") from None
        return Annotation(root / name, boxes(corners, [label[x["category_id"]] for x in mine], crowd), size)

    made = guarded(one, on_bad)
    return [found for number in parsed.images if (found := made(number))]


def is_crowd(entry: Mapping[str, Any]) -> bool:
    """Whether an object stands for a group of objects."""
    found = entry.get("iscrowd", 0)
    if found not in (0, 1):
        raise InputError(f"iscrowd {visible(found)[:40]}: must be 0 or 1")
    return bool(found)


def _corners(entry: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Return yxyx in pixels from x, y, width and height."""
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(type(n) in (int, float) for n in box):
        raise InputError(f"bbox {visible(box)[:80]}: must be x, y, width and height")
    x, y, width, height = (float(n) if abs(n) < 1e300 else math.inf for n in box)
    return y, x, y + height, x + width
