"""Selects the part of an image to read: the whole image, a central crop, or a random crop."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxcnn.core.types import InputError, check_numbers

ATTEMPTS = 10  # to find a rectangle that fits, as in torchvision
ASPECT = (3 / 4, 4 / 3)  # width over height of a drawn rectangle
Sides = tuple[int, int]


class Window(NamedTuple):
    """A rectangle in an image as shown, in pixels; it may begin between two pixels."""

    top: float
    left: float
    height: float
    width: float


Choose = Callable[[int, int], Window]  # from the height and width of an image


class Training(NamedTuple):
    """How rows are read for training, if not as they are read for evaluation.

    Attributes:
        size: height and width of a row.
        scale: smallest and largest share of the image's area.

    """

    size: Sides
    scale: tuple[float, float]

    def window(self, seed: np.ndarray) -> Choose:
        """Return a function that draws a rectangle from a seed, one or more integers."""
        return functools.partial(_random, scale=self.scale, seed=seed)


def training(size: Sides | None, train_size: Sides | None, random_crop: tuple[float, float] | None) -> Training | None:
    """Check the options of a source that concern training rows.

    Args:
        size: height and width of all rows, or None.
        train_size: height and width of training rows; None for `size`.
        random_crop: smallest and largest share of the area; None to read training rows like all others.

    Raises:
        InputError: a share is out of range, or an option is missing.

    """
    if random_crop is None:
        if train_size is not None:
            raise InputError(f"train_size={train_size}: give random_crop as well, such as (0.08, 1)")
        return None
    if size is None:
        raise InputError(f"random_crop={random_crop}: give size as well, to which the crops are resized")
    if len(random_crop) != 2 or not 0 < random_crop[0] <= random_crop[1] <= 1:
        raise InputError(f"random_crop={random_crop}: must be two shares of the area in (0, 1], the smaller one first")
    return Training(train_size or size, (float(random_crop[0]), float(random_crop[1])))


def check_ratio(crop_ratio: float, resize: str) -> None:
    """Refuse a share of the shorter side outside (0, 1], or one that resizing does not use.

    Raises:
        InputError: see above.

    """
    check_numbers(crop_ratio=crop_ratio)
    if not 0 < crop_ratio <= 1:
        raise InputError(f"crop_ratio={crop_ratio}: must be above 0 and at most 1")
    if crop_ratio < 1 and resize != "crop":
        raise InputError(f'crop_ratio={crop_ratio}: needs resize="crop"; resize={resize!r} shows the whole image')


def whole(height: int, width: int) -> Window:
    """Return all of an image."""
    return Window(0, 0, height, width)


def central(height: int, width: int, size: Sides, ratio: float = 1.0) -> Window:
    """Return the largest central rectangle with the shape of `size`, or a share of it.

    Args:
        height: height of the image.
        width: width of the image.
        size: height and width of the result.
        ratio: share of the rectangle's sides; 0.875 is that of an image resized to 256 and cropped to 224.

    """
    times = max(size[0] / height, size[1] / width) / ratio
    high, wide = size[0] / times, size[1] / times
    return Window((height - high) / 2, (width - wide) / 2, high, wide)


def _random(height: int, width: int, scale: tuple[float, float], seed: np.ndarray) -> Window:
    """Draw a rectangle as torchvision's `RandomResizedCrop` does (Szegedy et al., 2014, arXiv:1409.4842)."""
    rng = np.random.default_rng(seed)
    area = height * width * rng.uniform(*scale, ATTEMPTS)
    aspect = np.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1]), ATTEMPTS))
    wide, high = np.rint(np.sqrt(area * aspect)).astype(int), np.rint(np.sqrt(area / aspect)).astype(int)
    fits = np.flatnonzero((0 < wide) & (wide <= width) & (0 < high) & (high <= height))
    place = rng.random(2)
    if not len(fits):
        wide, high = min(width, max(round(height * ASPECT[1]), 1)), min(height, max(round(width / ASPECT[0]), 1))
        return Window((height - high) // 2, (width - wide) // 2, high, wide)
    wide, high = int(wide[fits[0]]), int(high[fits[0]])
    return Window(int(place[0] * (height - high + 1)), int(place[1] * (width - wide + 1)), high, wide)
