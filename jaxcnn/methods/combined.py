"""Which wrappers of a task may be around which: some add to its loss, and some compute a loss of their own."""

import functools
from collections.abc import Callable
from typing import Any

from jaxcnn.core.types import InputError, Task

ANEW = ("group_dro", "derpp", "fixmatch", "mart")  # compute the loss anew, so that none can be around another


def adds(method: str, task: Task) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a wrapper's loss as one that is more than the metric `"loss"` of the outputs.

    Args:
        method: name of the wrapper.
        task: the task that it wraps.

    """

    def marked(loss: Callable[..., Any]) -> Callable[..., Any]:
        loss = functools.wraps(task.loss)(loss)
        loss.adds = method  # pyright: ignore[reportAttributeAccessIssue] (functions take attributes)
        return loss

    return marked


def check_plain_loss(task: Task, method: str) -> None:
    """Raise `InputError` for a task whose loss a wrapper has changed, for a method that computes the loss anew."""
    if method in ("mart", "fixmatch") and getattr(task.loss, "narrows", False):
        raise InputError(f"{method}: compares all classes, not those of a row's head; leave out continual.heads")
    inner = getattr(task.loss, "adds", None)
    if inner is None:
        return
    line = f"{method}: computes the loss from the outputs, and would leave out what {inner} does"
    other = f"{inner} does the same; use one of the two" if inner in ANEW and method in ANEW else ""
    raise InputError(f"{line}; {other or f'wrap the other way round, {inner}({method}(task, ...), ...)'}")
