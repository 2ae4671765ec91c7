"""The fifteen common corruptions of ImageNet-C at five strengths, for images of any size, on the host.

`corrupted` wraps a data set for evaluation; `corrupt` changes one image. Both depend only on the seed and the number of
the row. Strengths follow CIFAR-10-C up to 85 pixels, with lengths as shares of 32 pixels, and from there on ImageNet-C,
with shares of 224. The code is this library's own, so single images differ from these files: frost is synthesised
(there, it is pasted from photos), fog is a sum of smooth noise of many sizes, and glass looks up its pixels at random
places instead of exchanging neighbours one after the other.

Reference: Hendrycks and Dietterich, 2019, arXiv:1903.12261.
"""

import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxcnn.core.types import InputError, check_whole
from jaxcnn.data import corruption_kinds as kinds
from jaxcnn.data.anything import as_data
from jaxcnn.data.core import Indexed

Change = Callable[..., np.ndarray]  # (x [H, W, C] in 0..1, rng, length of a pixel, *strength) -> the same form
ROUNDING = 1e-3  # tolerance around 0..1
SMALL, LARGE = 32, 224  # sides for which the strengths were published
Strengths = tuple[tuple[Any, ...], ...]


def corrupted(data: Any, name: str, severity: int, *, seed: int = 0) -> Indexed:
    """Wrap a data set so that evaluation reads corrupted images.

    Args:
        data: rows with `"image"` `[H, W, 1 or 3]`, uint8 0..255 or float 0..1, in a data set that reads them by number.
        name: one of `CORRUPTIONS`.
        severity: 1 (weak) to 5 (strong).
        seed: seed of random corruptions, of which each row gets its own.

    Returns:
        The data set, with uint8 images. Its rows are read in order, and corrupted each time.

    Raises:
        InputError: an unknown name, a severity outside 1..5, or a stream; or, when read, images of another form.

    """
    data = as_data(data)
    if not hasattr(data, "take"):
        line = f"data of type {type(data).__name__}: rows cannot be read by number"
        raise InputError(f"{line}; use jc.data.Resident or jc.data.dataset")
    _check(name, severity)
    check_whole("seed", seed, 0)
    size = data.size

    def read(index: np.ndarray) -> dict[str, np.ndarray]:
        rows = _taken(data, np.asarray(index))
        if "image" not in rows:
            raise InputError(f"the rows have no 'image', only {', '.join(sorted(rows))}; corruptions change images")
        images = zip(rows["image"], np.asarray(index).tolist(), strict=True)
        return {**rows, "image": np.stack([corrupt(x, name, severity, seed=seed, row=i) for x, i in images])}

    label = getattr(data, "label", None) if "label" in data.example() else None
    return Indexed(read, size, data.classes, label=label, names=getattr(data, "names", None))


def corrupt(image: Any, name: str, severity: int, *, seed: int = 0, row: int = 0) -> np.ndarray:
    """Corrupt one image.

    Args:
        image: `[H, W, 1 or 3]`, uint8 0..255 or float 0..1.
        name: one of `CORRUPTIONS`.
        severity: 1 (weak) to 5 (strong).
        seed: seed of random corruptions.
        row: number of the image, which draws its own.

    Returns:
        The image, uint8.

    Raises:
        InputError: an unknown name, a severity outside 1..5, another form of image, or floats outside 0..1.

    """
    _check(name, severity)
    for what, number in (("seed", seed), ("row", row)):
        check_whole(what, number, 0)
    image = np.asarray(image)
    if (
        image.ndim != 3
        or not image.size
        or image.shape[-1] not in (1, 3)
        or not (image.dtype == np.uint8 or image.dtype.kind == "f")
    ):
        raise InputError(f"image of shape {image.shape}, {image.dtype}: must be [H, W, 1 or 3], uint8 or float 0..1")
    x = image.astype(np.float64) / (255 if image.dtype == np.uint8 else 1)
    if not (x.min() >= -ROUNDING and x.max() <= 1 + ROUNDING):
        raise InputError(
            f"a float image from {x.min():g} to {x.max():g}: must be in 0..1; divide by 255, or give uint8"
        )
    change, small, large = _TABLE[name]
    side = math.sqrt(x.shape[0] * x.shape[1])
    strengths, published = (small, SMALL) if side < math.sqrt(SMALL * LARGE) else (large, LARGE)
    rng = np.random.default_rng([seed, row, severity, zlib.crc32(name.encode())])
    out = change(np.clip(x, 0, 1), rng, side / published, *strengths[severity - 1])
    return np.rint(np.clip(out, 0, 1) * 255).astype(np.uint8)


def _check(name: str, severity: int) -> None:
    if name not in _TABLE:
        raise InputError(f"name={name!r}: must be one of {', '.join(_TABLE)}")
    check_whole("severity", severity, 1)
    if severity > 5:
        raise InputError(f"severity={severity}: must be 1 to 5")


def _taken(data: Any, index: np.ndarray) -> dict[str, np.ndarray]:
    """Return some rows of a data set as arrays."""
    some = data.take(index)
    chunk = next(iter(some.once(len(index))))
    held = data.example()  # which has a mask if the rows themselves have one
    return {k: np.asarray(v)[: len(index)] for k, v in chunk.at(0).items() if k != "row_mask" or k in held}


def _single(*values: float) -> Strengths:
    return tuple((value,) for value in values)


# name -> function, and its arguments by severity as published for 32 and for 224 pixels
_TABLE: dict[str, tuple[Change, Strengths, Strengths]] = {
    "gaussian_noise": (
        kinds.gaussian_noise, _single(0.04, 0.06, 0.08, 0.09, 0.1),
        _single(0.08, 0.12, 0.18, 0.26, 0.38),
    ),
    "shot_noise": (kinds.shot_noise, _single(500, 250, 100, 75, 50), _single(60, 25, 12, 5, 3)),
    "impulse_noise": (
        kinds.impulse_noise, _single(0.01, 0.02, 0.03, 0.05, 0.07),
        _single(0.03, 0.06, 0.09, 0.17, 0.27),
    ),
    "defocus_blur": (
        kinds.defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": (
        kinds.glass_blur,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": (
        kinds.motion_blur,
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom_blur": (
        kinds.zoom_blur,
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "snow": (
        kinds.snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": (
        kinds.frost,
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    "fog": (
        kinds.fog,
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": (kinds.brightness, _single(0.05, 0.1, 0.15, 0.2, 0.3), _single(0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (kinds.contrast, _single(0.75, 0.5, 0.4, 0.3, 0.15), _single(0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": (
        kinds.elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        tuple(
            tuple(x * 244 / LARGE for x in one)  # published as shares of 244
            for one in ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
        ),
    ),
    "pixelate": (kinds.pixelate, _single(0.95, 0.9, 0.85, 0.75, 0.65), _single(0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": (kinds.jpeg_compression, _single(80, 65, 58, 50, 40), _single(25, 18, 15, 10, 7)),
}  # fmt: skip
CORRUPTIONS = tuple(_TABLE)
SEVERITIES = (1, 2, 3, 4, 5)
