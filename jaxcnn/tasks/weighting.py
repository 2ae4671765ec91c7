"""Checks of the weights of classes, rows and pixels: a negative one would make a row unlearnt."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcnn.core.types import Batch, InputError
from jaxcnn.tasks.pixels import concrete


def check_weights(name: str, rows: Batch) -> None:
    """Refuse weights of rows or pixels that are negative or not finite, unless they are traced or absent."""
    if name not in rows or not concrete(rows[name]):
        return
    weight = np.asarray(rows[name])
    if "row_mask" in rows and concrete(rows["row_mask"]):
        weight = weight[np.asarray(rows["row_mask"]) > 0]  # padding may hold anything
    if weight.size and not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise InputError(f"{name} from {weight.min():g} to {weight.max():g}: must be finite and not negative")


def check_class_weights(weights: Any, classes: int) -> None:
    """Refuse weights of classes that are not one finite number for each, or that are all 0; None is no weights."""
    if weights is None:
        return
    fix = "; give them in a list, in the order of the classes" if isinstance(weights, Mapping) else ""
    try:
        values = np.asarray(list(weights) if fix else weights, np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if fix or values.shape != (classes,) or not (np.isfinite(values).all() and (values >= 0).all() and values.any()):
        line = f"class_weights={weights}: must be {classes} finite numbers, none of them negative and not all 0"
        raise InputError(line + fix)
