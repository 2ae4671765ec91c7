"""Scores of segmentations: overlap as sums over pixels, and distances between surfaces on the host."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from jaxcnn.core.types import Batch, InputError, Metric, check_numbers
from jaxcnn.metrics.sums import Confusion, confusion

Array = jax.Array


class Overlap(NamedTuple):
    """Counts of pixels by true class (row) and predicted class (column), and of pixels without a valid prediction."""

    counts: Any  # [K, K]
    left_out: Any = 0

    def compute(self) -> dict[str, Any]:
        """Return `iou` and `dice`, means over the classes that occur, and their values per class, NaN where absent.

        A class occurs if a label or a prediction has it. All values are NaN if pixels were left out.
        """
        matrix = np.asarray(self.counts).astype(np.float64)
        hit, total = matrix.diagonal(), matrix.sum(0) + matrix.sum(1)
        bad = float(self.left_out) > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            dice = np.where((total == 0) | bad, np.nan, 2 * hit / total)
            iou = np.where((total == 0) | bad, np.nan, hit / (total - hit))
        seen = not bad and bool((total > 0).any())
        return {
            "iou": float(np.nanmean(iou)) if seen else float("nan"),
            "dice": float(np.nanmean(dice)) if seen else float("nan"),
            "iou_per_class": iou,
            "dice_per_class": dice,
        }


def overlap(num_classes: int) -> Metric:
    """Intersection over union and Dice over the pixels of all rows; logits `[B, *spatial, K]`, labels `[B, *spatial]`.

    A label outside 0..K-1, such as 255 or -1 for "unknown", does not count.

    Raises:
        InputError: `num_classes` below 1.

    """
    count = confusion(num_classes)

    def metric(logits: Array, batch: Batch) -> Overlap:
        found = cast(Confusion, count(logits, batch))
        return Overlap(found.counts, found.left_out)

    return metric


def hausdorff95(
    predicted: np.ndarray, true: np.ndarray, *, spacing: Sequence[float] | None = None, percent: float = 95.0
) -> float:
    """Percentile of the distances between the surfaces of two regions, the larger of both directions.

    Args:
        predicted: bool `[*spatial]`; or 0 and 1; or integers with one value besides 0.
        true: a region in one of these forms, of the same shape.
        spacing: size of a pixel along each axis, such as in mm; None for 1.
        percent: the percentile, 0 or 1..100; 100 is the Hausdorff distance.

    Returns:
        The distance in the unit of `spacing`; 0 if both regions are empty, infinite if one is.

    Raises:
        InputError: the shapes differ, a value is out of range, or a region has other values.

    """
    from scipy import ndimage

    predicted, true = _region(predicted), _region(true)
    if predicted.shape != true.shape:
        raise InputError(f"regions of shapes {predicted.shape} and {true.shape}: must be the same")
    if spacing is not None and (np.shape(spacing) != (true.ndim,) or not all(0 < one < np.inf for one in spacing)):
        raise InputError(f"spacing={spacing}: must be {true.ndim} positive numbers")
    check_numbers(percent=percent)
    if not 0 <= percent <= 100 or 0 < percent < 1:
        raise InputError(f"percent={percent}: must be in 0..100, such as 95 and not 0.95")
    if not (predicted.any() and true.any()):
        return 0.0 if predicted.any() == true.any() else float("inf")
    edges = [region & ~cast(Any, ndimage.binary_erosion(region, border_value=0)) for region in (predicted, true)]
    distances = [cast(Any, ndimage.distance_transform_edt(~edge, sampling=spacing)) for edge in edges]
    both = (distances[1][edges[0]], distances[0][edges[1]])
    return float(max(np.percentile(d, percent) for d in both))


def rand_fscore(predicted: np.ndarray, true: np.ndarray) -> float:
    """Foreground-restricted Rand F-score of two divisions into objects, as in the ISBI 2012 challenge.

    Pixels whose true object is 0 do not count.

    Args:
        predicted: int `[*spatial]`, the number of each pixel's object, such as the connected parts of a region; 0, for
            pixels of no object, is an object as well.
        true: int, the same shape.

    Returns:
        0..1; NaN without a true object.

    Raises:
        InputError: the shapes differ, or a value is not a whole number of at least 0.

    Reference: Arganda-Carreras et al., 2015, doi:10.3389/fnana.2015.00142.

    """
    predicted, true = np.asarray(predicted), np.asarray(true)
    if predicted.shape != true.shape:
        raise InputError(f"divisions of shapes {predicted.shape} and {true.shape}: must be the same")
    for name, numbers in (("predicted", predicted), ("true", true)):
        if numbers.dtype.kind not in "biu" or numbers.size and numbers.min() < 0:
            raise InputError(f"{name} {numbers.dtype}: must be object numbers, integers of at least 0")
    inside = true > 0
    if not inside.any():
        return float("nan")
    names = [np.unique(x[inside], return_inverse=True)[1] for x in (predicted, true)]
    pairs = np.unique(names[0] * (names[1].max() + 1) + names[1], return_counts=True)[1]
    joint, mine, theirs = (np.square(n.astype(np.float64)).sum() for n in (pairs, *map(np.bincount, names)))
    return float(2 * joint / (mine + theirs))


def components(region: Any) -> np.ndarray:
    """Number the connected parts of a region `[*spatial]` from 1; 0 is outside.

    Args:
        region: bool; or 0 and 1; or integers with one value besides 0.

    Raises:
        InputError: the region has other values, such as probabilities or several labels.

    """
    from scipy import ndimage

    return cast(Any, ndimage.label(_region(region)))[0]


def _region(values: Any) -> np.ndarray:
    """Return a region as bool; refuse probabilities and label maps, in which every value but 0 would count."""
    region = np.asarray(values)
    inside = region.astype(bool)
    if region.dtype != bool:
        found = region[inside]
        one = not found.size or bool((found == (found[0] if region.dtype.kind in "iu" else 1)).all())
        if region.dtype.kind not in "iuf" or not one:
            raise InputError(f"region {region.dtype}: must be bool, or have 0 and one other value; threshold it first")
    return inside
