"""Checks of the weights of classes, rows and pixels: the network would unlearn a row with a negative one."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcnn.core.types import Batch, InputError
from jaxcnn.tasks.pixels import concrete


def check_weights(name: str, rows: Batch) -> None:
    """Refuse weights of rows or pixels that are negative or not finite, unless they are traced or absent."""
    if name not in rows or not concrete(rows[name]):
        return
    weight, mask = np.asarray(rows[name]), rows.get("row_mask")
    if mask is not None and concrete(mask) and np.shape(mask) == weight.shape[:1]:
        weight = weight[np.asarray(mask) > 0]  # padding may hold anything
    if weight.size and not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise InputError(f"{name} from {weight.min():g} to {weight.max():g}: must be finite and not negative")


def check_class_weights(weights: Any, classes: int) -> None:
    """Refuse weights that are not one finite, non-negative number per class, or all 0; None stands for no weights."""
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
