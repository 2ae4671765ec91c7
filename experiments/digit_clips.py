"""Clips of MNIST's digits that move over a larger frame, for the experiments with videos."""

import numpy as np

import jaxcnn as jc
from jaxcnn.core import files

SIDE = 14  # of a digit in a clip, half of MNIST's
PARTS = ("train", "valid", "test")


def digits(folder: str, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read MNIST, and return digits of half the size for each part, `[N, 14, 14]` uint8, with their classes.

    Args:
        folder: with the four IDX files. A sixth of the training files are the digits of validation clips.
        name: of the experiment, for messages.

    Raises:
        InputError: no folder is given, or it does not hold digits of 28x28 pixels.

    """
    if not folder:
        raise jc.InputError(f"DATA: give the folder of MNIST's IDX files, as in python -m experiments.{name} DATA")
    splits = jc.data.idx(files.expanded(folder), validation_fraction=1 / 6)
    found = {}
    for part, rows in zip(PARTS, splits, strict=True):
        image = np.asarray(rows.arrays["image"])
        if image.shape[1:] != (2 * SIDE, 2 * SIDE, 1):
            raise jc.InputError(f"{folder}: images of shape {image.shape[1:]}; must be (28, 28, 1), as those of MNIST")
        small = image.reshape(-1, SIDE, 2, SIDE, 2).mean((2, 4))
        found[part] = small.round().astype(np.uint8), np.asarray(rows.label)
    return found


def drawn(sprites: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    """Draw clips of one digit each, on a frame whose opposite borders meet.

    Args:
        sprites: `[N, 14, 14]` uint8.
        corners: top and left of the digit in each frame, integers `[N, T, 2]`.
        side: of the frames.

    Returns:
        uint8 `[N, T, side, side]`.

    """
    clips = np.zeros((*corners.shape[:2], side, side), np.uint8)
    inside = (corners[..., None] + np.arange(SIDE)) % side  # [N, T, 2, 14]
    rows, frames = np.indices(corners.shape[:2])[..., None, None]
    clips[rows, frames, inside[:, :, 0, :, None], inside[:, :, 1, None, :]] = sprites[:, None]
    return clips
