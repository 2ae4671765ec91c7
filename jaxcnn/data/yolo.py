"""YOLO: one text file per image, with a line `class cx cy w h` per object, in shares of the image as it is shown."""

import collections
import functools
import logging
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import yaml

from jaxcnn.core.files import read_text
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.data.cells import to_float
from jaxcnn.data.core import OnBad, Splits
from jaxcnn.data.detection import Annotation, Options, boxes, detection
from jaxcnn.data.image import Resize
from jaxcnn.data.image_file import ENDINGS
from jaxcnn.data.listing import TEST, TRAIN, VALID
from jaxcnn.data.reader import guarded
from jaxcnn.data.splitting import tested

BYTES, YAML_BYTES = 2**24, 2**20  # most bytes of a text file, and of a YAML file, which is slow to parse
BESIDE = 0.1  # how far points of a polygon may lie outside the image, in shares
SHARE = 10  # a larger number is no share, but pixels
IMAGES, LABELS = "images", "labels"
TWICE = object()  # the key under which a mapping lists the keys that occur twice
YEAR = re.compile(r"[-_]?(?:19|20)\d\d$")
CLASSES, YAML = ("classes.txt", "obj.names", "labels/classes.txt"), ("data.yaml", "data.yml", "dataset.yaml")
log = logging.getLogger("jaxcnn")
Files = dict[str, pathlib.Path]


def yolo(
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
    """Load images and boxes in the format of YOLO.

    Images are in `images/`, text files of the same names in `labels/`. Both may have folders `train`, `val` and `test`
    inside, or lie in such folders. An image without a text file, or with an empty one, is kept: in this format it shows
    no object. A text file without an image is refused. A line may also have a polygon, `class x y x y ...`, which
    becomes the box around it.

    The names of the classes are read from `data.yaml` or `classes.txt`, if one is there; of `data.yaml` only `names` is
    read, not the paths. Rows, and what happens to boxes that cannot be meant, are as in `jaxcnn.data.voc`.

    Args:
        path: the folder.
        classes: class names in order of label; by default those of the file, or the numbers up to the largest.
        size: height and width of the rows, or one number for both; required if sizes of images differ.
        resize: see `jaxcnn.data.voc`.
        channels: see there.
        max_boxes: see there.
        seed: see there.
        validation_fraction: see there.
        test_fraction: see there.
        group: see there.
        resident_bytes: see there.
        on_bad: called with a message and a count for each image that is not readable, or whose text file is not, which
            is then left out (or has `row_mask = 0` if rows are read as needed); None to raise.

    Returns:
        The parts; `names` of each has the files of its images, relative to `path`.

    Raises:
        InputError: The folders are not there, a text file has no image or a line that is no object, or a class is not
            among the names.

    Reference: Redmon et al., 2016, arXiv:1506.02640 (YOLO); the files are those of Darknet and Ultralytics.

    """
    top = pathlib.Path(path)
    if not top.is_dir():
        raise InputError(f"{visible(top)}: {'not a' if top.exists() else 'no such'} folder")
    found = tested(_parts(top), top)
    names = tuple(classes) if classes is not None else class_names(top)
    pose = any(re.search(r"^kpt_shape\s*:", _text(top / name), re.M) for name in YAML if (top / name).is_file())
    read = guarded(functools.partial(_annotation, pose=pose), on_bad)
    pairs = {part: _pairs(images, labels, on_bad) for part, (images, labels) in found.items()}
    if any(pairs.values()) and all(text is None for some in pairs.values() for _, text in some):
        raise InputError(f"{visible(top)}: no text file has the name of an image; check {LABELS}/")
    listed = {part: [a for pair in some if (a := read(*pair, names))] for part, some in pairs.items()}
    if names is None:
        most = max((int(a.stated.label.max(initial=-1)) for some in listed.values() for a in some), default=-1)
        names = tuple(map(str, range(most + 1)))
    options = Options(
        size, resize, channels, max_boxes, seed, validation_fraction, test_fraction, group, resident_bytes, on_bad
    )
    return detection(listed, names, options, top)


def _parts(top: pathlib.Path) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    """Return the folders of images and of text files of each part."""
    named = {"train": TRAIN, "valid": VALID, "test": TEST}
    for before in (True, False):  # images/train/, or train/images/
        place = top / IMAGES if before else top
        found: dict[str, tuple[pathlib.Path, pathlib.Path]] = {}
        left: list[str] = []
        for folder in sorted(p for p in place.iterdir() if p.is_dir()) if place.is_dir() else ():
            word = YEAR.sub("", folder.name.lower())  # train2017 is the training part too
            part = next((part for part, names in named.items() if word in names), None)
            both = (folder, _alike(top / LABELS, folder.name)) if before else (folder / IMAGES, folder / LABELS)
            if part is None or not both[0].is_dir():
                left += [folder.name] if before else []
                continue
            if part in found:
                line = f"and {visible(both[0])} are both the {part} part; move one of them away"
                raise InputError(f"{visible(found[part][0])} {line}")
            found[part] = both
        if found and left:
            log.warning("%s: ignored %s: not named train, val or test", visible(place), visible(", ".join(left[:10])))
        if found:
            return found
    if not (top / IMAGES).is_dir():
        raise InputError(f"{visible(top)}: needs {IMAGES}/ beside {LABELS}/, or train/ with both inside")
    return {"train": (top / IMAGES, top / LABELS)}


def _alike(place: pathlib.Path, name: str) -> pathlib.Path:
    """Return the folder of this name, in upper or lower case."""
    inside = sorted(place.iterdir()) if place.is_dir() else []
    return next((p for p in inside if p.name.lower() == name.lower() and not (place / name).is_dir()), place / name)


def _pairs(
    images: pathlib.Path, labels: pathlib.Path, on_bad: OnBad | None
) -> list[tuple[pathlib.Path, pathlib.Path | None]]:
    """Match images and text files by their names."""
    if not labels.is_dir():
        line = f"no such folder, so that no image in {visible(images)} would have an object"
        raise InputError(f"{visible(labels)}: {line}; add it, or move those images away")
    pictures, texts = _files(images, ENDINGS), _files(labels, {".txt"})
    texts = {name: file for name, file in texts.items() if file.name != "classes.txt"}

    def known(name: str) -> None:
        if name not in pictures:
            raise InputError(f"{visible(texts[name])}: no image of this name in {visible(images)}; add it")

    for name in texts:
        guarded(known, on_bad)(name)
    alone = len(pictures.keys() - texts.keys())
    if alone:
        log.info("%s: %d of %d images have no text file: they show no object", visible(images), alone, len(pictures))
    return [(file, texts.get(name)) for name, file in sorted(pictures.items())]


def _files(place: pathlib.Path, endings: set[str]) -> Files:
    """Return a dict from the name, without its ending, to the file."""
    found: Files = {}
    for file in sorted(place.rglob("*")):
        if file.suffix.lower() in endings and not file.name.startswith("."):
            name = file.relative_to(place).with_suffix("").as_posix()
            if name in found:
                raise InputError(f"{visible(file)}: {visible(found[name].name)} has the same name; remove one")
            found[name] = file
    return found


def _annotation(
    image: pathlib.Path, file: pathlib.Path | None, names: tuple[str, ...] | None, *, pose: bool
) -> Annotation:
    """Read a text file; with `pose`, the keypoints after each box are ignored."""
    rows, labels = [], []
    lines = [] if file is None else _text(file).splitlines()
    for i, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            label, box = _object(line.split()[:5] if pose else line.split())
        except InputError as error:
            raise InputError(f"{visible(file)}: line {i}: {error}") from None
        if names is not None and label >= len(names):
            raise InputError(
                f"{visible(file)}: line {i}: class {label}, but there are {len(names)} names; add its name"
            )
        rows.append(box)
        labels.append(label)
    return Annotation(image, boxes(rows, labels), shares=True)


def _object(words: list[str]) -> tuple[int, tuple[float, float, float, float]]:
    """Return the class and the box, yxyx in shares, of a line."""
    try:
        label, *numbers = map(to_float, words)
    except ValueError:
        raise InputError(f"{visible(' '.join(words))[:60]!r}: must be numbers") from None
    if not (0 <= label < 10**6 and label == int(label)):
        raise InputError(f"class {visible(words[0])[:40]}: must be an integer from 0")
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        raise InputError(f"{len(words)} numbers: must be class, cx, cy, w and h, or class and the points of a polygon")
    if any(abs(n) > SHARE for n in numbers):
        raise InputError(f"{visible(' '.join(words))[:60]!r}: must be shares of the image, 0 to 1, not pixels")
    if len(numbers) == 4:
        x, y, width, height = numbers
        return int(label), (y - height / 2, x - width / 2, y + height / 2, x + width / 2)
    if any(not -BESIDE <= n <= 1 + BESIDE for n in numbers if n == n):
        raise InputError("the points of a polygon must lie in 0 to 1; keypoints need kpt_shape in data.yaml")
    xs, ys = numbers[::2], numbers[1::2]
    if any(n != n for n in numbers):  # min and max would pass over NaN
        return int(label), (math.nan, math.nan, math.nan, math.nan)
    return int(label), (min(ys), min(xs), max(ys), max(xs))


def _text(file: pathlib.Path, limit: int = BYTES) -> str:
    try:
        return read_text(file, limit)
    except OSError as error:
        raise InputError(f"{visible(file)}: cannot be read ({reason(error)}); replace it") from error


def class_names(path: str | pathlib.Path) -> tuple[str, ...] | None:
    """Return the names of the classes from a file of a data set; None if there is none."""
    top = pathlib.Path(path)
    for name in YAML:
        if (top / name).is_file():
            return _yaml_names(top / name)
    for name in CLASSES:
        if (top / name).is_file():
            names = tuple(line.strip() for line in _text(top / name).strip().splitlines())
            if not all(names):
                raise InputError(f"{visible(top / name)}: an empty line among the names; labels count lines, remove it")
            return names
    return None


class _Texts(yaml.BaseLoader):
    """Keeps every value as text, and records keys that occur twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node."""
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            counts = collections.Counter(str(key.value) for key, _ in node.value)
            found[TWICE] = [key for key, count in counts.items() if count > 1]
        return found


def _yaml_names(file: pathlib.Path) -> tuple[str, ...]:
    """Read `names` of a YAML file: a list or a mapping from number to name."""
    try:
        found = yaml.load(_text(file, YAML_BYTES), Loader=_Texts)
    except (yaml.YAMLError, RecursionError) as error:
        why = visible(" ".join(str(error).split()))[:200]
        raise InputError(f"{visible(file)}: not YAML ({why}); correct it, or give classes=") from error
    found = found if isinstance(found, dict) else {}
    names = found.get("names")
    if "names" in found.get(TWICE, ()):
        raise InputError(f"{visible(file)}: names: is there twice; remove one, or give classes=")
    if isinstance(names, dict) and TWICE in names:
        raise InputError(f"{visible(file)}: names: has the key {visible(names[TWICE][0])!r} twice; remove one")
    if names is None:
        raise InputError(f"{visible(file)}: no names:; add the names of the classes, or give classes=")
    listed = dict(enumerate(names)) if isinstance(names, list) else names if isinstance(names, dict) else {}
    good = {i: name for i, name in listed.items() if re.fullmatch(r"[0-9]{1,6}", str(i)) and isinstance(name, str)}
    numbered = {int(i): name for i, name in good.items() if name}
    if not numbered or sorted(numbered) != list(range(len(listed))):
        raise InputError(f"{visible(file)}: names: cannot be read, or are not numbered from 0; give classes=")
    return tuple(numbered[i] for i in range(len(numbered)))
