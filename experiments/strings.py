"""Composes images of strings from images of digits, on the host; a row is a function of a seed and its number."""

import functools
from typing import NamedTuple

import numpy as np

import jaxcnn as jc

HEIGHT, WIDTH = 32, 192
SCALES = (0.8, 1.1)  # of a digit's 28 pixels; of a string as a whole, of which single digits differ by a tenth
GAPS = (-2, 6)  # pixels between two digits; below 0 they overlap
JITTER = 3  # pixels that a digit may lie above or below the middle
INK = 32  # darkest value that is part of a digit


class Digits(NamedTuple):
    """Images of single digits, uint8 `[N, 28, 28]`, and which digits they are, `[N]`."""

    image: np.ndarray
    label: np.ndarray


def rows(digits: Digits, size: int, lengths: tuple[int, int], seed: int, *, fresh: bool = False) -> jc.data.Indexed:
    """Return strings as rows: `"image"` uint8 `[HEIGHT, WIDTH, 1]` and `"symbols"` int32 `[longest]`, -1 after the end.

    Args:
        digits: what strings are composed from.
        size: number of rows.
        lengths: fewest and most digits of a string, all equally likely.
        seed: the rows are a function of it and of their number.
        fresh: whether training draws a new string each time it reads a row.

    """

    def drawn(seeds: np.ndarray) -> dict[str, np.ndarray]:
        found = [compose(digits, np.random.default_rng(s), lengths) for s in seeds]
        return {"image": np.stack([x for x, _ in found]), "symbols": np.stack([x for _, x in found])}

    def read(index: np.ndarray) -> dict[str, np.ndarray]:
        return drawn(np.stack([np.full(len(index), seed), index], -1))

    def read_train(index: np.ndarray, seeds: np.ndarray) -> dict[str, np.ndarray]:
        return drawn(np.concatenate([np.full((len(index), 1), seed), seeds], -1))

    return jc.data.Indexed(read, size, read_train=read_train if fresh else None)


def compose(digits: Digits, rng: np.random.Generator, lengths: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw one string: its image `[HEIGHT, WIDTH, 1]` and its digits `[longest]`."""
    count = int(rng.integers(lengths[0], lengths[1] + 1))
    chosen, scale = rng.integers(0, len(digits.image), count), rng.uniform(*SCALES)
    inks = [ink(digits.image[i], scale * rng.uniform(0.9, 1.1)) for i in chosen]
    gaps = rng.integers(GAPS[0], GAPS[1] + 1, count - 1)
    wide = sum(x.shape[1] for x in inks) + gaps.sum()
    while wide > WIDTH:  # the widest distances shrink until the string fits
        widest = gaps.argmax()
        wide, gaps[widest] = wide - 1, gaps[widest] - 1
    left, canvas = int(rng.integers(0, WIDTH - wide + 1)), np.zeros((HEIGHT, WIDTH), np.float32)
    for x, gap in zip(inks, [*gaps, 0], strict=True):
        high = x.shape[0]
        top = (HEIGHT - high) // 2 + int(rng.integers(-JITTER, JITTER + 1))
        top = min(max(top, 0), HEIGHT - high)
        place = canvas[top : top + high, left : left + x.shape[1]]
        np.maximum(place, x, out=place)  # overlapping strokes do not hide each other
        left += x.shape[1] + int(gap)
    symbols = np.full(lengths[1], -1, np.int32)
    symbols[:count] = digits.label[chosen]
    return canvas.round().astype(np.uint8)[..., None], symbols


def ink(image: np.ndarray, scale: float) -> np.ndarray:
    """Resize the part of a digit `[28, 28]` that has ink, to float `[h, w]` of at most HEIGHT pixels a side."""
    high, wide = (np.flatnonzero((image >= INK).any(axis)) for axis in (1, 0))
    if not len(high):  # an image without ink stays what it is
        high = wide = np.arange(8, 20)
    part = image[high[0] : high[-1] + 1, wide[0] : wide[-1] + 1].astype(np.float32)
    sides = [min(max(round(n * scale), 2), HEIGHT) for n in part.shape]
    return weights(part.shape[0], sides[0]) @ part @ weights(part.shape[1], sides[1]).T


@functools.cache
def weights(before: int, after: int) -> np.ndarray:
    """Return the weights `[after, before]` of a linear interpolation; narrower results are averages."""
    centres, reach = (np.arange(after) + 0.5) * before / after, max(before / after, 1.0)
    found = np.maximum(1 - np.abs(centres[:, None] - np.arange(before)[None] - 0.5) / reach, 0)
    return (found / found.sum(1, keepdims=True)).astype(np.float32)


def fitted(image: np.ndarray, height: int, width: int) -> tuple[np.ndarray, bool]:
    """Bring an image `[H, W, 1]` into the form of the rows: bright ink on black, at the left of `[height, width, 1]`.

    Its shape is kept. Dark ink on a bright ground, as the border shows it, is inverted, which is said.
    """
    pixels = image[..., 0].astype(np.float32)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    inverted = bool(np.median(border) > 127)
    pixels = 255 - pixels if inverted else pixels
    share = min(height / pixels.shape[0], width / pixels.shape[1])
    high, wide = (max(int(round(n * share)), 1) for n in pixels.shape)
    small = weights(pixels.shape[0], high) @ pixels @ weights(pixels.shape[1], wide).T
    out, top = np.zeros((height, width, 1), np.uint8), (height - high) // 2
    out[top : top + high, :wide, 0] = small.round().clip(0, 255)
    return out, inverted
