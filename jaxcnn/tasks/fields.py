"""Which entry of a batch a model gets: pixels, which are prepared and checked, or anything else, as it is."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxcnn.core.types import Batch, InputError, Task
from jaxcnn.tasks import pixels
from jaxcnn.tasks.model import prepare

Array = jax.Array
USUAL = {"mean": 0.0, "std": 1.0, "size": None, "resize": None, "interpolation": "bilinear"}


def read(field: str, how: Mapping[str, Any]) -> tuple[Callable[[Batch], Array], Callable[[Task], Task]]:
    """Return the function that selects a model's input, and the one that makes a task refuse wrong pixels.

    Args:
        field: name of the entry.
        how: options of `prepare`.

    Raises:
        InputError: options for pixels were given with another entry.

    """
    if field == "image":
        made = functools.partial(prepare, **how)
        return (lambda batch: made(batch["image"])), pixels.strict
    if wrong := [name for name, value in how.items() if value != USUAL[name]]:
        raise InputError(f"{wrong[0]}={how[wrong[0]]}: applies to pixels, and the model gets {field!r}; leave it out")

    def inputs(batch: Batch) -> Array:
        if field not in batch:
            raise InputError(f"the batch has no {field!r}, only {', '.join(sorted(batch))}; name it so, or give field=")
        return batch[field]

    return inputs, lambda task: task
