"""Which entries of a batch a model gets: pixels, which are prepared and checked, or anything else, as it is."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxcnn.core.types import Batch, InputError, Task
from jaxcnn.tasks import pixels
from jaxcnn.tasks.model import prepare

Array = jax.Array
USUAL = {"mean": 0.0, "std": 1.0, "size": None, "resize": None, "interpolation": "bilinear", "dims": 2}


class Fields(NamedTuple):
    """The entries of a batch that a model gets.

    Attributes:
        inputs: `batch -> x`, the argument of the model.
        keywords: `batch -> {name: array}`, its keyword arguments.
        strict: makes a task refuse pixels that are out of range.

    """

    inputs: Callable[[Batch], Array]
    keywords: Callable[[Batch], dict[str, Array]]
    strict: Callable[[Task], Task]


def fields(field: str, also: Sequence[str], how: Mapping[str, Any]) -> Fields:
    """Return which entries of a batch a model gets, and how.

    Args:
        field: the entry that is the model's argument.
        also: entries that the model gets as they are, as keyword arguments of the same names.
        how: options of `prepare`, which apply to `field="image"` only.

    Raises:
        InputError: options for pixels are given with another field, or an entry is named twice.

    """
    if field in also or len(set(also)) < len(also):
        raise InputError(f"field={field!r}, also={tuple(also)}: each entry of a batch must be named once")
    if wrong := [name for name, value in how.items() if field != "image" and value != USUAL[name]]:
        raise InputError(f"{wrong[0]}={how[wrong[0]]}: applies to pixels, but the model gets {field!r}; leave it out")

    def keywords(batch: Batch) -> dict[str, Array]:
        return {name: entry(batch, name) for name in also}

    if field == "image":
        made = functools.partial(prepare, **how)
        return Fields(lambda batch: made(batch["image"]), keywords, pixels.strict)
    return Fields(lambda batch: entry(batch, field), keywords, lambda task: task)


def entry(batch: Batch, name: str) -> Array:
    """Return an entry of a batch.

    Raises:
        InputError: the batch has none of this name.

    """
    if name not in batch:
        raise InputError(f"the batch has no {name!r}, only {', '.join(sorted(batch))}; name it so, or change field=")
    return batch[name]
