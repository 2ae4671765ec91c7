"""One image file as a viewer shows it: upright, on white where it is transparent, in 8 bits."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxcnn.data.image_file import BITS, opened_image, room

Resize = Literal["squash", "crop", "pad"]
GRAY = ("L", "LA", "La", "1", "I", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes; those with I are 16 bits deep
DARK = 4096  # an image of 16 bits without a larger value is nearly black
PHOTOMETRIC = 262  # a tag of TIFF


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
    with opened_image(path) as (image, turn):
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

    An orientation in EXIF, XMP or TIFF is applied, transparent pixels are laid on white, only the first frame of an
    animation is read, and deep images are brought from their declared range to 0..255. Colour profiles are ignored.

    Args:
        path: of the file.
        mode: `"L"` or `"RGB"`.
        size: height and width to resize it to.
        dark: called with the largest value of an image of 16 bits that is nearly black.
        resize: `"squash"` brings both sides to the size, `"crop"` keeps the shape and cuts the middle out, and `"pad"`
            keeps the shape and puts black beside the image.

    Raises:
        InputError: not a readable image.

    """
    from PIL import Image

    with opened_image(path, pixels=True) as (image, turn), room(image):
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
