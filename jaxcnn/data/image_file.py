"""Opening image files safely: only formats that are meant, within limits of pixels, scans and memory."""

import contextlib
import functools
import importlib
import pathlib
import re
import threading
import warnings
from collections.abc import Iterator
from typing import IO, Any, cast

from jaxcnn.core.files import Memory, opened
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.data.orientation import orientation

ENDINGS = {
    ".apng", ".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx", ".pbm", ".pgm", ".png",
    ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
}  # fmt: skip
# Pillow's plugins, and how the files of each begin; it has other plugins, some of which start programs
FORMATS = {
    "PNG": ("Png", rb"\x89PNG\r\n\x1a\n"),
    "JPEG": ("Jpeg", rb"\xff\xd8\xff"),
    "GIF": ("Gif", rb"GIF8[79]a"),
    "WebP": ("WebP", rb"RIFF....WEBP"),
    "BMP": ("Bmp", rb"BM"),
    "TIFF": ("Tiff", rb"II[*+]\0|MM\0[*+]"),
    "PPM": ("Ppm", rb"P[1-6]\s"),
    "AVIF": ("Avif", rb"....ftyp(avif|avis|mif1|msf1)"),
    "JPEG2000": ("Jpeg2K", rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n"),
    "TGA": ("Tga", rb"(?!)"),  # has no beginning of its own, and is known by its ending
}
OTHERS = {
    rb"$": "the file is empty",
    rb"....ftyp(hei|hev)": "HEIC is not read: save it as JPEG or PNG",
    rb"%!PS|\xc5\xd0\xd3\xc6": "EPS is not read: save it as PNG",
    rb"%PDF": "PDF is not read: save it as PNG",
    rb"8BPS": "PSD is not read: save it as PNG",
    rb"\s*<": "a text, such as SVG or HTML",
    rb"version https://git-lfs": "a pointer of Git LFS: fetch the file itself",
}
BITS, SAMPLES = 258, 339  # tags of TIFF
# the share of the usual limit of pixels for formats whose decoders take more memory per pixel
MEMORY = {"JPEG2000": 1 / 4, "WEBP": 2 / 3, "AVIF": 2 / 3}
SCANNED = 2**31  # the most pixels of a progressive JPEG, all scans together
TOGETHER = 2**26  # the most pixels that threads decode at once, of 10 to 30 bytes each; larger images are decoded alone
SMALL = 2**18  # images of fewer pixels do not wait
_turn, _decoding = threading.Condition(), [0]
_quiet, _readers = threading.Lock(), [0]


class TooLargeError(InputError):
    """An image of more pixels than are read."""


@contextlib.contextmanager
def opened_image(path: pathlib.Path | Memory, pixels: bool = False) -> Iterator[tuple[Any, int]]:
    """Open an image within the limits, and give it with how it is to be turned, 1 to 8 as in EXIF.

    Args:
        path: of the file, or a file in memory.
        pixels: whether the caller decodes the image, and not only its head.

    Raises:
        InputError: the file is not a readable image, or is beyond a limit; one line that names it.

    """
    try:
        with without_warnings(), opened(path) as file:
            make = factory(_format(file.read(32), path))
            file.seek(0)
            with make(file, "") as image:
                _check(image)
                if pixels and image.info.get("progressive"):
                    _check_scans(image, file)
                yield image, orientation(image, file)
    except InputError as error:
        name = visible(path)
        line = str(error) if str(error).startswith(name) else f"{name}: {error}"
        raise (TooLargeError if isinstance(error, TooLargeError) else InputError)(line) from error
    except Exception as error:  # a damaged file raises whatever its decoder stumbles over
        why = getattr(error, "strerror", None) or visible(reason(error))
        raise InputError(f"{visible(path)}: not a readable image ({why}); replace or remove it") from error


def _format(begin: bytes, path: pathlib.Path | Memory) -> str:
    """Name the format that a file has by its first bytes."""
    found = next((name for name, (_, start) in FORMATS.items() if re.match(start, begin, re.DOTALL)), None)
    if found is None and path.suffix.lower() == ".tga" and begin:
        found = "TGA"
    if found is None:
        kind = next(
            (kind for start, kind in OTHERS.items() if re.match(start, begin, re.DOTALL)),
            "none of " + ", ".join(FORMATS),
        )
        raise InputError(f"not a readable image ({kind}); replace or remove it")
    return found


@functools.cache
def factory(name: str) -> Any:
    """Return Pillow's function for one format; `Image.open` would try other formats, and warn of large sizes."""
    from PIL import Image

    try:
        plugin = importlib.import_module(f"PIL.{FORMATS[name][0]}ImagePlugin")
    except ImportError:
        plugin = None
    if not getattr(plugin, "SUPPORTED", plugin is not None):
        raise InputError(f"not a readable image (the installed Pillow has no {name}); update Pillow, or save it as PNG")
    return Image.OPEN[name.upper()][0]


def _check(image: Any) -> None:
    """Refuse an image that would take too much memory, or whose numbers have no stated range."""
    _check_size(image)
    if image.mode == "F":
        raise InputError("an image of floats has no fixed range; save it with 8 or 16 bits")
    if image.format == "TIFF" and (image.mode == "I" or 2 in image.tag_v2.get(SAMPLES, ())):
        bits = image.tag_v2.get(BITS, ("?",))[0]
        sign = "signed" if 2 in image.tag_v2.get(SAMPLES, ()) else "unsigned"
        raise InputError(
            f"an image of {sign} {bits}-bit integers has no fixed range; save it with 8 or 16 bits, unsigned"
        )


def _check_size(image: Any) -> None:
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS  # 89 million, for a program that has not changed it
    if limit is not None:
        limit = int(limit * MEMORY.get(image.format, 1))
    width, height = image.size
    if min(width, height) < 1 or limit is not None and width * height > limit:
        large = limit is not None and width * height > limit
        why = f"more than the {limit:,} that are read of an image" if large else "must be at least 1 x 1"
        fix = (
            "replace or remove it"
            if width < 1 or height < 1
            else "make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS"
        )
        raise (TooLargeError if large else InputError)(f"{width} x {height} pixels, {why}; {fix}")


def _check_scans(image: Any, file: IO[bytes]) -> None:
    """Refuse a JPEG with thousands of scans over all its pixels: a small file could take hours."""
    here = file.tell()
    file.seek(0)
    scans = file.read().count(b"\xff\xda")
    file.seek(here)
    if scans * image.size[0] * image.size[1] > SCANNED:
        raise InputError(
            f"not a readable image ({scans} scans of {image.size[0]} x {image.size[1]} pixels); save it again"
        )


@contextlib.contextmanager
def room(image: Any) -> Iterator[None]:
    """Wait until the images that other threads decode leave room in memory for this one."""
    pixels = min(image.size[0] * image.size[1], TOGETHER)
    if pixels < SMALL:
        yield
        return
    with _turn:
        _turn.wait_for(lambda: _decoding[0] + pixels <= TOGETHER)
        _decoding[0] += pixels
    try:
        yield
    finally:
        with _turn:
            _decoding[0] -= pixels
            _turn.notify_all()


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Suppress Pillow's warnings about files, which are read or refused.

    `warnings.catch_warnings` would undo the filters that other threads set in the meantime.
    """
    entry = ("ignore", None, Warning, re.compile(r"PIL\.\w+\Z"), 0)
    with _quiet:
        _readers[0] += 1
        if _readers[0] == 1:
            warnings.filterwarnings(entry[0], category=entry[2], module=entry[3].pattern)
    try:
        yield
    finally:
        with _quiet:
            _readers[0] -= 1
            if not _readers[0]:
                with contextlib.suppress(ValueError):
                    cast(list, warnings.filters).remove(entry)
