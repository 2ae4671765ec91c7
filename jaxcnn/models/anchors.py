"""Predefined boxes that detectors predict relative to, computed once for a size of image, as shares of it."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

Grid = tuple[int, ...]  # height and width of a feature map
MULTIPLE = 32  # torchvision pads both sides of an image to multiples of it


def default_boxes(
    grids: Sequence[Grid],
    scales: Sequence[float],
    ratios: Sequence[Sequence[float]],
    steps: Mapping[int, float] | None = None,
) -> np.ndarray:
    """Return the default boxes of SSD.

    A place of level `k` has a square of side `scales[k]`, one whose side is the geometric mean with the next scale, and
    for each ratio r a box that is r times wider than high and one that is r times higher than wide, of the same area as
    the first square. Sides are at most 1, but boxes may hang over the border.

    Args:
        grids: height and width of each feature map.
        scales: side of a box of each level as a share of the image, and one more.
        ratios: per level.
        steps: distance of neighbouring centres as a share of the image, for a side of a feature map; 1 over the side
            where it is missing.

    Returns:
        `[A, 4]` float32, yxyx: level by level, row by row, place by place.

    Reference: Liu et al., 2016, arXiv:1512.02325, section 2.2.

    """
    levels = []
    for k, grid in enumerate(grids):
        side, between = scales[k], math.sqrt(scales[k] * scales[k + 1])
        sizes = [(side, side), (between, between)]
        for ratio in ratios[k]:
            long, short = side * math.sqrt(ratio), side / math.sqrt(ratio)
            sizes += [(short, long), (long, short)]
        y, x = ((np.arange(n) + 0.5) * (steps or {}).get(n, 1 / n) for n in grid)
        half = np.minimum(np.array(sizes), 1) / 2
        levels.append(_placed(y, x, np.concatenate([-half, half], 1)))
    return np.concatenate(levels).astype(np.float32)


def pyramid_anchors(
    grids: Mapping[int, Grid], image: Grid, sizes: Mapping[int, Sequence[float]], ratios: Sequence[float]
) -> dict[int, np.ndarray]:
    """Return the anchors of a feature pyramid.

    The corners of an anchor around the origin are whole pixels. Level `i` has anchors at every `2**i`-th pixel, from
    the first one on. Only where torchvision, which pads images to multiples of 32, rounds up the size of a coarser
    level, anchors are closer, because it divides the side of the image by that of the level.

    Args:
        grids: height and width of each level.
        image: height and width in pixels.
        sizes: per level, sides of a square in pixels.
        ratios: height over width; anchors of all ratios have the same area, up to rounding.

    Returns:
        `[A, 4]` float32 per level, yxyx as shares of the image, row by row and place by place.

    Reference: Ren et al., 2015, arXiv:1506.01497, section 3.1; Lin et al., 2016, arXiv:1612.03144, section 4.1.

    """
    levels = {}
    for level, grid in grids.items():
        shapes = [(side * math.sqrt(r), side / math.sqrt(r)) for r in ratios for side in sizes[level]]
        around = np.round(np.array([(-h, -w, h, w) for h, w in shapes]) / 2)
        y, x = (np.arange(n) * _spacing(2**level, pixels) for n, pixels in zip(grid, image, strict=True))
        levels[level] = (_placed(y, x, around) / np.array([*image, *image])).astype(np.float32)
    return levels


def _spacing(stride: int, pixels: int) -> int:
    padded = -(-pixels // MULTIPLE) * MULTIPLE
    return padded // -(-padded // stride)


def _placed(y: np.ndarray, x: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Put boxes `[K, 4]` around every centre of a grid: `[len(y) * len(x) * K, 4]`."""
    centres = np.stack(np.meshgrid(y, x, indexing="ij"), -1)  # [H, W, 2]
    return (np.tile(centres, 2)[:, :, None] + around).reshape(-1, 4)
