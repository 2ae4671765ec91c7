"""Pascal VOC: one XML file per image, in `Annotations/` beside `JPEGImages/`, or beside the image itself.

Reference: Everingham et al., The Pascal Visual Object Classes (VOC) Challenge, IJCV 88, 2010.
"""

import logging
import pathlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxcnn.core.files import read_text
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.data.cells import to_float
from jaxcnn.data.core import OnBad, Splits
from jaxcnn.data.crops import Sides
from jaxcnn.data.detection import Annotation, Options, boxes, detection
from jaxcnn.data.image import Resize
from jaxcnn.data.image_file import ENDINGS
from jaxcnn.data.listing import TEST, TRAIN, VALID
from jaxcnn.data.reader import guarded
from jaxcnn.data.splitting import tested

BYTES = 2**24  # most bytes of an XML file
IMAGES, LABELS, LISTS = "JPEGImages", "Annotations", pathlib.PurePath("ImageSets", "Main")
SIDES = ("ymin", "xmin", "ymax", "xmax")
log = logging.getLogger("jaxcnn")
Pair = tuple[pathlib.Path, pathlib.Path]  # of an image and its XML file


def voc(
    path: str | pathlib.Path,
    *,
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
    r"""Load images and boxes in the format of Pascal VOC.

    Images are in `JPEGImages/`, in any format, annotations in `Annotations/`, and `ImageSets/Main/` may list the rows
    of `train`, `val` and `test`; what is not listed is left out. Without lists all images belong to one part. XML files
    may also be beside their images, in one folder, or in `train/`, `val/` and `test/`. An image without an XML file is
    refused: VOC has an XML file without objects for an image that shows none.

    Rows have `"image"`, `"boxes"` `[N, 4]` (yxyx in 0..1 of the row), `"box_label"` `[N]`, `"box_mask"` `[N]`, and, if
    any object is `difficult`, `"box_crowd"` `[N]`; `"image_size"` and `"image_box"`, with which
    `jaxcnn.data.unletterbox` brings predictions back to pixels of the file. VOC's pixels count from 1, and the last one
    is inside. Boxes are clipped at the border; those without area, inverted, outside, repeated, or with NaN are left
    out, and one line of the log counts them.

    Args:
        path: the folder, or a folder that has it inside, such as `VOCdevkit`.
        classes: class names in order of label; by default all that occur, sorted.
        size: height and width of the rows, or one number for both; required if sizes of images differ.
        resize: `"pad"` keeps the shape of an image and puts black beside it, `"squash"` does not.
        channels: 1 for gray, 3 for RGB; by default 1 if all images are gray.
        max_boxes: boxes per row, of which the largest are kept; by default as many as the image with most has.
        seed: seed of the splits.
        validation_fraction: share of the training rows to validate on, if there is no part for them.
        test_fraction: share of all rows to test on, if there is no part for them.
        group: regular expression for the names of the files, such as `r"patient(\d+)"`: rows with the same first group
            of a match, or the same match, stay in one part where parts are cut; None for no groups.
        resident_bytes: sets with more decoded bytes are read as needed instead of being held in memory.
        on_bad: called with a message and a count for each image that is not readable or has no readable annotation,
            which is then left out (or has `row_mask = 0` if rows are read as needed); None to raise.

    Returns:
        The parts; `names` of each has the files of its images, relative to `path`.

    Raises:
        InputError: The folders are not there, a file is missing or not readable, a class is not in `classes`, or an
            image has another size than its annotation states.

    """
    top = pathlib.Path(path)
    found = tested(_listed(top, on_bad), top)
    read = guarded(_read, on_bad)
    parsed = {part: [x for pair in pairs if (x := read(*pair))] for part, pairs in found.items()}
    used = {name for some in parsed.values() for x in some for name, *_ in x.objects}
    names = tuple(sorted(used)) if classes is None else tuple(classes)
    meant = guarded(_annotation, on_bad)
    listed = {part: [a for x in some if (a := meant(x, names))] for part, some in parsed.items()}
    options = Options(
        size, resize, channels, max_boxes, seed, validation_fraction, test_fraction, group, resident_bytes, on_bad
    )
    return detection(listed, names, options, top)


def _listed(top: pathlib.Path, on_bad: OnBad | None) -> dict[str, list[Pair]]:
    """Return the pairs of files of each part."""
    if not top.is_dir():
        raise InputError(f"{visible(top)}: {'not a' if top.exists() else 'no such'} folder")
    here = (top / LABELS).is_dir()
    roots = [top] if here else [p for p in sorted((*top.glob("*"), *top.glob("*/*"))) if (p / LABELS).is_dir()]
    if len(roots) > 1:
        raise InputError(f"{visible(top)}: has {visible(roots[0])} and {visible(roots[1])}; give one of them")
    if roots:
        return _by_lists(roots[0], on_bad)
    inside = {p.name.lower(): p for p in sorted(top.iterdir()) if p.is_dir()}
    named = {"train": TRAIN, "valid": VALID, "test": TEST}
    parts = {part: next((inside[n] for n in names if n in inside), None) for part, names in named.items()}
    parts = {part: p for part, p in parts.items() if p is not None and any(p.glob("*.xml"))}
    if not parts and not any(top.glob("*.xml")):
        raise InputError(f"{visible(top)}: needs JPEGImages/ and Annotations/, or XML files beside the images")
    return {part: _paired(p, p, None, on_bad) for part, p in (parts or {"train": top}).items()}


def _by_lists(root: pathlib.Path, on_bad: OnBad | None) -> dict[str, list[Pair]]:
    """Return the pairs that the lists in ImageSets/Main name; all of them belong to one part without lists."""
    images = next((root / name for name in (IMAGES, "images") if (root / name).is_dir()), None)
    if images is None:
        raise InputError(f"{visible(root)}: has {LABELS}/, but no {IMAGES}/; add the images")
    files = {"train": "train", "valid": "val", "test": "test"}
    files = {part: root / LISTS / f"{name}.txt" for part, name in files.items()}
    files = {part: file for part, file in files.items() if file.is_file()}
    if "train" not in files and (root / LISTS / "trainval.txt").is_file():
        files = {part: file for part, file in files.items() if part == "test"}
        files["train"] = root / LISTS / "trainval.txt"
    if not files:
        return {"train": _paired(images, root / LABELS, None, on_bad)}
    names = {part: list(dict.fromkeys(read_text(file).split("\n"))) for part, file in files.items()}
    names = {part: [name.strip() for name in some if name.strip()] for part, some in names.items()}
    rest = len(list(images.iterdir())) - len({name for some in names.values() for name in some})
    if rest > 0:
        log.info("%s: %d images are in no list of %s, and are left out", visible(root), rest, LISTS)
    return {part: _paired(images, root / LABELS, some, on_bad) for part, some in names.items()}


def _paired(images: pathlib.Path, labels: pathlib.Path, wanted: list[str] | None, on_bad: OnBad | None) -> list[Pair]:
    """Match images and XML files by their names."""
    files: dict[str, pathlib.Path] = {}
    for file in sorted(images.iterdir()):
        if file.suffix.lower() in ENDINGS and not file.name.startswith("."):
            if file.stem in files:
                raise InputError(f"{visible(file)}: {visible(files[file.stem].name)} has the same name; remove one")
            files[file.stem] = file
    known = {p.stem: p for p in sorted(labels.glob("*.xml")) if not p.name.startswith(".")}

    def pair(name: str) -> Pair:
        if name not in files:
            place = visible(known.get(name, images / name))
            raise InputError(f"{place}: no image of this name in {visible(images)}; add it, or remove this")
        if name not in known:
            raise InputError(f"{visible(files[name])}: no {visible(name)}.xml in {visible(labels)}; add it")
        return files[name], known[name]

    matched = guarded(pair, on_bad)
    names = sorted(files.keys() | known.keys()) if wanted is None else wanted
    return [both for name in names if (both := matched(name))]


class _Parsed(NamedTuple):
    """What an XML file states: for each object its name, corners yxyx as written, and whether it is difficult."""

    image: pathlib.Path
    file: pathlib.Path
    objects: list[tuple[str, list[float], bool]]
    size: Sides | None


def _read(image: pathlib.Path, file: pathlib.Path) -> _Parsed:
    """Read an XML file."""
    try:
        text = read_text(file, BYTES)
        # expat would expand entities, which a few lines can make take gigabytes; VOC has no use for a DOCTYPE
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise InputError("has a DOCTYPE, which is not read; remove it")
        root = ElementTree.fromstring(text)
        objects = [_object(x) for x in root.iter("object")]
        size = root.find("size")
        stated = (_number(size, "height"), _number(size, "width")) if size is not None else (0.0, 0.0)
        whole = all(n > 0 and n == int(n) for n in stated)  # some tools write 0
        return _Parsed(image, file, objects, (int(stated[0]), int(stated[1])) if whole else None)
    except (InputError, ElementTree.ParseError, OSError, ValueError, OverflowError) as error:
        where = visible(file)
        if isinstance(error, InputError):
            raise InputError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
        raise InputError(f"{where}: not a readable XML file ({visible(reason(error))}); replace it") from error


def _object(node: Any) -> tuple[str, list[float], bool]:
    """Return name, corners yxyx, and whether an object is difficult."""
    box, name = node.find("bndbox"), (node.findtext("name") or "").strip()
    if box is None or not name:
        raise InputError(f"an object without {'bndbox' if name else 'name'}; add it")
    difficult = (node.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise InputError(f"difficult is {visible(difficult)[:40]!r}; must be 0 or 1")
    return name, [_number(box, key) for key in SIDES], difficult == "1"


def _number(node: Any, key: str) -> float:
    text = (node.findtext(key) or "").strip()
    try:
        return to_float(text)
    except ValueError:
        raise InputError(f"{key} is {visible(text)[:40]!r}; must be a number") from None


def _annotation(parsed: _Parsed, classes: tuple[str, ...]) -> Annotation:
    """Number the classes, and bring corners to coordinates from 0, the end outside."""
    label = {name: i for i, name in enumerate(classes)}
    unknown = next((name for name, *_ in parsed.objects if name not in label), None)
    if unknown is not None:
        known = visible(", ".join(classes[:10]))
        raise InputError(
            f"{visible(parsed.file)}: the class {visible(unknown)[:80]!r} is not in classes= ({known}); add it"
        )
    corners = [_from_first(*box) for _, box, _ in parsed.objects]
    difficult = [flag for *_, flag in parsed.objects]
    stated = boxes(corners, [label[name] for name, *_ in parsed.objects], difficult)
    return Annotation(parsed.image, stated, parsed.size)


def _from_first(y0: float, x0: float, y1: float, x1: float) -> tuple[float, float, float, float]:
    """Move the start from the first pixel, counted from 1, to its border.

    Where both ends are equal, they stay so: such a box is a click of the mouse, not an object of one pixel.
    """
    return y0 - (y1 > y0), x0 - (x1 > x0), y1, x1
