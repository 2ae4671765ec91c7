"""Lines of a lane: straight lines through pixels of the road that are brighter than what surrounds them."""

from typing import NamedTuple

import numpy as np

TRIALS, NEAR = 300, 2.0  # pairs of pixels that are tried, and pixels that a line may miss by
LEAST, SPAN = 40, 0.08  # pixels that a line needs, and the share of the image's height that it must cover
BLUR, EDGE = 9, 4  # side of the window that brightness is compared with, in pixels; distance from the road's edge


class Line(NamedTuple):
    """A line `x = slope * y + offset`, in pixels, from `top` to `bottom`."""

    slope: float
    offset: float
    top: float
    bottom: float


def lines(image: np.ndarray, road: np.ndarray, *, most: int = 4, seed: int = 0) -> list[Line]:
    """Fit lines to bright pixels of a road, by trying pairs of them (Fischler and Bolles, 1981).

    Args:
        image: `[H, W, C]` uint8.
        road: bool `[H, W]`, the pixels of the road.
        most: number of lines at most.
        seed: of the trials.

    Returns:
        The lines, those with most pixels first. Lines that are nearly level, as the stop lines of a crossing are, are
        left out.

    """
    from scipy import ndimage

    gray = image.astype(np.float32).mean(-1)
    inside = ndimage.binary_erosion(road, iterations=EDGE)
    brighter = gray - ndimage.uniform_filter(gray, 2 * BLUR + 1)
    if inside.sum() < LEAST:
        return []
    y, x = np.nonzero(inside & (brighter > 2.5 * brighter[inside].std()))
    rng, found = np.random.default_rng(seed), []
    while len(y) >= LEAST and len(found) < most:
        best = _best(y, x, rng)
        if best is None or best.sum() < LEAST or np.ptp(y[best]) < SPAN * len(image):
            break
        slope, offset = np.polyfit(y[best], x[best], 1)
        found.append(Line(float(slope), float(offset), float(y[best].min()), float(y[best].max())))
        far = np.abs(x - slope * y - offset) > 4 * NEAR  # a line is wider than a pixel
        y, x = y[far], x[far]
    return found


def _best(y: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Return the pixels near the line that has most of them."""
    first, second = rng.integers(0, len(y), (2, TRIALS))
    apart = (y[second] - y[first]).astype(float)
    steep = np.abs(apart) > 0.3 * np.abs(x[second] - x[first]) + 4
    if not steep.any():
        return None
    slope = (x[second] - x[first])[steep] / apart[steep]
    offset = x[first][steep] - slope * y[first][steep]
    near = np.abs(x[None] - slope[:, None] * y[None] - offset[:, None]) <= NEAR
    return near[near.sum(1).argmax()]


def drawn(picture: np.ndarray, found: list[Line]) -> np.ndarray:
    """Draw lines into a picture `[H, W, 3]` uint8, magenta within black."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(picture)
    pen, width = ImageDraw.Draw(image), max(2, round(picture.shape[0] / 120))
    for line in found:
        ends = [(line.slope * y + line.offset, y) for y in (line.top, line.bottom)]
        pen.line(ends, fill=(0, 0, 0), width=width + 2)
        pen.line(ends, fill=(255, 0, 255), width=width)
    return np.asarray(image)
