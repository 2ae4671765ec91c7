"""Reading one sound file, WAV or FLAC: any rate, integers of 8 to 32 bits or floats, mixed to one channel.

Nothing that a header states is allocated before it is read.
"""

import logging
import math
import pathlib
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core.files import Memory, opened
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, check_whole, reason

ENDINGS = frozenset((".flac", ".wav"))
RATES = (1000, 768_000)  # samples per second that are read
LARGEST = 2**28  # most samples of a file that is read whole, of all channels together
CHANNELS = 64
BLOCK = 2**16  # frames that are decoded at once
CHUNKS = 1000  # of a WAV file that are looked at for its samples
STATED = 0x7FFFF000  # sizes in a RIFF header from which on it states none, as programs write into pipes
OVER = 2.0  # floats up to this are overshoots of -1..1, which are clipped; larger ones are another scale
MARKS = (b"RIFF", b"RF64", b"fLaC")
log = logging.getLogger("jaxcnn")


class SoundHead(NamedTuple):
    """What a header states.

    Attributes:
        frames: samples of each channel; the file may have fewer.
        rate: samples per second.
        channels: number of channels.

    """

    frames: int
    rate: int
    channels: int


def soundfile() -> Any:
    """Import soundfile.

    Raises:
        InputError: It is not installed.

    """
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: without the library libsndfile
        raise InputError(
            "sounds need soundfile: pip install -e '.[sound]' in the clone of jaxcnn, or pip install soundfile"
        ) from error
    return soundfile


def read_sound(path: str | pathlib.Path | Memory, rate: int, *, seconds: float | None = None) -> np.ndarray:
    """Read a sound file of any length, such as one to predict; needs `pip install soundfile`.

    Args:
        path: path of a `.wav` or `.flac` file, or one in memory.
        rate: samples per second to which it is resampled.
        seconds: read only the beginning of a longer file; None for the whole file.

    Returns:
        float32 `[T]` in -1..1, the mean of its channels. Floats beyond -1..1, up to 2, are clipped.

    Raises:
        InputError: The file is not readable, damaged or cut off, has no samples or some that are not finite, or
            soundfile is not installed.

    """
    check_rate(rate)
    if seconds is not None and not 0 < seconds < math.inf:
        raise InputError(f"seconds={seconds}: must be above 0")
    return _attempt(path, lambda file, found: _samples(path, file, found, rate, seconds))


def read_head(path: str | pathlib.Path | Memory) -> SoundHead:
    """Read the header of a file.

    Raises:
        InputError: as `read_sound`.

    """
    return _attempt(path, lambda file, found: _head(path, found))


def windows(audio: np.ndarray, size: int, hop: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Cut a long sound into rows for a model.

    Args:
        audio: `[T]`, at least one sample.
        size: samples of a row.
        hop: samples from one row to the next, at most `size`; by default half of it.

    Returns:
        float32 `[N, size]`, zeros behind the end, and their lengths, int32 `[N]`. Every sample is in a row, and only
        the last row may be shorter than `size`.

    Raises:
        InputError: no samples, or a value out of range.

    """
    audio = np.asarray(audio, np.float32)
    check_whole("size", size)
    hop = max(size // 2, 1) if hop is None else hop
    if audio.ndim != 1 or not audio.size:
        raise InputError(f"audio of shape {audio.shape}: must be [samples], at least one")
    if size < 1 or not 1 <= hop <= size:
        raise InputError(f"size={size}, hop={hop}: must be at least 1, and hop at most size")
    count = 1 + max(-(-(audio.size - size) // hop), 0)
    padded = np.zeros((count - 1) * hop + size, np.float32)
    padded[: audio.size] = audio
    rows = np.stack([padded[i * hop : i * hop + size] for i in range(count)])
    return rows, np.minimum(audio.size - hop * np.arange(count), size).astype(np.int32)


def check_rate(rate: int) -> None:
    """Refuse a rate that no sound has."""
    if not isinstance(rate, int) or not RATES[0] <= rate <= RATES[1]:
        raise InputError(f"rate={rate}: must be an integer from {RATES[0]:,} to {RATES[1]:,} samples per second")


def resampled_length(frames: int, rate: int, target: int) -> int:
    """Return how many samples resampling makes."""
    return -(-frames * target // rate)


def _attempt(path: str | pathlib.Path | Memory, read: Any) -> Any:
    """Open a file and call `read(file, decoder)`; errors become one line that names the file."""
    library = soundfile()
    try:
        with opened(path) as file:
            _check_mark(path, file)
            with library.SoundFile(file) as found:
                return read(file, found)
    except InputError:
        raise
    except Exception as error:  # libsndfile's errors, and those of the disk, have many types
        raise InputError(
            f"{visible(path)}: not a readable sound ({visible(reason(error))}); replace or remove it"
        ) from error


def _check_mark(path: str | pathlib.Path | Memory, file: Any) -> None:
    """Refuse what is neither WAV nor FLAC, and a WAV file that is shorter than its headers state."""
    start, size = file.read(8), file.seek(0, 2)
    file.seek(0)
    if start[:4] not in MARKS:
        what = "the file is empty" if not start else "its beginning is neither that of WAV nor of FLAC"
        raise InputError(f"{visible(path)}: {what}; replace it, or convert it to WAV")
    if start[:4] == b"RIFF" and len(start) == 8:
        (stated,) = struct.unpack("<I", start[4:])
        if size - 8 < stated < STATED and stated - (size - 8) > 1:  # a byte that pads the last chunk may be missing
            raise InputError(
                f"{visible(path)}: has {size:,} bytes, but its header states {stated + 8:,}; it is cut off or damaged: "
                "replace or remove it"
            )
    if start[:4] in (b"RIFF", b"RF64") and (missing := _missing(file, size)):
        line = f"{missing:,} bytes of samples are missing: the file was cut off"
        raise InputError(f"{visible(path)}: {line}; replace or remove it")


def _missing(file: Any, size: int) -> int:
    """Return how many bytes the chunk of samples of a WAV file states more than there are."""
    place, large, missing = 12, None, 0
    for _ in range(CHUNKS):
        file.seek(place)
        name, header = file.read(4), file.read(4)
        if len(header) < 4:
            break
        (stated,) = struct.unpack("<I", header)
        if name == b"ds64" and len(inside := file.read(16)) == 16:
            large = struct.unpack("<Q", inside[8:])[0]  # where 32 bits are too few
        if name == b"data":
            stated = large if stated == 2**32 - 1 and large is not None else stated
            known = stated < STATED or large is not None
            missing = max(stated - (size - place - 8), 0) if known else 0
            break
        place += 8 + stated + stated % 2
    file.seek(0)
    return missing


def _head(path: str | pathlib.Path | Memory, found: Any) -> SoundHead:
    head = SoundHead(int(found.frames), int(found.samplerate), int(found.channels))
    if not RATES[0] <= head.rate <= RATES[1]:
        raise InputError(
            f"{visible(path)}: {head.rate:,} samples per second; must be {RATES[0]:,} to {RATES[1]:,}: replace it"
        )
    if not 1 <= head.channels <= CHANNELS:
        raise InputError(f"{visible(path)}: {head.channels} channels; must be 1 to {CHANNELS}: replace it")
    if head.frames < 1:
        raise InputError(f"{visible(path)}: has no samples; replace or remove it")
    return head


def _samples(path: str | pathlib.Path | Memory, file: Any, found: Any, rate: int, seconds: float | None) -> np.ndarray:
    del file
    head = _head(path, found)
    # a filter of the resampling reaches ten samples of the lower rate to each side
    margin = 16 * max(1, -(-head.rate // rate))
    most = head.frames if seconds is None else min(head.frames, math.ceil(seconds * head.rate) + margin)
    if most * head.channels > LARGEST:
        raise InputError(
            f"{visible(path)}: {head.frames:,} samples of {head.channels} channels; at most {LARGEST:,} are read: cut "
            "it into parts"
        )
    parts = list(_blocks(found, most))
    audio = np.concatenate([*parts, np.zeros(0, np.float32)])
    if len(audio) < most:
        raise InputError(
            f"{visible(path)}: ends after {len(audio):,} of {head.frames:,} samples; it is cut off or damaged: replace "
            "or remove it"
        )
    audio = _resampled(_bounded(path, audio), head.rate, rate)
    return audio if seconds is None else audio[: max(round(seconds * rate), 1)]


def _blocks(found: Any, most: int) -> Iterator[np.ndarray]:
    """Yield the mean of the channels, block by block, of at most `most` frames."""
    while most > 0:
        block = found.read(min(BLOCK, most), dtype="float32", always_2d=True)
        if not len(block):
            return
        most -= len(block)
        with np.errstate(all="ignore"):  # values that are not finite are refused later
            yield block[:, 0] if block.shape[1] == 1 else block.mean(1, dtype=np.float32)


def _bounded(path: str | pathlib.Path | Memory, audio: np.ndarray) -> np.ndarray:
    bad = int(audio.size - np.isfinite(audio).sum())
    if bad:
        raise InputError(f"{visible(path)}: {bad:,} of {audio.size:,} samples are not finite; replace or remove it")
    peak = float(np.abs(audio).max())
    if peak > OVER:
        raise InputError(
            f"{visible(path)}: floats up to {peak:g}, but sound is in -1..1; divide them, or write the file as integers"
        )
    return audio.clip(-1, 1)


def _resampled(audio: np.ndarray, rate: int, target: int) -> np.ndarray:
    if rate == target:
        return audio
    from scipy.signal import resample_poly  # the import takes half a second

    shared = math.gcd(rate, target)
    made = resample_poly(audio, target // shared, rate // shared)
    return np.asarray(made, np.float32).clip(-1, 1)
