"""Videos: `train/<class>/<clip>` beside `test/<class>/<clip>`, or just `<class>/<clip>` with a seeded split."""

import collections
import dataclasses
import functools
import logging
import pathlib
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, check_whole
from jaxcnn.data import clips, listing
from jaxcnn.data.core import Indexed, OnBad, Resident, Splits, sides, taken
from jaxcnn.data.image import Resize
from jaxcnn.data.parts import tell_copies
from jaxcnn.data.reader import MODES, each, guarded, relative
from jaxcnn.data.splitting import cut, parted

log = logging.getLogger("jaxcnn")
Sampling = Literal["even", "crop"]
LARGEST = 2**28  # values of a row


def videos(
    path: str | pathlib.Path,
    *,
    frames: int = 16,
    sampling: Sampling = "even",
    classes: Sequence[str] | None = None,
    size: int | tuple[int, int] | None = None,
    resize: Resize = "squash",
    channels: int | None = None,
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    group: str | None = None,
    resident_bytes: int = 2**30,
    on_bad: OnBad | None = None,
) -> Splits:
    """Load clips from one folder per class; the folder's name is the class, and labels follow the sorted names.

    A clip is a folder of images, whose order is that of their names, with numbers by their values; an animated GIF,
    WebP or PNG; or a video file, for which `pip install -e ".[video]"` installs PyAV. Parts are folders as in
    `jaxcnn.data.folder`. Frames are read as a viewer shows them, and count alike, however long each is shown.

    Rows have `"image"` uint8 `[frames, H, W, C]`, `"length"` int32, how many of these are frames of the clip and no
    padding, which is zero, and `"label"` int32.

    Args:
        path: the folder.
        frames: number of frames in a row; shorter clips are padded at their end.
        sampling: which frames of longer clips: `"even"`, evenly spread over the clip, or `"crop"`, as many in a row,
            the middle ones, and for training others each time a row is read. Rows are then read as needed.
        classes: use only these classes, in this order.
        size: height and width, or one number for both, to which every frame is resized; required if sizes differ.
        resize: how frames are resized, see `jaxcnn.data.image.decode`.
        channels: 1 for gray, 3 for RGB; by default 1 if all clips are folders of gray images.
        seed: seed of the stratified splits.
        validation_fraction: share of the training clips to validate on, if there is no folder for them.
        test_fraction: share of all clips to test on, if there is no folder for them.
        group: see `jaxcnn.data.voc`: such as `"(.*)_[0-9]+"` for clips that were cut from one video; splits are then
            not stratified.
        resident_bytes: sets with more decoded bytes are read as needed instead of being held in memory.
        on_bad: called with a message and a count for each unreadable clip, which is then left out (or has
            `row_mask = 0` if rows are read as needed); None to raise.

    Returns:
        The parts; `names` of each has the clips of its rows, relative to `path`.

    Raises:
        InputError: There is no class or one class, sizes differ, no clip moves, or a clip is unreadable and `on_bad` is
            None.

    """
    check_whole("frames", frames)
    if frames < 1 or sampling not in get_args(Sampling):
        raise InputError(f"frames={frames}, sampling={sampling!r}: must be at least 1, and 'even' or 'crop'")
    if channels not in (None, *MODES):
        raise InputError(f"channels={channels}: must be 1 or 3, or None to read it from the files")
    top, left = pathlib.Path(path), collections.Counter()
    parts = listing.parts(top, left)
    names = listing.classes(parts["train"], classes)
    listing.check_counterparts(parts)
    found = {part: _listed(root, names, left) for part, root in parts.items()}
    listing.tell_left_out(top, left)
    listed = [clip for mine in found.values() for clip in mine]
    reader = _Videos(top, listed, frames, sampling, sides(size), on_bad)
    reader.form = clips.Form(MODES[channels or reader.channels()], sides(size), resize)
    held = {
        part: reader.data(mine, names, resident_bytes, drawn=sampling == "crop" and part == "train")
        for part, mine in found.items()
    }
    splits = _split(held, names, parts["train"], seed, validation_fraction, test_fraction, group)
    tell_copies(splits, visible(top), top=top)
    return splits


def _listed(root: pathlib.Path, names: Sequence[str], left: collections.Counter[str]) -> dict[pathlib.Path, int]:
    """Return the clips of a part in order, with their labels."""
    found: dict[pathlib.Path, int] = {}
    owner: dict[pathlib.Path, pathlib.Path] = {}
    for label, name in enumerate(names):
        mine = []
        for entry in listing.entries_of(root / name):
            clip, ending = root / name / entry.name, pathlib.PurePath(entry.name).suffix.lower()
            if entry.is_dir():
                if clips.frame_files(clip):
                    mine.append(clip)
                else:
                    left["folder(s) without frames"] += 1
            elif ending in clips.ANIMATED or ending in clips.VIDEO:
                mine.append(clip)
            else:
                left[listing.ending_of(clip)] += 1
        if not mine:
            kinds = " ".join(sorted(clips.ANIMATED | clips.VIDEO.keys()))
            raise InputError(
                f"{visible(root / name)}: no clips; needs folders of frames, or files ({kinds}); add some, or leave "
                "the class out with classes="
            )
        for clip in mine:
            first = owner.setdefault(clip.resolve(), clip)
            if found.get(first, label) != label:
                both = f"{visible(first)} and {visible(clip)}"
                raise InputError(f"{both} are the same clip, in two classes; remove one of them")
        found |= dict.fromkeys(sorted(mine), label)
    return found


def _split(
    held: dict[str, Any], names: tuple[str, ...], root: pathlib.Path, seed: int, valid: float, test: float,
    group: str | None,
) -> Splits:  # fmt: skip
    """Cut the parts that are missing from the training clips."""
    train, label = held["train"], np.asarray(held["train"].label)
    if lost := sorted(set(range(len(names))) - set(label.tolist())):
        raise InputError(
            f"{visible(root / names[lost[0]])}: no clip is readable; replace them, or leave the class out with classes="
        )
    if group is not None:
        return parted(held, seed, valid, test, group)
    if "test" not in held:
        train, held["test"], label = cut(train, label, test, seed, "test_fraction")
    if "valid" not in held:
        train, held["valid"], _ = cut(train, label, valid, seed)
    return Splits(train, held["valid"], held["test"])


class _Videos:
    """Reads clips in one shape."""

    form = clips.Form("RGB", None)

    def __init__(
        self, top: pathlib.Path, listed: list[pathlib.Path], frames: int, sampling: Sampling, size: Any,
        on_bad: OnBad | None,
    ) -> None:  # fmt: skip
        self.top, self.frames, self.on_bad = top, frames, on_bad
        self.usual = self.even if sampling == "even" else self.middle
        heads = zip(listed, each(guarded(clips.head, on_bad), listed), strict=True)
        self.heads = {clip: head for clip, head in heads if head is not None}
        if not self.heads:
            raise InputError(f"{visible(top)}: no clip is readable; replace them")
        counts = [head.frames for head in self.heads.values()]
        if all(count == 1 for count in counts):
            raise InputError(f"{visible(top)}: no clip has more than one frame; read still images with jc.data.folder")
        if still := counts.count(1):
            first = next(clip for clip, head in self.heads.items() if head.frames == 1)
            line = "%s: %d of %d clips have a single frame (the first: %s)"
            log.warning(line, visible(top), still, len(counts), visible(first.name))
        self.size = size or self._common()
        if frames * self.size[0] * self.size[1] * 3 > LARGEST:
            raise InputError(
                f"{frames} frames of {self.size} pixels: more than {LARGEST:,} values; give a smaller size="
            )

    def _common(self) -> tuple[int, int]:
        (first, head), *others = self.heads.items()
        for clip, other in others:
            if other.size != head.size:
                raise InputError(
                    f"{visible(clip)}: {other.size} pixels (height, width), but {visible(first.name)} has {head.size}; "
                    "give a size to resize them to, such as size=64"
                )
        return head.size

    def channels(self) -> int:
        """Return 1 if all clips are gray."""
        return 1 if all(head.gray for head in self.heads.values()) else 3

    def row(self, clip: pathlib.Path, choose: clips.Choose) -> tuple[np.ndarray, int]:
        """Return a padded clip `[frames, H, W, C]`, and how many frames are its own."""
        found = clips.read(clip, self.form, choose)
        if found.shape[1:3] != self.size:
            raise InputError(
                f"{visible(clip)}: {found.shape[1:3]} pixels (height, width), not {self.size} as before; replace it"
            )
        row = np.zeros((self.frames, *found.shape[1:]), np.uint8)
        row[: len(found)] = found
        return row, len(found)

    def even(self, count: int) -> np.ndarray:
        """Choose the middle frames of parts of equal length."""
        wanted = min(self.frames, count)
        return (np.arange(wanted) * 2 + 1) * count // (2 * wanted)

    def middle(self, count: int) -> np.ndarray:
        """Choose frames in a row, from the middle of the clip."""
        wanted = min(self.frames, count)
        return (count - wanted) // 2 + np.arange(wanted)

    def drawn(self, seed: np.ndarray, count: int) -> np.ndarray:
        """Choose frames in a row, from anywhere."""
        wanted = min(self.frames, count)
        return int(np.random.default_rng(seed).integers(0, count - wanted + 1)) + np.arange(wanted)

    def data(
        self, listed: dict[pathlib.Path, int], classes: tuple[str, ...], resident_bytes: int, drawn: bool
    ) -> Resident | Indexed:
        """Hold the rows of a part in memory if they fit; otherwise read them as needed.

        Args:
            listed: its clips with their labels.
            classes: class names in order of label.
            resident_bytes: most bytes to hold in memory.
            drawn: whether training draws where its frames begin.

        """
        kept = [clip for clip in listed if clip in self.heads]
        label = np.array([listed[clip] for clip in kept], np.int32)
        names = tuple(relative(clip, self.top) for clip in kept)
        shape = (self.frames, *self.size, 1 if self.form.mode == "L" else 3)
        row = guarded(self.row, self.on_bad)

        def batch(rows: np.ndarray, found: list[Any]) -> dict[str, np.ndarray]:
            image, length = np.zeros((len(rows), *shape), np.uint8), np.ones(len(rows), np.int32)
            for i, one in enumerate(found):
                if one is not None:
                    image[i], length[i] = one
            rest = {} if self.on_bad is None else {"row_mask": np.array([x is not None for x in found], np.float32)}
            return {"image": image, "length": length, "label": label[rows]} | rest

        def read(rows: np.ndarray) -> dict[str, np.ndarray]:
            return batch(rows, each(row, [kept[i] for i in rows], [self.usual] * len(rows)))

        def read_train(rows: np.ndarray, seeds: np.ndarray) -> dict[str, np.ndarray]:
            choices = [functools.partial(self.drawn, one) for one in seeds]
            return batch(rows, each(row, [kept[i] for i in rows], choices))

        data = Indexed(read, len(kept), classes, capacity=1, label=label, names=names)
        if drawn:
            return dataclasses.replace(data, read_train=read_train)
        if len(kept) * int(np.prod(shape)) > resident_bytes:
            return data
        arrays = read(np.arange(len(kept)))
        good = np.flatnonzero(arrays.pop("row_mask", np.ones(len(kept))))
        if not len(good):
            raise InputError(f"{visible(self.top)}: no clip is readable; replace them")
        return Resident({name: x[good] for name, x in arrays.items()}, classes, names=taken(names, good))
