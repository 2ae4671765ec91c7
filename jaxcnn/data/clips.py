"""Clips as arrays of frames: folders of images, animated GIF, WebP and PNG, and video files through PyAV."""

import contextlib
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core.files import opened
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.data import image as images
from jaxcnn.data.crops import Sides
from jaxcnn.data.image import Resize
from jaxcnn.data.image_file import ENDINGS, opened_image, room
from jaxcnn.data.listing import entries_of

ANIMATED = {".apng", ".gif", ".png", ".webp"}
# endings of video files, and FFmpeg's reader of each: others, such as playlists, may name further files and addresses
VIDEO = {
    ".avi": "avi", ".m4v": "mp4", ".mkv": "matroska", ".mov": "mov", ".mp4": "mp4", ".mpeg": "mpeg", ".mpg": "mpeg",
    ".ogv": "ogg", ".webm": "matroska",
}  # fmt: skip
MOST_FRAMES = 20_000  # of a clip; about ten minutes
MOST_PIXELS = 2**26  # of a frame
DECODED = 2**33  # pixels of all frames of a clip
Choose = Callable[[int], np.ndarray]  # number of frames -> numbers of those that are read, rising


class Form(NamedTuple):
    """How frames become arrays.

    Attributes:
        mode: Pillow's, `"L"` or `"RGB"`.
        size: height and width, or None to keep those of the clip.
        resize: how, see `jaxcnn.data.image.decode`.

    """

    mode: str
    size: Sides | None
    resize: Resize = "squash"


class ClipHead(NamedTuple):
    """What a clip is, before its frames are read.

    Attributes:
        gray: whether it certainly has no colour.
        size: height and width of its first frame.
        frames: how many there are; None if only reading them tells.

    """

    gray: bool
    size: Sides
    frames: int | None


def in_name_order(names: list[str]) -> list[str]:
    """Sort names with numbers by their values, so that `frame10` comes behind `frame9`."""
    parts = {name: [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in _pieces(name)] for name in names}
    return sorted(names, key=lambda name: (parts[name], name))


def _pieces(name: str) -> list[str]:
    return [piece for piece in re.split(r"([0-9]{1,300})", name) if piece]  # longer ones are not numbers


def frame_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the images of a folder in the order of their names; hidden files do not count."""
    names = [e.name for e in entries_of(folder) if pathlib.PurePath(e.name).suffix.lower() in ENDINGS and e.is_file()]
    return [folder / name for name in in_name_order(names)]


def head(path: pathlib.Path) -> ClipHead:
    """Read what a clip is: of a folder, the heads of all frames.

    Raises:
        InputError: it is not readable, or beyond a limit.

    """
    if path.is_dir():
        heads = [images.head(file) for file in _counted(path)]
        return ClipHead(all(one.gray for one in heads), heads[0].size, len(heads))
    if path.suffix.lower() in VIDEO:
        with _opened_video(path) as frames:
            first = next(frames, None)
            if first is None:
                raise InputError("has no frames; replace or remove it")
            return ClipHead(False, first.shape[:2], None)
    with opened_image(path) as (image, _):
        return ClipHead(False, image.size[::-1], _count(image))


def read(path: pathlib.Path, form: Form, choose: Choose) -> np.ndarray:
    """Read frames of a clip.

    Args:
        path: a folder of images, an animated image or a video file.
        form: of the frames.
        choose: from the number of frames to the numbers of those that are read.

    Returns:
        uint8 `[n, H, W, C]`.

    Raises:
        InputError: the clip is not readable or beyond a limit, or its frames differ in size and none is given.

    """
    if path.is_dir():
        files = _counted(path)
        names = [files[i].name for i in choose(len(files))]
        frames = [images.decode(path / name, form.mode, form.size, resize=form.resize) for name in names]
    else:
        read_some = _video if path.suffix.lower() in VIDEO else _animation
        frames = read_some(path, form, choose)
        names = [f"frame {i}" for i in range(len(frames))]
    for name, frame in zip(names, frames, strict=True):
        if frame.shape != frames[0].shape:
            raise InputError(
                f"{visible(path)}: {visible(name)} has {frame.shape[:2]} pixels (height, width), {visible(names[0])} "
                f"{frames[0].shape[:2]}; give a size to resize them to, such as size=64"
            )
    return np.stack(frames)


def _counted(folder: pathlib.Path) -> list[pathlib.Path]:
    files = frame_files(folder)
    if not files:
        raise InputError(f"{visible(folder)}: no frames; needs images inside")
    if len(files) > MOST_FRAMES:
        raise InputError(f"{visible(folder)}: {len(files):,} frames, more than the {MOST_FRAMES:,} that are read")
    return files


def _count(image: Any) -> int:
    """Return the number of frames of an image of Pillow's, within the limits."""
    count = getattr(image, "n_frames", 1)
    if count > MOST_FRAMES or count * image.size[0] * image.size[1] > DECODED:
        raise InputError(
            f"{count:,} frames of {image.size[0]} x {image.size[1]} pixels, more than are read; cut it, or make it "
            "smaller"
        )
    return count


def _animation(path: pathlib.Path, form: Form, choose: Choose) -> list[np.ndarray]:
    with opened_image(path, pixels=True) as (image, turn):
        if image.format == "GIF":
            _check_end(image)
        size, chosen, found = image.size, set(choose(_count(image)).tolist()), []
        with room(image):
            for i in range(max(chosen) + 1):  # each frame may be drawn over the one before
                image.seek(i)
                if image.size != size:
                    raise InputError(f"frame {i} makes the image larger; replace or remove it")
                if i in chosen:
                    found.append(_formed(images.turned(images.in_eight_bits(image, form.mode, None), turn), form))
        return found


def _check_end(image: Any) -> None:
    """Refuse a GIF that was cut between two frames, which Pillow would read as a shorter one."""
    here = image.fp.tell()
    image.fp.seek(max(image.fp.seek(0, 2) - 64, 0))
    if not image.fp.read().rstrip(b"\0\n\r").endswith(b";"):
        raise InputError("cut off; get the file again, or remove it")
    image.fp.seek(here)


def _formed(image: Any, form: Form) -> np.ndarray:
    """Resize an image of Pillow's, and return it as `[H, W, C]` uint8."""
    if form.size is not None:
        part = images.shown(image.size[::-1], form.size, form.resize, 1.0, None)
        image = images.cut(image, part, form.size)
    return np.asarray(image, np.uint8).reshape(*image.size[::-1], -1)


def _video(path: pathlib.Path, form: Form, choose: Choose) -> list[np.ndarray]:
    from PIL import Image

    with _opened_video(path) as frames:
        count = sum(1 for _ in frames)  # what the head of a file says need not be true
    if not count:
        raise InputError(f"{visible(path)}: has no frames; replace or remove it")
    chosen, found = set(choose(count).tolist()), []
    with _opened_video(path) as frames:
        for i, frame in enumerate(frames):
            if i in chosen:
                found.append(_formed(Image.fromarray(frame).convert(form.mode), form))
    return found


@contextlib.contextmanager
def _opened_video(path: pathlib.Path) -> Iterator[Iterator[np.ndarray]]:
    """Open a video file, and give its frames `[H, W, 3]`, turned as a viewer shows them."""
    try:
        import av
    except ImportError:
        raise InputError(
            f"{visible(path)}: video files need PyAV; pip install -e '.[video]' or pip install av"
        ) from None
    try:
        with opened(path) as file, av.open(file, format=VIDEO[path.suffix.lower()]) as container:
            yield _frames(container)
    except InputError as error:
        name = visible(path)
        raise InputError(str(error) if str(error).startswith(name) else f"{name}: {error}") from error
    except Exception as error:  # FFmpeg's errors are of many types
        why = visible(reason(error)).splitlines()[0]
        raise InputError(f"{visible(path)}: not a readable video ({why}); replace or remove it") from error


def _frames(container: Any) -> Iterator[np.ndarray]:
    if not container.streams.video:
        raise InputError("has no video, only sound; replace or remove it")
    stream, size = container.streams.video[0], None
    codec = stream.codec_context
    if codec.width * codec.height > MOST_PIXELS:
        raise InputError(
            f"{codec.width} x {codec.height} pixels, more than the {MOST_PIXELS:,} that are read of a frame"
        )
    codec.options = {"max_pixels": str(MOST_PIXELS)}
    end = 0.0
    for i, frame in enumerate(container.decode(stream)):
        size = size or (frame.height, frame.width)
        if i >= MOST_FRAMES or i * size[0] * size[1] > DECODED:
            raise InputError(f"more than {i:,} frames of {size[1]} x {size[0]} pixels, which are not read; cut it")
        if (frame.height, frame.width) != size:
            raise InputError(f"frame {i} has {(frame.height, frame.width)} pixels, the first one {size}; save it again")
        if frame.time is not None and frame.duration and frame.time_base:
            end = max(end, frame.time + float(frame.duration * frame.time_base))
        yield np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    if end and _duration(container, stream) - end > 0.1:
        raise InputError("has fewer frames than its header states: it was cut off; replace or remove it")


def _duration(container: Any, stream: Any) -> float:
    """Return the seconds that the header of a Matroska or WebM file states for a stream; 0 for none."""
    if not container.format.name.startswith("matroska"):
        return 0.0  # FFmpeg refuses other files that are cut off, or estimates their duration from what is there
    found = re.fullmatch(r"(\d{2,4}):(\d\d):(\d\d(?:\.\d{1,9})?)", stream.metadata.get("DURATION", ""))
    if found:
        return 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0
