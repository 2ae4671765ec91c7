"""A folder of sounds: `train/<class>/*.wav` beside `test/<class>/*`, or just `<class>/*` with a seeded split."""

import collections
import logging
import math
import pathlib
import threading
from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import listing
from jaxcnn.data.core import Indexed, OnBad, Resident, Splits, taken
from jaxcnn.data.parts import tell_copies
from jaxcnn.data.reader import each, guarded, relative
from jaxcnn.data.sound_file import ENDINGS, SoundHead, check_rate, read_head, read_sound, resampled_length
from jaxcnn.data.splitting import cut, parted

KIND = listing.Kind(ENDINGS, "sound")
LONGEST = 60.0  # seconds of the longest sound where `seconds` is not given
MOST_SECONDS = 3600.0
USUAL_RATE, USUAL_SECONDS = 16_000, 10.0  # most of what `usual_form` chooses
FULL, SHARE = 0.999, 1e-3  # a sound is clipped if more than this share of its samples is at full scale
log = logging.getLogger("jaxcnn")
Longer = Literal["crop", "refuse"]


def sounds(
    path: str | pathlib.Path,
    *,
    classes: Sequence[str] | None = None,
    rate: int | None = None,
    seconds: float | None = None,
    longer: Longer = "crop",
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    group: str | None = None,
    resident_bytes: int = 2**30,
    on_bad: OnBad | None = None,
) -> Splits:
    r"""Load sounds, WAV or FLAC, from one folder per class; needs `pip install soundfile`.

    Folders are found, and parts split, as `jaxcnn.data.folder` does it: `train`, `val` and `test`, or only the classes.
    Files may have any rate, 8 to 32 bits or floats, and several channels, whose mean is read. Rows have `"audio"`
    `[T]`, float32 in -1..1, zeros behind the end of a sound; `"length"`, int32, the samples that are sound; and
    `"label"`. One line of the log counts sounds that are silent or clipped, which are kept.

    Args:
        path: the folder.
        classes: use only these classes, in this order.
        rate: samples per second to which the sounds are resampled; by default their own, if it is the same in all.
        seconds: length of the rows; by default that of the longest sound, which may have 60 seconds at most.
        longer: what happens to a sound with more than `seconds`: `"crop"` keeps its beginning, `"refuse"` treats it as
            unreadable.
        seed: seed of the splits.
        validation_fraction: share of the training rows to validate on, if there is no folder for them.
        test_fraction: share of all rows to test on, if there is no folder for them.
        group: regular expression for the files' paths below the folder, such as `_(\w+)_` for the speaker in
            `7/7_jackson_32.wav`, or `^[^/]+/([^/]+)/` for a folder below the class. Files with the same first group of
            a match, or the same match, are in one part; the splits are then not stratified. None for stratified splits.
        resident_bytes: sets with more bytes are read as needed instead of being held in memory.
        on_bad: called with a message and a count for each unreadable sound, which is then left out (or has
            `row_mask = 0` if rows are read as needed); None to raise.

    Returns:
        The parts; `names` of each has the files of its rows, relative to `path`.

    Raises:
        InputError: There is no class or one class, rates differ, one file is in two classes, a sound is unreadable and
            `on_bad` is None, or soundfile is not installed.

    """
    path = pathlib.Path(path)
    left: collections.Counter[str] = collections.Counter()
    parts = listing.parts(path, left, KIND)
    names = listing.classes(parts["train"], classes, KIND)
    listing.check_counterparts(parts)
    found = {part: listing.images(root, names, (path, *parts.values()), left, KIND) for part, root in parts.items()}
    listing.tell_left_out(path, left)
    if validation_fraction or test_fraction:
        listing.tell_parts(path, parts)
    reader = _Sounds(path, [file for files in found.values() for file in files], rate, seconds, longer, on_bad)
    held = {part: reader.data(files, names, resident_bytes) for part, files in found.items()}
    train = held["train"]
    lost = sorted(set(range(len(names))) - set(np.asarray(train.label).tolist()))
    if lost:
        raise InputError(
            f"{visible(parts['train'] / names[lost[0]])}: no sound is readable; replace them, or leave the class out "
            "with classes="
        )
    if group is not None:
        splits = parted(held, seed, validation_fraction, test_fraction, group)
    else:
        label = np.asarray(train.label)
        if "test" not in held:
            train, held["test"], label = cut(train, label, test_fraction, seed, "test_fraction")
        if "valid" not in held:
            train, held["valid"], _ = cut(train, label, validation_fraction, seed)
        splits = Splits(train, held["valid"], held["test"])
    tell_copies(splits, visible(path), "audio", top=path)
    return splits


def usual_form(path: str | pathlib.Path, on_bad: OnBad | None = None) -> tuple[int, float]:
    """Return the rate and the length of rows that suit the training sounds of a folder, by their headers alone.

    Args:
        path: the folder, as for `sounds`.
        on_bad: as for `sounds`, but nothing is counted.

    Returns:
        The most frequent rate, at most 16,000 samples per second; and the seconds of the longest sound or, where that
        is above twice the seconds that 95 of 100 sounds do not exceed, these; at most 10.

    Raises:
        InputError: There is no sound, or one whose header cannot be read and `on_bad` is None.

    """
    path, left = pathlib.Path(path), collections.Counter[str]()
    root = listing.parts(path, left, KIND)["train"]
    files = listing.images(root, listing.classes(root, None, KIND), (path, root), left, KIND)
    skipped: OnBad | None = None if on_bad is None else lambda line, examples: None
    heads = [head for head in each(guarded(read_head, skipped, "sounds"), list(files)) if head]
    if not heads:
        raise InputError(f"{visible(root)}: no sound is readable; replace them")
    rates = collections.Counter(head.rate for head in heads)
    rate = min(max(rates, key=lambda one: (rates[one], -one)), USUAL_RATE)
    seconds = sorted(head.frames / head.rate for head in heads)
    usual = seconds[min(math.ceil(0.95 * len(seconds)), len(seconds)) - 1]
    usual = seconds[-1] if seconds[-1] <= 2 * usual else usual
    return rate, max(min(math.ceil(usual * rate) / rate, USUAL_SECONDS), 1 / rate)


class _Sounds:
    """Reads the sounds of a set as rows of one length."""

    def __init__(
        self,
        top: pathlib.Path,
        files: list[pathlib.Path],
        rate: int | None,
        seconds: float | None,
        longer: Longer,
        on_bad: OnBad | None,
    ) -> None:
        if rate is not None:
            check_rate(rate)
        if seconds is not None and not 0 < seconds <= MOST_SECONDS:
            raise InputError(f"seconds={seconds}: must be above 0, and at most {MOST_SECONDS:,.0f}")
        if longer not in ("crop", "refuse"):
            raise InputError(f"longer={longer!r}: must be 'crop' or 'refuse'")
        self.top, self.seconds, self.longer, self.on_bad = top, seconds, longer, on_bad
        read = each(guarded(read_head, on_bad, "sounds"), files)
        self.heads: dict[pathlib.Path, SoundHead] = {f: head for f, head in zip(files, read, strict=True) if head}
        if not self.heads:
            raise InputError(f"{visible(top)}: no sound is readable; replace them")
        self.rate = self.common_rate() if rate is None else rate
        lengths = {f: resampled_length(head.frames, head.rate, self.rate) for f, head in self.heads.items()}
        longest = max(lengths, key=lambda file: lengths[file])
        if seconds is None and lengths[longest] > LONGEST * self.rate:
            raise InputError(
                f"{visible(longest)}: {lengths[longest] / self.rate:,.0f} seconds; give seconds=, the length of the "
                f"rows, for sounds of more than {LONGEST:g}"
            )
        self.size = lengths[longest] if seconds is None else max(round(seconds * self.rate), 1)
        cropped = sum(n > self.size for n in lengths.values())
        if cropped and longer == "crop":
            line = "%s: %d of %d sounds have more than %g seconds, and are cropped"
            log.warning(line, visible(top), cropped, len(lengths), seconds)
        self.count, self.lock = collections.Counter[str](), threading.Lock()

    def common_rate(self) -> int:
        """Return the rate of all sounds, or raise if rates differ."""
        (first, head), *_ = self.heads.items()
        other = next((file for file, found in self.heads.items() if found.rate != head.rate), None)
        if other is not None:
            raise InputError(
                f"{visible(other)}: {self.heads[other].rate:,} samples per second, but {visible(first.name)} has "
                f"{head.rate:,}; give rate= to resample them, such as rate=16000"
            )
        check_rate(head.rate)
        return head.rate

    def sound(self, file: pathlib.Path) -> np.ndarray:
        """Return the samples of a file, at most those of a row."""
        head = self.heads[file]
        if self.longer == "refuse" and resampled_length(head.frames, head.rate, self.rate) > self.size:
            raise InputError(
                f"{visible(file)}: {head.frames / head.rate:,.2f} seconds, more than seconds={self.seconds}; shorten "
                "it, or give longer='crop'"
            )
        audio = read_sound(file, self.rate, seconds=(self.size + 0.5) / self.rate)[: self.size]
        loud = np.abs(audio) >= FULL
        with self.lock:
            self.count["silent"] += not audio.any()
            self.count["clipped"] += loud.mean() > SHARE
        return audio

    def data(self, listed: dict[pathlib.Path, int], names: tuple[str, ...], resident_bytes: int) -> Resident | Indexed:
        """Hold the rows of a part in memory if they fit; otherwise read them as needed."""
        files = [file for file in listed if file in self.heads]
        label = np.array([listed[file] for file in files], np.int32)
        rows = tuple(relative(file, self.top) for file in files)
        made = guarded(self.sound, self.on_bad, "sounds")

        def read(index: np.ndarray) -> dict[str, np.ndarray]:
            found = each(made, [files[i] for i in index])
            audio, length = np.zeros((len(found), self.size), np.float32), np.ones(len(found), np.int32)
            for i, one in enumerate(found):
                if one is not None:
                    audio[i, : len(one)], length[i] = one, len(one)
            good = np.array([one is not None for one in found], np.float32)
            batch = {"audio": audio, "length": length, "label": label[index]}
            return batch | ({} if self.on_bad is None else {"row_mask": good})

        if math.prod((len(files), self.size, 4)) > resident_bytes:
            line = "%d sounds are read as needed: in memory they take more than %d MiB"
            log.info(line, len(files), resident_bytes >> 20)
            return Indexed(read, len(files), names, label=label, names=rows)
        batch = read(np.arange(len(files)))
        kept = np.flatnonzero(batch.pop("row_mask", np.ones(len(files))))
        self.tell(len(files))
        if len(kept) < len(files):
            batch = {name: x[kept] for name, x in batch.items()}
        if not len(kept):
            raise InputError(f"{visible(self.top)}: no sound is readable; replace them")
        return Resident(batch, names, names=taken(rows, kept))

    def tell(self, count: int) -> None:
        """Log one line about the silent and the clipped sounds of a part."""
        some = [f"{n} {kind}" for kind, n in sorted(self.count.items()) if n]
        if some:
            log.warning("%s: of %d sounds, %s", visible(self.top), count, " and ".join(some))
        self.count.clear()
