"""Errors on corrupted images relative to those of another network."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxcnn.core.types import InputError


class CorruptionError(NamedTuple):
    """Errors on corrupted images, 1 for those of the baseline.

    Attributes:
        mean: mean over the corruptions.
        each: by corruption, over all strengths.

    """

    mean: float
    each: dict[str, float]


def mean_corruption_error(
    errors: Mapping[str, Sequence[float]],
    baseline: Mapping[str, Sequence[float]],
    clean: tuple[float, float] | None = None,
) -> CorruptionError:
    """Compute the mean corruption error, or the relative one, which leaves out the errors on clean images.

    Args:
        errors: error, 0..1, by corruption and then strength.
        baseline: the same of the network to compare with.
        clean: both networks' errors on clean images, for the relative error; None for the usual one.

    Raises:
        InputError: both have other corruptions or strengths, an error is outside 0..1, or the baseline has no errors
            (or none more than on clean images).

    Reference: Hendrycks and Dietterich, 2019, arXiv:1903.12261.

    """
    if not errors or set(errors) != set(baseline):
        missing = sorted(set(errors) ^ set(baseline)) or ["none at all"]
        raise InputError(f"errors, baseline: must have the same corruptions; {missing[0]} is in one of them alone")
    ours, theirs = clean or (0.0, 0.0)
    each = {}
    for name, found in errors.items():
        values, others = np.asarray(found, np.float64), np.asarray(baseline[name], np.float64)
        if values.shape != others.shape or values.ndim != 1 or not len(values):
            raise InputError(f"{name}: {values.shape} and {others.shape} strengths; must be as many, at least one")
        if not all(0 <= x <= 1 for x in (*values, *others, ours, theirs)):
            raise InputError(f"{name}: errors must be in 0..1, not in percent")
        under = float((others - theirs).sum())
        if under <= 1e-9:  # the rounding of a sum
            raise InputError(f"{name}: the baseline makes no mistakes that corruption adds, to which to compare")
        each[name] = float((values - ours).sum()) / under
    return CorruptionError(float(np.mean(list(each.values()))), each)
