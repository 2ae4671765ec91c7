"""One image file as a viewer shows it: upright, on white where it is transparent, in 8 bits; only formats that are meant."""

import contextlib
import functools
import importlib
import pathlib
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import IO, Any, Literal, NamedTuple, cast

import numpy as np

from jaxcnn.core.files import opened
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason

Resize = Literal["squash", "crop", "pad"]
ENDINGS = {
    ".apng", ".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tga", ".tif", ".tiff", ".webp",
}  # fmt: skip
# Pillow's plugins and how their files begin; it has others, some of which start programs
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
    "TGA": ("Tga", rb"(?!)"),  # begins with nothing of its own: known by its ending
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
GRAY = ("L", "LA", "La", "1", "I", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes; those with I are 16 bits deep
DARK = 4096  # what 16 bits hold below is nearly black
ORIENTATION, BITS, PHOTOMETRIC, SAMPLES = 274, 258, 262, 339  # tags of TIFF, which EXIF is written in
MEMORY = {
    "JPEG2000": 1 / 4,
    "WEBP": 2 / 3,
    "AVIF": 2 / 3,
}  # what their decoders leave of the memory that others take for a pixel
SCANNED = 2**31  # pixels that a progressive JPEG may go over, in all its scans
TOGETHER = 2**26  # pixels that several threads may decode at once, 10 to 30 bytes each; larger ones are decoded alone
SMALL = 2**18
_turn, _decoding = threading.Condition(), [0]
_quiet, _readers = threading.Lock(), [0]


class Head(NamedTuple):
    """What an image is, before it is decoded.

    Attributes:
        gray: whether it has no colour.
        size: height and width as shown.
        deep: whether it has more than 8 bits, in gray.

    """

    gray: bool
    size: tuple[int, int]
    deep: bool


def head(path: pathlib.Path) -> Head:
    """Read what an image is from the head of its file.

    Raises:
        InputError: not a readable image.

    """
    with _opened(path) as (image, turn):
        size = image.size if turn in (5, 6, 7, 8) else image.size[::-1]
        if image.format == "TIFF":  # some versions of Pillow have turned it already, and some have not
            stored = image.tag_v2[256], image.tag_v2[257]
            size = stored if turn in (5, 6, 7, 8) else stored[::-1]
        return Head(image.mode in GRAY, size, image.mode.startswith("I"))


def decode(
    path: pathlib.Path,
    mode: str,
    size: tuple[int, int] | None,
    dark: Callable[[int], None] | None = None,
    resize: Resize = "squash",
) -> np.ndarray:
    """Read one image as `[H, W, C]` uint8.

    An orientation in EXIF, XMP or TIFF is applied, what is transparent is laid on white, of an animation the first frame is taken, and
    deep images are brought from their declared range to 0..255. Colour profiles are ignored.

    Args:
        path: of the file.
        mode: `"L"` or `"RGB"`.
        size: height and width to resize it to.
        dark: told the largest value of an image of 16 bits that is nearly black.
        resize: `"squash"` brings both sides to the size, `"crop"` keeps the shape and cuts the middle out, `"pad"` keeps it
            and puts black beside it.

    Raises:
        InputError: not a readable image.

    """
    from PIL import Image

    with _opened(path, pixels=True) as (image, turn), _room(image):
        plain = _plain(image, mode, dark)
        if image.format != "TIFF" and turn != 1:  # Pillow turns a TIFF when it loads it
            how = Image.Transpose
            ways = (
                how.FLIP_LEFT_RIGHT,
                how.ROTATE_180,
                how.FLIP_TOP_BOTTOM,
                how.TRANSPOSE,
                how.ROTATE_270,
                how.TRANSVERSE,
                how.ROTATE_90,
            )
            plain = plain.transpose(ways[turn - 2])
        if size is not None and plain.size != size[::-1]:
            plain = _resized(plain, size, resize)
        if plain is not image:
            image.close()  # what its decoder holds
        return np.asarray(plain, np.uint8).reshape(*plain.size[::-1], -1)


def _resized(image: Any, size: tuple[int, int], resize: str) -> Any:
    """Bring an image to a height and width."""
    from PIL import Image

    options = {"resample": Image.Resampling.BILINEAR, "reducing_gap": 3.0}
    wanted, stored = (size[1], size[0]), image.size
    times = [w / s for w, s in zip(wanted, stored, strict=True)]
    if resize == "squash" or times[0] == times[1]:
        return image.resize(wanted, **options)
    if resize == "crop":
        kept = [w / max(times) for w in wanted]
        left, top = ((s - k) / 2 for s, k in zip(stored, kept, strict=True))
        return image.resize(wanted, box=(left, top, left + kept[0], top + kept[1]), **options)
    inside = [min(max(round(s * min(times)), 1), w) for s, w in zip(stored, wanted, strict=True)]
    whole = Image.new(image.mode, wanted)
    left, top = ((w - i) // 2 for w, i in zip(wanted, inside, strict=True))
    whole.paste(image.resize(inside, **options), (left, top))
    return whole


def _plain(image: Any, mode: str, dark: Callable[[int], None] | None) -> Any:
    """Convert to 8-bit gray or RGB."""
    clear = image.info.get("transparency")
    if image.mode.startswith("I"):
        return _shallow(image, clear, dark).convert(mode)
    if image.mode in ("LAB", "La"):  # Pillow has no direct way from these
        image = image.convert("RGB" if image.mode == "LAB" else "LA")
    if clear is None and image.mode not in ("LA", "PA", "RGBA", "RGBa"):
        return image.convert(mode)
    from PIL import Image

    image = image if image.mode == "RGBA" or image.mode == "LA" and mode == "L" else image.convert("RGBA")
    alpha = image.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return image.convert(mode)
    shown = Image.new("L" if image.mode == "LA" else "RGB", image.size, "white")
    shown.paste(image.convert(shown.mode), mask=alpha)
    return shown.convert(mode)


def _shallow(image: Any, clear: Any, dark: Callable[[int], None] | None) -> Any:
    """Bring a gray image of up to 16 bits to 8, by the range that its file declares; Pillow would clip what is above 255."""
    from PIL import Image

    tags = image.tag_v2 if image.format == "TIFF" else {}
    bits = tags.get(BITS, (16,))[0]
    inverted = tags.get(PHOTOMETRIC) == 0
    deep = np.asarray(image)
    if deep.dtype.itemsize > 2:  # PPM, which Pillow has brought to 16 bits
        deep = deep.astype(np.uint16)
    top = int(deep.max())
    declared = image.info.get("sBIT", 16)
    if (
        declared < bits and top < 1 << declared and (deep & ((1 << bits - declared) - 1)).any()
    ):  # else the writer scaled it, as PNG asks
        bits = declared
    elif dark is not None and bits == 16 and not inverted and 0 < top < DARK:
        dark(top)
    shallow = _table(bits, inverted)[deep]
    if isinstance(clear, int):
        shallow[deep == clear] = 255
    return Image.fromarray(shallow)


@functools.lru_cache
def _table(bits: int, inverted: bool) -> np.ndarray:
    top = (1 << bits) - 1
    table = ((np.arange(2**16).clip(0, top) * 255 + top // 2) // top).astype(np.uint8)
    return 255 - table if inverted else table


@contextlib.contextmanager
def _opened(path: pathlib.Path, pixels: bool = False) -> Iterator[tuple[Any, int]]:
    """Open an image, whose `pixels` are to be decoded or not, and say how it is to be turned (1 to 8, as in EXIF)."""
    try:
        with without_warnings(), opened(path) as file:
            make = _factory(_format(file.read(32), path))
            file.seek(0)
            with make(file, "") as image:
                _check(image)
                if pixels and image.info.get("progressive"):
                    _check_scans(image, file)
                yield image, _orientation(image, file)
    except InputError as error:
        name = visible(path)
        raise InputError(str(error) if str(error).startswith(name) else f"{name}: {error}") from error
    except Exception as error:  # a damaged file raises whatever its decoder stumbles over
        why = getattr(error, "strerror", None) or visible(reason(error))
        raise InputError(f"{visible(path)}: not a readable image ({why}); replace or remove it") from error


def _format(begin: bytes, path: pathlib.Path) -> str:
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
def _factory(name: str) -> Any:
    """Return what makes an image of an open file; `Image.open` would look for other formats, and warn of sizes that `_check` refuses."""
    from PIL import Image

    try:
        plugin = importlib.import_module(f"PIL.{FORMATS[name][0]}ImagePlugin")
    except ImportError:
        plugin = None
    if not getattr(plugin, "SUPPORTED", plugin is not None):
        raise InputError(f"not a readable image (the installed Pillow has no {name}); update Pillow, or save it as PNG")
    return Image.OPEN[name.upper()][0]


def _check(image: Any) -> None:
    """Refuse what would take too much memory, and numbers whose range the file does not say."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS  # 89 million, for a program that has not changed it
    if limit is not None:
        limit = int(limit * MEMORY.get(image.format, 1))
    width, height = image.size
    if min(width, height) < 1 or limit is not None and width * height > limit:
        why = (
            "must be at least 1 x 1"
            if limit is None or width * height <= limit
            else f"more than the {limit:,} that are read of an image"
        )
        fix = (
            "replace or remove it"
            if width < 1 or height < 1
            else "make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS"
        )
        raise InputError(f"{width} x {height} pixels, {why}; {fix}")
    if image.mode == "F":
        raise InputError("an image of floats has no fixed range; save it with 8 or 16 bits")
    if image.format == "TIFF" and (image.mode == "I" or 2 in image.tag_v2.get(SAMPLES, ())):
        bits = image.tag_v2.get(BITS, ("?",))[0]
        sign = "signed" if 2 in image.tag_v2.get(SAMPLES, ()) else "unsigned"
        raise InputError(
            f"an image of {sign} {bits}-bit integers has no fixed range; save it with 8 or 16 bits, unsigned"
        )


def _check_scans(image: Any, file: IO[bytes]) -> None:
    """Refuse a JPEG that goes over all its pixels thousands of times: a small file could take hours."""
    here = file.tell()
    file.seek(0)
    scans = file.read().count(b"\xff\xda")
    file.seek(here)
    if scans * image.size[0] * image.size[1] > SCANNED:
        raise InputError(
            f"not a readable image ({scans} scans of {image.size[0]} x {image.size[1]} pixels); save it anew"
        )


def _orientation(image: Any, file: IO[bytes]) -> int:
    """Return how an image is to be turned, 1 to 8; what is damaged turns nothing."""
    with contextlib.suppress(Exception):
        info, turn = image.info, None
        if image.format == "PNG":
            info |= {k: v for k, v in _chunks(file, image.mode.startswith("I;16")).items() if k not in info}
        if image.format == "TIFF":
            turn = image.tag_v2.get(ORIENTATION)
        elif "exif" in info:
            turn = _in_exif(info["exif"])
        elif "Raw profile type exif" in info:
            turn = _in_exif(bytes.fromhex("".join(info["Raw profile type exif"].split("\n")[3:])))
        xmp = info.get("XML:com.adobe.xmp") or info.get("xmp")
        if turn is None and xmp:
            found = re.search(rb'tiff:Orientation(="|>)([0-9])', xmp.encode() if isinstance(xmp, str) else xmp)
            turn = found and int(found[2])
        return turn if turn and turn in range(1, 9) else 1
    return 1


def _in_exif(exif: bytes) -> int | None:
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}[exif[:2]]
    (at,) = struct.unpack_from(order + "L", exif, 4)
    (count,) = struct.unpack_from(order + "H", exif, at)
    found = None
    for place in range(at + 2, min(at + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", exif, place)
        if tag == ORIENTATION and kind in (1, 3, 4):
            (found,) = struct.unpack_from(order + {1: "B", 3: "H", 4: "L"}[kind], exif, place + 8)
    return found


def _chunks(file: IO[bytes], deep: bool) -> dict[str, Any]:
    """Find what Pillow has not read of a PNG when it opens it: EXIF behind the pixels, and how many bits of 16 are meant."""
    found, at, here = {}, 8, file.tell()
    try:
        for _ in range(2**16):
            file.seek(at)
            start = file.read(8)
            if len(start) < 8:
                break
            length, name = int.from_bytes(start[:4], "big"), start[4:]
            if name == b"eXIf" and length <= 2**20:
                found["exif"] = file.read(length)
            elif name == b"sBIT" and deep:
                found["sBIT"] = max(1, min(16, file.read(1)[0]))
            at += length + 12
    finally:
        file.seek(here)
    return found


@contextlib.contextmanager
def _room(image: Any) -> Iterator[None]:
    """Wait until the images that other threads decode leave room for this one."""
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
    """Keep Pillow's warnings about files back: they are read or refused, and `catch_warnings` would undo what other threads set."""
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
