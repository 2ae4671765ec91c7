"""A folder of images: `train/<class>/*` beside `test/<class>/*`, or just `<class>/*` with a seeded split."""

import concurrent.futures
import contextlib
import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxcnn.data.core import Indexed, OnBad, Resident, Splits, cut, labelled, sides
from jaxcnn.types import InputError, reason

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".tif", ".tiff"}
TRAIN, VALID, TEST = ("train",), ("valid", "validation", "val"), ("test",)  # in any case
GRAY = ("L", "LA", "La", "1", "I", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes; those with I are 16 bits deep
log = logging.getLogger("jaxcnn")


def folder(
    path: str | pathlib.Path,
    *,
    classes: Sequence[str] | None = None,
    size: int | tuple[int, int] | None = None,
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    resident_bytes: int = 2**30,
    on_bad: OnBad | None = None,
) -> Splits:
    """Images in one folder a class; the class is the folder's name, labels follow the sorted names.

    With `train` and `test` folders these are the parts, and `val`, `valid` or `validation` is the validation part. Without
    `test`, that folder is the test part and validation rows are cut from `train`. With class folders alone, both are cut.

    Args:
        path: the folder.
        classes: use only these classes, in this order.
        size: resize every image on reading, one number or height and width; needed where sizes differ.
        seed: of the splits, which are stratified.
        validation_fraction: share of the training rows to validate on, where no folder says which.
        test_fraction: share of all rows to test on, likewise.
        resident_bytes: decoded sets larger than this are read when needed instead of held in memory.
        on_bad: called with a line and a number for what cannot be read, which is then left out: before splitting where an
            image's head shows it or rows are held in memory, else as a row of `real = 0`, each time that it is read.

    Raises:
        InputError: no class, one class, sizes that differ, or an unreadable image without `on_bad`.

    """
    parts, size = _parts(pathlib.Path(path)), sides(size)
    names = _classes(parts["train"], classes)
    for root in parts.values():
        extra = sorted(_folders(root) - _folders(parts["train"]))
        if extra:
            raise InputError(f"{root}: class folder {extra[0]!r} has no counterpart in {parts['train']}; remove or rename it")
    listed = {part: _list(root, names) for part, root in parts.items()}
    reader = _Reader([file for files, _ in listed.values() for file in files], size, on_bad)
    listed = {part: reader.readable(files, label) for part, (files, label) in listed.items()}
    held = {part: reader.data(files, label, names, resident_bytes) for part, (files, label) in listed.items()}
    listed = {part: (None, data.arrays["label"] if isinstance(data, Resident) else listed[part][1]) for part, data in held.items()}
    train, label = held["train"], listed["train"][1]
    if "test" not in held:
        train, held["test"], label = cut(train, label, test_fraction, seed, "test_fraction")
    if "valid" not in held:
        train, held["valid"], _ = cut(train, label, validation_fraction, seed)
    return Splits(train, held["valid"], held["test"])


def class_names(path: str | pathlib.Path) -> tuple[str, ...]:
    """Names of the classes that `folder` finds, in order of label."""
    return _classes(_parts(pathlib.Path(path))["train"], None)


def _parts(path: pathlib.Path) -> dict[str, pathlib.Path]:
    if not path.is_dir():
        raise InputError(f"{path}: no such folder")
    folders = {name.lower(): path / name for name in _folders(path)}
    train, valid, test = (next((folders[n] for n in names if n in folders), None) for names in (TRAIN, VALID, TEST))
    if train is None and (valid or test):
        raise InputError(f"{valid or test}: no train/ beside it; needs train/<class>/<image>, or <class>/<image> alone")
    if train is None:
        return {"train": path}
    if test is None:
        return {"train": train} | ({"test": valid} if valid else {})
    return {"train": train, "test": test} | ({"valid": valid} if valid else {})


def _classes(root: pathlib.Path, wanted: Sequence[str] | None) -> tuple[str, ...]:
    found = tuple(sorted(_folders(root)))
    if not found:
        raise InputError(f"{root}: no class folders; needs <class>/<image> inside")
    names = found if wanted is None else tuple(wanted)
    unknown = [n for n in names if n not in found]
    if unknown:
        raise InputError(f"{root}: no class folder {unknown[0]!r}; it has {', '.join(found[:10])}{' ...' if len(found) > 10 else ''}")
    if len(set(names)) < max(len(names), 2):
        raise InputError(f"{root}: classes {', '.join(names) or 'none'}; needs at least two class folders, each once")
    return names


def _folders(root: pathlib.Path) -> set[str]:
    return {p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")}


def _list(root: pathlib.Path, classes: Sequence[str]) -> tuple[list[pathlib.Path], np.ndarray]:
    files, label = [], []
    for k, name in enumerate(classes):
        images = (p for p in (root / name).rglob("*") if p.suffix.lower() in ENDINGS and not p.name.startswith("."))
        mine = sorted(p for p in images if p.is_file())
        if not mine:
            raise InputError(f"{root / name}: no images ({' '.join(sorted(ENDINGS))}); add some, or leave the class out with classes=")
        files += mine
        label += [k] * len(mine)
    return files, np.array(label, np.int32)


class _Reader:
    """Decodes files of one set to one shape: `[height, width, channels]`, gray only if all are."""

    def __init__(self, files: list[pathlib.Path], size: tuple[int, int] | None, on_bad: OnBad | None):
        self.size, self.on_bad, self.bad = size, on_bad, set()
        heads = [(file, head) for file, head in zip(files, _each(self.guarded(_head), files), strict=True) if head is not None]
        self.bad = set(files) - {file for file, _ in heads}
        if not heads:
            raise InputError(f"{files[0].parent.parent}: no image is readable")
        gray = sum(mode in GRAY for _, (mode, _) in heads)
        self.mode = "L" if gray == len(heads) else "RGB"
        if 0 < gray < len(heads):
            log.warning("%d gray images among %d: all are read as RGB", gray, len(heads))
        if self.size is None:
            self.size = heads[0][1][1]
            other = next(((file, s) for file, (_, s) in heads if s != self.size), None)
            if other is not None:
                raise InputError(
                    f"{other[0]}: {other[1]} pixels (height, width), but {heads[0][0].name} has {self.size}; "
                    "give an image size to bring them all to, such as 64"
                )

    def guarded(self, fn: Callable[[pathlib.Path], Any]) -> Callable[[pathlib.Path], Any]:
        """Make `fn` give None, and tell `on_bad`, where a file is unreadable; without `on_bad` it raises."""

        def tried(file: pathlib.Path) -> Any:
            try:
                return fn(file)
            except InputError as error:
                if self.on_bad is None:
                    raise
                self.on_bad(str(error), 1)
                return None

        return tried

    def readable(self, files: list[pathlib.Path], label: np.ndarray) -> tuple[list[pathlib.Path], np.ndarray]:
        """Leave out the files whose head could not be read."""
        good = [i for i, file in enumerate(files) if file not in self.bad]
        return [files[i] for i in good], label[good]

    def decode(self, path: pathlib.Path) -> np.ndarray:
        """Return one image, `[H, W, C]` uint8."""
        return _decode(path, self.mode, self.size)

    def data(self, files: list[pathlib.Path], label: np.ndarray, classes: tuple[str, ...], resident_bytes: int) -> Any:
        """Hold the rows in memory if they fit, else read them when they are needed."""
        shape, decode = (*self.size, 1 if self.mode == "L" else 3), self.guarded(self.decode)
        if len(files) * int(np.prod(shape)) <= resident_bytes:
            images = [(x, k) for x, k in zip(_each(decode, files), label, strict=True) if x is not None]
            return labelled(np.stack([x for x, _ in images]), np.array([k for _, k in images]), classes, str(files[0].parent.parent))
        log.info("%d images are read when they are needed: decoded they take more than %d MiB", len(files), resident_bytes >> 20)

        def read(rows: np.ndarray) -> dict[str, np.ndarray]:
            images = _each(decode, [files[i] for i in rows])
            batch = {"image": np.stack([np.zeros(shape, np.uint8) if x is None else x for x in images]), "label": label[rows]}
            return batch if self.on_bad is None else batch | {"real": np.array([x is not None for x in images], np.float32)}

        return Indexed(read, len(files), classes, label=label)


def read_image(path: str | pathlib.Path, channels: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read one image as a model wants it: `[H, W, C]` uint8, gray for one channel, else RGB, resized if `size` is given.

    Raises:
        InputError: not a readable image.

    """
    return _decode(pathlib.Path(path), "L" if channels == 1 else "RGB", size)


def _decode(path: pathlib.Path, mode: str, size: tuple[int, int] | None) -> np.ndarray:
    """Read one image in a mode of Pillow's, as `[H, W, C]` uint8; transparency is dropped and 16 bits become 8."""
    from PIL import Image

    with _opened(path) as image:
        if image.mode.startswith("I"):  # Pillow itself would clip what is above 255
            image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
        if image.mode == "P" and "transparency" in image.info:  # Pillow warns otherwise
            image = image.convert("RGBA")
        image = image.convert(mode)
        if size is not None and image.size != size[::-1]:
            image = image.resize(size[::-1], resample=Image.Resampling.BILINEAR, reducing_gap=3.0)
        return np.asarray(image, np.uint8).reshape(*image.size[::-1], -1)


def _head(path: pathlib.Path) -> tuple[str, tuple[int, int]]:
    """Mode and (height, width), from the file's head alone."""
    with _opened(path) as image:
        return image.mode, image.size[::-1]


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode == "F":
                raise InputError(f"{path}: an image of floats has no fixed range; save it with 8 or 16 bits")
            yield image
    except InputError:
        raise
    except Exception as error:  # a damaged file raises whatever its decoder stumbles over
        raise InputError(f"{path}: not a readable image ({reason(error)}); replace or remove it") from error


def _each(fn: Any, files: list[pathlib.Path]) -> list[Any]:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(fn, files))
