"""A folder of images: `train/<class>/*` beside `test/<class>/*`, or just `<class>/*` with a seeded split."""

import concurrent.futures
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcnn.data.core import Indexed, Splits, cut_validation, labelled, stratified
from jaxcnn.types import InputError

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".tif", ".tiff"}
TRAIN, VALID, TEST = ("train",), ("valid", "validation", "val"), ("test",)
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

    Raises:
        InputError: no class, one class, an unreadable image, sizes that differ.

    """
    path = pathlib.Path(path)
    parts = _parts(path)
    names = _classes(parts["train"], classes)
    listed = {part: _list(root, names) for part, root in parts.items()}
    reader = _Reader(sum((files for files, _ in listed.values()), []), size)
    held = {part: reader.data(files, label, names, resident_bytes) for part, (files, label) in listed.items()}
    train, label = held["train"], listed["train"][1]
    if "test" not in held:
        rest, cut = stratified(label, test_fraction, seed)
        held["test"], train, label = train.take(cut), train.take(rest), label[rest]
    if "valid" not in held:
        train, held["valid"] = cut_validation(train, label, validation_fraction, seed)
    return Splits(train, held["valid"], held["test"])


def _parts(path: pathlib.Path) -> dict[str, pathlib.Path]:
    if not path.is_dir():
        raise InputError(f"{path}: no such folder")
    pick = lambda names: next((path / n for n in names if (path / n).is_dir()), None)  # noqa: E731
    train, valid, test = pick(TRAIN), pick(VALID), pick(TEST)
    if train is None:
        return {"train": path}
    if test is None:
        return {"train": train} | ({"test": valid} if valid else {})
    return {"train": train, "test": test} | ({"valid": valid} if valid else {})


def _classes(root: pathlib.Path, wanted: Sequence[str] | None) -> tuple[str, ...]:
    found = tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if not found:
        raise InputError(f"{root}: no class folders; needs <class>/<image> inside")
    names = found if wanted is None else tuple(wanted)
    unknown = [n for n in names if n not in found]
    if unknown:
        raise InputError(f"{root}: no class folder {unknown[0]!r}; it has {', '.join(found[:10])}{' ...' if len(found) > 10 else ''}")
    if len(set(names)) < 2:
        raise InputError(f"{root}: one class ({names[0]}); needs at least two class folders")
    return names


def _list(root: pathlib.Path, classes: Sequence[str]) -> tuple[list[pathlib.Path], np.ndarray]:
    files, label = [], []
    for k, name in enumerate(classes):
        mine = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
        if not mine:
            raise InputError(f"{root / name}: no images ({' '.join(sorted(ENDINGS))})")
        files += mine
        label += [k] * len(mine)
    return files, np.array(label, np.int32)


class _Reader:
    """Decodes files of one set to one shape: `[height, width, channels]`, gray only if all are."""

    def __init__(self, files: list[pathlib.Path], size: int | tuple[int, int] | None):
        self.size = (size, size) if isinstance(size, int) else size
        heads = _each(_head, files)
        gray = sum(mode in ("L", "1", "I;16", "I") for mode, _ in heads)
        self.mode = "L" if gray == len(files) else "RGB"
        if 0 < gray < len(files):
            log.warning("%d gray images among %d: all are read as RGB", gray, len(files))
        if self.size is None:
            self.size = heads[0][1]
            other = next((i for i, (_, s) in enumerate(heads) if s != self.size), None)
            if other is not None:
                raise InputError(
                    f"{files[other]}: {heads[other][1]} pixels (height, width), but {files[0].name} has {self.size}; "
                    "images of several sizes need --image-size (size= in Python)"
                )

    def decode(self, path: pathlib.Path) -> np.ndarray:
        """Return one image, `[H, W, C]` uint8."""
        image = _open(path)
        if image.mode.startswith("I"):
            image = image.point(lambda v: v / 257).convert("L")
        image = image.convert(self.mode)
        if image.size != self.size[::-1]:
            image = image.resize(self.size[::-1], resample=2, reducing_gap=3.0)
        return np.asarray(image, np.uint8).reshape(*self.size, -1)

    def data(self, files: list[pathlib.Path], label: np.ndarray, classes: tuple[str, ...], resident_bytes: int) -> Any:
        """Hold the rows in memory if they fit, else read them when they are needed."""
        if len(files) * self.size[0] * self.size[1] * (1 if self.mode == "L" else 3) <= resident_bytes:
            return labelled(np.stack(_each(self.decode, files)), label, classes, str(files[0].parent.parent))
        log.info("%d images are read when they are needed: decoded they take more than %d MiB", len(files), resident_bytes >> 20)
        return Indexed(
            lambda rows: {"image": np.stack(_each(self.decode, [files[i] for i in rows])), "label": label[rows]}, len(files), classes
        )


def read_image(path: str | pathlib.Path, channels: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read one image as a model wants it: `[H, W, C]` uint8, gray for one channel, else RGB, resized if `size` is given.

    Raises:
        InputError: not a readable image.

    """
    image = _open(pathlib.Path(path)).convert("L" if channels == 1 else "RGB")
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), resample=2)
    return np.asarray(image, np.uint8).reshape(image.size[1], image.size[0], -1)


def _open(path: pathlib.Path) -> Any:
    from PIL import Image

    try:
        image = Image.open(path)
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image ({str(error).splitlines()[0] if str(error) else type(error).__name__})") from error
    return image


def _head(path: pathlib.Path) -> tuple[str, tuple[int, int]]:
    """Mode and (height, width), from the file's head alone."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.mode, image.size[::-1]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image ({str(error).splitlines()[0]})") from error


def _each(fn: Any, files: list[pathlib.Path]) -> list[Any]:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(fn, files))
