"""One image file as a viewer shows it: upright, on white where it is transparent, in 8 bits."""

import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxcnn.core.files import Memory
from jaxcnn.data.crops import Choose, Sides, Window, central, whole
from jaxcnn.data.image_file import BITS, opened_image, room

Resize = Literal["squash", "crop", "pad"]
GRAY = ("L", "LA", "La", "1", "I", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes; those with I are 16 bits deep
DARK = 4096  # an image of 16 bits without a larger value is nearly black
PHOTOMETRIC = 262  # a tag of TIFF
GAP = 2  # a JPEG is decoded at least this many times larger than it is resized to


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


def head(path: pathlib.Path | Memory) -> Head:
    """Read what an image is from the head of its file.

    Raises:
        InputError: not a readable image.

    """
    with opened_image(path) as (image, turn):
        size = image.size if turn in (5, 6, 7, 8) else image.size[::-1]
        if image.format == "TIFF":  # some versions of Pillow have turned it already, and some have not
            stored = image.tag_v2[256], image.tag_v2[257]
            size = stored if turn in (5, 6, 7, 8) else stored[::-1]
        return Head(image.mode in GRAY, size, image.mode.startswith("I"))


def decode(
    path: pathlib.Path | Memory,
    mode: str,
    size: Sides | None,
    dark: Callable[[int], None] | None = None,
    resize: Resize = "squash",
    crop_ratio: float = 1.0,
    window: Choose | None = None,
) -> np.ndarray:
    """Read one image as `[H, W, C]` uint8.

    An orientation in EXIF, XMP or TIFF is applied, transparent pixels are laid on white, only the first frame of an
    animation is read, and deep images are brought from their declared range to 0..255. Colour profiles are ignored. A
    JPEG that is several times larger than needed is decoded at a half, a quarter or an eighth of its size.

    Args:
        path: of the file.
        mode: `"L"` or `"RGB"`.
        size: height and width to resize it to.
        dark: called with the largest value of an image of 16 bits that is nearly black.
        resize: `"squash"` brings both sides to the size, `"crop"` keeps the shape and cuts the middle out, and `"pad"`
            keeps the shape and puts black beside the image.
        crop_ratio: with `"crop"`, the share of the sides of the largest central rectangle that is read; ImageNet's
            usual 224 pixels out of 256 are 0.875.
        window: chooses the rectangle that is resized to `size` instead of what `resize` says, for training rows.

    Raises:
        InputError: not a readable image.

    """
    with opened_image(path, pixels=True) as (image, turn):
        turn = 1 if image.format == "TIFF" else turn  # Pillow turns a TIFF when it loads it
        part = None
        if size is not None and image.format != "TIFF":
            part = shown(image.size if turn > 4 else image.size[::-1], size, resize, crop_ratio, window)
            part = drafted(image, part, window is None, turn > 4)
        with room(image):
            plain = turned(in_eight_bits(image, mode, dark), turn)
            if size is not None:
                part = part or shown(plain.size[::-1], size, resize, crop_ratio, window)
                plain = cut(plain, part, size)
            if plain is not image:
                image.close()  # what its decoder holds
            return np.asarray(plain, np.uint8).reshape(*plain.size[::-1], -1)


class Part(NamedTuple):
    """A rectangle of an image, and the height and width that it is resized to."""

    window: Window
    size: Sides


def shown(sides: Sides, size: Sides, resize: str, crop_ratio: float, window: Choose | None) -> Part:
    """Choose the part of an image that is shown.

    Args:
        sides: height and width of the image.
        size: see `decode`.
        resize: see `decode`.
        crop_ratio: see `decode`.
        window: see `decode`.

    """
    if window is not None:
        return Part(window(*sides), size)
    if resize == "crop":
        return Part(central(*sides, size, crop_ratio), size)
    if resize == "squash":
        return Part(whole(*sides), size)
    times = min(s / n for s, n in zip(size, sides, strict=True))
    high, wide = (min(max(round(n * times), 1), s) for n, s in zip(sides, size, strict=True))
    return Part(whole(*sides), (high, wide))


def drafted(image: Any, part: Part, exact: bool, swapped: bool = False) -> Part:
    """Let a JPEG be decoded at a part of its size if it is large enough, and return the part in the new pixels.

    Args:
        image: an image of Pillow's that is not decoded yet.
        part: what is read of it.
        exact: keep the decoded rectangle at least twice as large as what it is resized to, so that the result differs
            little from that of the whole image; otherwise, at least as large.
        swapped: whether the image is stored on its side.

    """
    window = part.window
    if image.format != "JPEG":
        return part
    before = image.size[::-1]  # height and width as stored
    gap = GAP if exact else 1
    kept = [gap * s / n for s, n in zip(part.size, (window.height, window.width), strict=True)]
    least = [math.ceil(n * k) for n, k in zip(before, kept[::-1] if swapped else kept, strict=True)]
    image.draft(None, (least[1], least[0]))
    down, right = (a / b for a, b in zip(image.size[::-1], before, strict=True))
    if swapped:
        down, right = right, down
    return Part(Window(window.top * down, window.left * right, window.height * down, window.width * right), part.size)


def cut(image: Any, part: Part, size: Sides) -> Any:
    """Resize a part of a decoded image; if it becomes smaller than `size`, put black beside it.

    Args:
        image: an image of Pillow's.
        part: what is shown.
        size: height and width of the result.

    """
    from PIL import Image

    window, (height, width) = part.window, part.size
    left, top = max(window.left, 0), max(window.top, 0)
    box = (left, top, min(left + window.width, image.width), min(top + window.height, image.height))
    if box != (0, 0, *image.size) or image.size != (width, height):
        image = image.resize((width, height), resample=Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)
    if part.size == size:
        return image
    padded = Image.new(image.mode, (size[1], size[0]))
    padded.paste(image, ((size[1] - width) // 2, (size[0] - height) // 2))
    return padded


def turned(image: Any, turn: int) -> Any:
    """Turn and mirror a decoded image as EXIF's number for its orientation asks.

    Args:
        image: an image of Pillow's.
        turn: 1 to 8; 1 leaves it as it is.

    """
    from PIL import Image

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
    return image if turn == 1 else image.transpose(ways[turn - 2])


def in_eight_bits(image: Any, mode: str, dark: Callable[[int], None] | None) -> Any:
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
    """Bring a gray image of up to 16 bits to 8 by the range that its file declares; Pillow would clip values at 255."""
    from PIL import Image

    tags = image.tag_v2 if image.format == "TIFF" else {}
    bits = tags.get(BITS, (16,))[0]
    inverted = tags.get(PHOTOMETRIC) == 0
    deep = np.asarray(image)
    if deep.dtype.itemsize > 2:  # PPM, which Pillow has brought to 16 bits
        deep = deep.astype(np.uint16)
    top = int(deep.max())
    declared = image.info.get("sBIT", 16)
    scaled = not (deep & ((1 << max(bits - declared, 0)) - 1)).any()  # by the writer, as PNG asks
    if declared < bits and top < 1 << declared and not scaled:
        bits = declared
    elif dark is not None and bits == 16 and not inverted and 0 < top < DARK:
        dark(top)
    shallow = _table(bits, inverted)[deep]
    if isinstance(clear, int):
        shallow[deep == clear] = 255
    return Image.fromarray(shallow)


@functools.lru_cache
def _table(bits: int, inverted: bool) -> np.ndarray:
    """Return the 8-bit value of each value of 16 bits."""
    top = (1 << bits) - 1
    table = ((np.arange(2**16).clip(0, top) * 255 + top // 2) // top).astype(np.uint8)
    return 255 - table if inverted else table
