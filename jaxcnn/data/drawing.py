"""Pictures of predictions: masks as indexed PNG, masks over their image, boxes with labels; arrays in, pixels out."""

import functools
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcnn.core.types import InputError, check_whole

# colours that eyes without one kind of cones tell apart (Okabe and Ito, 2008)
FIRST = (
    (0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
    (204, 121, 167),
)  # fmt: skip
VOID = (255, 255, 255)  # of pixels without a class
# what eyes without red, green or blue cones see, in linear RGB (Machado et al., 2009, doi:10.1109/TVCG.2009.113)
EYES = np.array([
    np.eye(3),
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
])  # fmt: skip
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])


def palette(count: int) -> np.ndarray:
    """Return colours for classes, uint8 `[count, 3]`, that people with any colour vision tell apart.

    Class 0 is black. The first eight are those of Okabe and Ito; each further one is the colour that is farthest from
    those before, to the kind of eyes to which it is nearest. More than about twenty are hard to tell apart for anyone.

    Args:
        count: number of classes, 1 to 255.

    Raises:
        InputError: another number.

    """
    check_whole("count", count)
    if not 1 <= count <= 255:
        raise InputError(f"count={count}: must be 1 to 255 classes")
    return _farthest(max(count, len(FIRST)))[:count].copy()


@functools.cache
def _farthest(count: int) -> np.ndarray:
    steps = np.array([0, 51, 102, 153, 204, 255])
    grid = np.stack(np.meshgrid(steps, steps, steps, np.arange(4), indexing="ij"), -1).reshape(-1, 4)
    grid = np.unique(np.clip(grid[:, :3] + 12 * grid[:, 3:], 0, 255), axis=0)
    found, seen = [*FIRST], lab(grid)
    near = np.full(len(grid), np.inf)
    for colour in (*FIRST, VOID):
        near = np.minimum(near, _apart(seen, colour))
    while len(found) < count:
        best = int(near.argmax())
        found.append(tuple(grid[best].tolist()))
        near = np.minimum(near, _apart(seen, found[-1]))
    return np.array(found, np.uint8)


def _apart(seen: np.ndarray, colour: Sequence[int]) -> np.ndarray:
    """Return the distances from `[N, 4, 3]` to a colour, each to the eyes to which it is smallest."""
    return np.linalg.norm(seen - lab(np.array([colour])), axis=-1).min(1)


def lab(colours: np.ndarray) -> np.ndarray:
    """Return colours `[N, 3]` in 0..255 in CIELAB `[N, 4, 3]`, to usual eyes and to those without a kind of cones."""
    part = np.asarray(colours, np.float64) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    felt = np.clip(np.einsum("eij,nj->nei", EYES, linear), 0, 1)
    share = felt @ XYZ.T / XYZ.sum(1)
    root = np.where(share > 216 / 24389, np.cbrt(share), (24389 / 27 * share + 16) / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def indexed_png(mask: Any, colours: Any = None, *, ignore_label: int = 255) -> bytes:
    """Encode a mask as a PNG with a palette, in which the value of a pixel is its class; `data.masks` reads it back.

    Args:
        mask: integers `[H, W]` in 0..255.
        colours: uint8 `[K, 3]`; by default `palette`, for as many classes as the mask has.
        ignore_label: value of pixels without a class, which are white.

    Raises:
        InputError: the mask has another shape, type or range, or a class has no colour.

    """
    from PIL import Image

    labels = _labels("mask", mask)
    table, used = np.zeros((256, 3), np.uint8), labels[labels != ignore_label]
    known = _colours(colours, int(used.max(initial=0)) + 1)
    table[: len(known)] = known
    if 0 <= ignore_label <= 255:
        table[ignore_label] = VOID
    image = Image.fromarray(labels)
    image.putpalette(table.ravel().tolist())
    return _encoded(image)


def png(pixels: Any) -> bytes:
    """Encode pixels `[H, W, C]`, uint8 or float 0..1, as a PNG in colour."""
    from PIL import Image

    return _encoded(Image.fromarray(rgb(pixels)))


def _encoded(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def overlay(
    image: Any,
    mask: Any,
    *,
    true: Any = None,
    colours: Any = None,
    background: int | None = 0,
    ignore_label: int = 255,
    opacity: float = 0.5,
) -> np.ndarray:
    """Lay the colours of the classes over an image, and draw a contour around what is wrong.

    Args:
        image: `[H, W, C]`, uint8 or float 0..1, gray or colour.
        mask: class of each pixel, integers `[H, W]`.
        true: the true classes, in the same form. White lines within black ones surround the pixels of other classes.
        colours: uint8 `[K, 3]`; by default `palette`, for as many classes as the masks have.
        background: class that is left uncoloured; None for none.
        ignore_label: label of pixels without a class, which are left uncoloured, and right whatever they are.
        opacity: weight of the colours, in 0..1.

    Returns:
        uint8 `[H, W, 3]`.

    Raises:
        InputError: shapes do not fit, or a value is out of range.

    """
    pixels, labels = rgb(image).astype(np.float32), _labels("mask", mask)
    truth = labels if true is None else _labels("true", true)
    for name, found in (("mask", labels), ("true", truth)):
        if found.shape != pixels.shape[:2]:
            raise InputError(f"{name} of shape {found.shape}: must have the {pixels.shape[:2]} pixels of the image")
    if not 0 <= opacity <= 1:
        raise InputError(f"opacity={opacity}: must be in 0..1")
    known = _colours(colours, int(labels[labels != ignore_label].max(initial=0)) + 1).astype(np.float32)
    shown = (labels != ignore_label) & (labels != (-1 if background is None else background))
    pixels[shown] = (1 - opacity) * pixels[shown] + opacity * known[labels[shown]]
    wrong = (labels != truth) & (truth != ignore_label)
    pixels[_grown(wrong) & ~wrong] = 0
    pixels[wrong & _grown(~wrong, border=True)] = 255
    return pixels.round().astype(np.uint8)


def _grown(region: np.ndarray, border: bool = False) -> np.ndarray:
    """Add the four neighbours of each pixel; outside the image, all pixels are `border`."""
    padded = np.pad(region, 1, constant_values=border)
    return region | padded[2:, 1:-1] | padded[:-2, 1:-1] | padded[1:-1, 2:] | padded[1:-1, :-2]


def rgb(image: Any) -> np.ndarray:
    """Return an image `[H, W]` or `[H, W, C]`, uint8 or float 0..1, gray or colour, as uint8 `[H, W, 3]`.

    Raises:
        InputError: another shape or dtype, or floats outside 0..1.

    """
    pixels = np.asarray(image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3, 4) or not pixels.size:
        raise InputError(f"image of shape {np.shape(image)}: must be [H, W, C] with 1, 3 or 4 channels")
    if pixels.dtype.kind == "f":
        if not (pixels.min() >= -1e-3 and pixels.max() <= 1 + 1e-3):
            raise InputError(f"image with values from {pixels.min():g} to {pixels.max():g}: floats must be in 0..1")
        pixels = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise InputError(f"image of dtype {pixels.dtype}: must be uint8 0..255 or float 0..1")
    return np.ascontiguousarray(np.broadcast_to(pixels[..., :3], (*pixels.shape[:2], 3)))


def _labels(name: str, mask: Any) -> np.ndarray:
    labels = np.asarray(mask)
    labels = labels[..., 0] if labels.ndim == 3 and labels.shape[-1] == 1 else labels
    if labels.ndim != 2 or labels.dtype.kind not in "iub" or not labels.size:
        raise InputError(f"{name} of shape {labels.shape}, {labels.dtype}: must be integers [H, W], a class per pixel")
    if labels.min() < 0 or labels.max() > 255:
        raise InputError(f"{name} with values from {labels.min()} to {labels.max()}: must be in 0..255")
    return labels.astype(np.uint8)


def _colours(colours: Any, count: int) -> np.ndarray:
    """Return the given colours, or some for `count` classes."""
    if colours is None:
        return palette(count)
    found = np.asarray(colours)
    if found.ndim != 2 or found.shape[-1] != 3 or found.min() < 0 or found.max() > 255:
        raise InputError(f"colours of shape {found.shape}: must be [K, 3], red, green and blue in 0..255")
    if len(found) < count:
        raise InputError(f"colours for {len(found)} classes: the mask has class {count - 1}; give one for each")
    return found.astype(np.uint8)[:256]
