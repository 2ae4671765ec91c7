"""Volumes with labels: a folder of NIfTI images beside a folder of NIfTI labels of the same names."""

import logging
import pathlib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from jaxcnn.core.files import read_json
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.core import Indexed, OnBad, Resident, Splits, taken
from jaxcnn.data.listing import TEST, TRAIN, VALID
from jaxcnn.data.nifti import ENDINGS, Head, centred, read_head, read_nifti
from jaxcnn.data.parts import tell_copies
from jaxcnn.data.reader import each, guarded
from jaxcnn.data.splitting import parted, tested

IMAGES, LABELS = ("images", "image"), ("labels", "label", "masks", "mask")
SUFFIXES = {"": "train", "tr": "train", "val": "valid", "va": "valid", "ts": "test"}  # those of Medical Decathlon
WHOLE = 1e-3  # how far a label with a scale may be from an integer
log = logging.getLogger("jaxcnn")
Size = tuple[int, int, int]
Pair = tuple[pathlib.Path, pathlib.Path]


def volumes(
    path: str | pathlib.Path,
    *,
    classes: Sequence[str] | None = None,
    size: int | Size | None = None,
    ignore_label: int = 255,
    percentiles: tuple[float, float] = (0.5, 99.5),
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    group: str | None = None,
    resident_bytes: int = 2**30,
    on_bad: OnBad | None = None,
) -> Splits:
    """Load volumes and a label per voxel from NIfTI files, `.nii` or `.nii.gz`; needs `pip install nibabel`.

    A folder has `images/` beside `labels/`, or `imagesTr/` beside `labelsTr/` (`imagesTs/` and `labelsTs/` are the test
    part) as in the Medical Segmentation Decathlon, or `train/`, `val/` and `test/` with these inside. An image and its
    labels have the same name; images may end in `_0000`, as nnU-Net names the only channel.

    Rows have `"image"` `[D, H, W, 1]`, float32 in 0..1, and `"mask"` `[D, H, W]`, uint8; from foot to head, from back
    to front, from left to right, whatever the order in the file; `"image_size"` `[3]`, the shape in the file, and
    `"spacing"` `[3]`, millimetres per voxel, both in this order. Volumes are not resampled; labels whose affine puts
    them elsewhere than their image are paired by voxel, and told in the log. To write a prediction for a row,
    `write_nifti(path, centred(prediction, image_size), like=file)`, with the file in `names`.

    Args:
        path: the folder.
        classes: class names in order of label; by default those in `dataset.json`, or the numbers from 0 to the largest
            label, for which all labels are read.
        size: depth, height and width of the rows, or one number for all: volumes are cut or padded evenly on all sides;
            by default the largest volume in each direction, so that nothing is cut.
        ignore_label: label of voxels without a class, which it stays, and of those that pad a volume, 0..255.
        percentiles: values of each volume that become 0 and 1, in percent; what is beyond is clipped. If they are the
            same, smallest and largest value do. NaN and infinity become 0, and one line of the log counts them.
        seed: seed of the splits.
        validation_fraction: share of the training rows to validate on, if there is no folder for them.
        test_fraction: share of all rows to test on, if there is no folder for them.
        group: see `jaxcnn.data.voc`.
        resident_bytes: sets with more bytes are read as needed instead of being held in memory.
        on_bad: called with a message and a count for each pair that is not readable, which is then left out (or has
            `row_mask = 0` if rows are read as needed); None to raise.

    Returns:
        The parts; `names` of each has the files of its images, relative to `path`.

    Raises:
        InputError: The folders are not there, a file has no counterpart or is not readable, labels have another shape
            or orientation than their image or are no classes, or nibabel is not installed.

    """
    top = pathlib.Path(path)
    listed = {part: _pairs(*folders) for part, folders in _parts(top).items()}
    reader = _Volumes(listed, size, ignore_label, percentiles, on_bad, top)
    reader.name(classes)
    held = {part: reader.data(pairs, resident_bytes) for part, pairs in listed.items()}
    splits = parted(held, seed, validation_fraction, test_fraction, group)
    tell_copies(splits, visible(top), top=top)
    return splits


def read_volume(path: str | pathlib.Path, *, percentiles: tuple[float, float] = (0.5, 99.5)) -> np.ndarray:
    """Read a volume without labels in the form of the rows of `volumes`, such as one to predict.

    Args:
        path: path of a `.nii` or `.nii.gz` file.
        percentiles: as for `volumes`.

    Returns:
        `[D, H, W, 1]`, float32 in 0..1, in the shape of the file; `centred` brings it to that of the rows.

    Raises:
        InputError: the file is not readable, no voxel is finite, or the percentiles are out of range. One line of the
            log counts voxels that are NaN or infinite and are read as 0.

    """
    _check_percentiles(percentiles)
    voxels, mended = _image(pathlib.Path(path), percentiles)
    if mended:
        log.warning("%s: %d voxels are NaN or infinite, and are read as 0", visible(path), mended)
    return voxels[..., None]


def _check_percentiles(percentiles: tuple[float, float]) -> None:
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise InputError(f"percentiles={percentiles}: must be two of 0 to 100, the smaller one first")


def _parts(top: pathlib.Path) -> dict[str, Pair]:
    """Return the folders of images and labels of each part."""
    if not top.is_dir():
        raise InputError(f"{visible(top)}: {'not a' if top.exists() else 'no such'} folder")
    inside = {p.name.lower(): p for p in sorted(top.iterdir()) if p.is_dir()}
    places = {suffix: (inside, suffix, part) for suffix, part in SUFFIXES.items()}
    for part, names in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        for name in names:
            if name in inside:
                within = {p.name.lower(): p for p in sorted(inside[name].iterdir()) if p.is_dir()}
                places[name] = (within, "", part)
    found: dict[str, Pair] = {}
    for folders, suffix, part in places.values():
        images, labels = (
            next((folders[n + suffix] for n in names if n + suffix in folders), None) for names in (IMAGES, LABELS)
        )
        if images is not None and labels is not None:
            if part in found:
                raise InputError(f"{visible(images)} and {visible(found[part][0])} are the same part; remove one")
            found[part] = images, labels
        elif images is not None:
            log.warning("%s: left out, because there are no labels beside it", visible(images))
    if not found:
        raise InputError(f"{visible(top)}: needs images/ beside labels/, or imagesTr/ beside labelsTr/")
    return tested(found, top)


def _pairs(images: pathlib.Path, labels: pathlib.Path) -> list[Pair]:
    """Match images and labels by their names."""
    pictures, known = _files(images, "_0000"), _files(labels, "")
    for here, there, what in ((pictures, known, "labels"), (known, pictures, "image")):
        alone = sorted(here.keys() - there.keys())
        if alone:
            raise InputError(f"{visible(here[alone[0]])}: has no {what} ({len(alone)} such); add it, or remove this")
    if not pictures:
        raise InputError(f"{visible(images)}: no volumes; they end in {' or '.join(ENDINGS)}")
    return [(pictures[name], known[name]) for name in sorted(pictures)]


def _files(place: pathlib.Path, channel: str) -> dict[str, pathlib.Path]:
    found: dict[str, pathlib.Path] = {}
    for file in sorted(place.iterdir()):
        if file.name.endswith(ENDINGS) and not file.name.startswith("."):
            name = file.name.removesuffix(".gz").removesuffix(".nii").removesuffix(channel)
            if name in found:
                raise InputError(f"{visible(file)}: {visible(found[name].name)} has the same name; remove one")
            found[name] = file
    return found


class _Volumes:
    """Reads pairs of files in one shape."""

    def __init__(
        self,
        listed: dict[str, list[Pair]],
        size: int | Size | None,
        ignore_label: int,
        percentiles: tuple[float, float],
        on_bad: OnBad | None,
        top: pathlib.Path,
    ) -> None:
        if not 0 <= ignore_label <= 255:
            raise InputError(f"ignore_label={ignore_label}: must be in 0..255")
        _check_percentiles(percentiles)
        self.ignore, self.percentiles, self.on_bad, self.top = ignore_label, percentiles, on_bad, top
        self.classes: tuple[str, ...] = ()
        self.mended: dict[str, int] = {}
        pairs = [pair for some in listed.values() for pair in some]
        found = each(guarded(_heads, on_bad), pairs)
        self.heads: dict[Pair, Head] = {pair: both[0] for pair, both in zip(pairs, found, strict=True) if both}
        if not self.heads:
            raise InputError(f"{visible(top)}: no pair of volume and labels is readable; replace them")
        shapes = [head.shape for head in self.heads.values()]
        largest = np.max(shapes, axis=0).tolist()
        given = largest if size is None else np.atleast_1d(size).tolist()
        self.size = cast(Size, tuple(given * 3 if len(given) == 1 else given))
        if len(self.size) != 3 or min(self.size) < 1:
            raise InputError(f"size={size}: must be depth, height and width, or one number, at least 1")
        smaller = sum(any(n > m for n, m in zip(shape, self.size, strict=True)) for shape in shapes)
        if smaller:
            line = "%s: %d of %d volumes are larger than size=%s, and are cut"
            log.warning(line, visible(top), smaller, len(shapes), self.size)
        gaps = [(pair[1].name, *both) for pair, both in zip(pairs, found, strict=True) if both]
        moved = [name for name, head, gap in gaps if gap > min(head.spacing)]
        if moved:
            line = "%s: %d label volumes are elsewhere than their image by their affine, and are paired by voxel: %s"
            log.warning(line, visible(top), len(moved), visible(", ".join(moved[:3])))

    def name(self, classes: Sequence[str] | None) -> None:
        """Find the classes; pairs whose labels are not readable are left out."""
        if classes is None:
            classes = class_names(self.top)
        if classes is None:
            pairs = list(self.heads)
            most = each(guarded(self._largest, self.on_bad), pairs)
            self.heads = {pair: self.heads[pair] for pair, n in zip(pairs, most, strict=True) if n is not None}
            classes = tuple(map(str, range(1 + max((n for n in most if n is not None), default=0))))
        self.classes = tuple(classes)
        if len(self.classes) < 2 or self.ignore < len(self.classes):
            why = "needs at least two" if len(self.classes) < 2 else f"ignore_label={self.ignore} is one of them"
            raise InputError(f"{visible(self.top)}: classes {visible(', '.join(self.classes[:10]))}; {why}")

    def _largest(self, pair: Pair) -> int:
        labels = _labels(pair[1])
        return int(labels[labels != self.ignore].max(initial=0))

    def row(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """Return a volume `[D, H, W]`, float32, and its labels, uint8."""
        labels = _labels(pair[1])
        wrong = labels[(labels >= len(self.classes)) & (labels != self.ignore)]
        if wrong.size:
            raise InputError(f"{visible(pair[1])}: the label {wrong[0]} is no class; correct it, or give classes=")
        scaled, mended = _image(pair[0], self.percentiles)
        if not scaled.shape == labels.shape == self.heads[pair].shape:
            raise InputError(f"{visible(pair[0])}: was replaced by a volume of another shape; read the set again")
        if mended:
            self.mended[visible(pair[0].name)] = mended
        return centred(scaled, self.size), centred(labels, self.size, self.ignore)

    def data(self, pairs: list[Pair], resident_bytes: int) -> Resident | Indexed:
        """Hold the rows of a part in memory if they fit; otherwise read them as needed."""
        pairs, made = [pair for pair in pairs if pair in self.heads], guarded(self.row, self.on_bad)
        names = tuple(image.relative_to(self.top).as_posix() for image, _ in pairs)
        heads = [self.heads[pair] for pair in pairs]
        size = np.array([head.shape for head in heads], np.int32).reshape(-1, 3)
        spacing = np.array([head.spacing for head in heads], np.float32).reshape(-1, 3)

        def read(rows: np.ndarray) -> dict[str, np.ndarray]:
            found = each(made, [pairs[i] for i in rows])
            image = np.zeros((len(found), *self.size, 1), np.float32)
            mask = np.full((len(found), *self.size), self.ignore, np.uint8)
            for i, both in enumerate(found):
                if both is not None:
                    image[i, ..., 0], mask[i] = both
            self.tell()
            batch = {"image": image, "mask": mask, "image_size": size[rows], "spacing": spacing[rows]}
            good = np.array([both is not None for both in found], np.float32)
            return batch | ({} if self.on_bad is None else {"row_mask": good})

        if len(pairs) * int(np.prod(self.size)) * 5 > resident_bytes:
            return Indexed(read, len(pairs), self.classes, capacity=1, names=names)
        rows = read(np.arange(len(pairs)))
        kept = np.flatnonzero(rows.pop("row_mask", np.ones(len(pairs))))
        if not len(kept):
            raise InputError(f"{visible(self.top)}: no pair of volume and labels is readable; replace them")
        return Resident({name: x[kept] for name, x in rows.items()}, self.classes, names=taken(names, kept))

    def tell(self) -> None:
        """Log one line about the voxels without a value that were found since the last call."""
        if self.mended:
            (first, *_), n = self.mended, sum(self.mended.values())
            line = "%s: %d voxels of %d volumes are NaN or infinite, and are read as 0 (the first: %s)"
            log.warning(line, visible(self.top), n, len(self.mended), first)
            self.mended = {}


def _heads(pair: Pair) -> tuple[Head, float]:
    """Return the header of an image, whose labels must fit, and how far from it the labels are, in millimetres."""
    image, labels = map(read_head, pair)
    if image.shape != labels.shape:
        raise InputError(
            f"{visible(pair[1])}: labels of shape {labels.shape}, their image {image.shape}; they must have one shape"
        )
    if (image.orientation != labels.orientation).any() or not np.allclose(image.spacing, labels.spacing, rtol=0.01):
        raise InputError(
            f"{visible(pair[1])}: its affine has another orientation or spacing than that of its image; correct one"
        )
    gap = np.abs(image.header.get_best_affine() - labels.header.get_best_affine())[:3]
    return image, float((gap @ [*(n - 1 for n in image.header.get_data_shape()[:3]), 1]).max())  # at the last voxel


def _image(path: pathlib.Path, percentiles: tuple[float, float]) -> tuple[np.ndarray, int]:
    """Return a volume `[D, H, W]` in 0..1, and how many of its voxels were not finite."""
    voxels = read_nifti(path).voxels.astype(np.float32)
    finite = np.isfinite(voxels)
    if not finite.any():
        raise InputError(f"{visible(path)}: no voxel is finite; replace or remove it")
    return _scaled(voxels, finite, percentiles), int(voxels.size - finite.sum())


def _labels(path: pathlib.Path) -> np.ndarray:
    """Return labels as uint8."""
    voxels = read_nifti(path).voxels
    if voxels.dtype.kind == "f":
        whole = np.rint(voxels)
        wrong = voxels[~(np.abs(voxels - whole) <= WHOLE)]  # NaN too
        if wrong.size:
            raise InputError(f"{visible(path)}: the label {wrong[0]:g} is no integer; correct it")
        voxels = whole
    if voxels.min() < 0 or voxels.max() > 255:
        wrong = voxels.min() if voxels.min() < 0 else voxels.max()
        raise InputError(f"{visible(path)}: the label {wrong:g}; labels may be 0 to 255")
    return voxels.astype(np.uint8)


def _scaled(voxels: np.ndarray, finite: np.ndarray, percentiles: tuple[float, float]) -> np.ndarray:
    """Bring two percentiles to 0 and 1, and clip what is beyond; voxels that are not finite become 0."""
    known = voxels[finite]
    low, high = map(float, np.percentile(known, percentiles))
    if not low < high:
        low, high = float(known.min()), float(known.max())
    if not low < high:  # all voxels are the same
        return np.zeros_like(voxels)
    shifted = np.where(finite, voxels, low) - np.float64(low)
    return np.clip(shifted / (high - low), 0, 1).astype(np.float32)


def class_names(path: str | pathlib.Path) -> tuple[str, ...] | None:
    """Return the names of the classes in the `dataset.json` of Medical Decathlon or nnU-Net; None if there are none."""
    file = pathlib.Path(path) / "dataset.json"
    found = read_json(file) if file.is_file() else None
    labels = found.get("labels") if isinstance(found, dict) else None
    if not isinstance(labels, dict):
        return None
    named: Any = {str(k): v for k, v in labels.items()}
    if not all(k.isdecimal() for k in named):  # nnU-Net has it the other way round
        named = {str(v): k for k, v in named.items()}
    if sorted(named) != sorted(map(str, range(len(named)))) or not all(isinstance(v, str) for v in named.values()):
        raise InputError(f"{visible(file)}: labels are not numbered from 0; correct them, or give classes=")
    if "ignore" in named.values():
        raise InputError(
            f"{visible(file)}: the label 'ignore' is no class; give its voxels the value 255, and take it out of labels"
        )
    return tuple(named[str(i)] for i in range(len(named)))
