"""Which wrappers of a task can be nested: some add a term to its loss, and others recompute the loss."""

import functools
from collections.abc import Callable
from typing import Any

from jaxcnn.core.types import InputError, Task

RECOMPUTING = ("group_dro", "derpp", "fixmatch", "mart")  # each drops the inner loss, so they cannot be nested


def adds(method: str, task: Task) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark the loss of a wrapper that adds a term, which the metric `"loss"` does not have.

    Args:
        method: name of the wrapper.
        task: the task that it wraps.

    """

    def marked(loss: Callable[..., Any]) -> Callable[..., Any]:
        loss = functools.wraps(task.loss)(loss)
        loss.adds = method  # pyright: ignore[reportAttributeAccessIssue] (functions take attributes)
        return loss

    return marked


def changes(method: str, loss: Callable[..., Any]) -> Callable[..., Any]:
    """Mark the loss of a wrapper that changes what the network gets or computes: attacked images, rounded weights."""
    known = getattr(loss, "changes", ())
    loss.changes = (*known, method)  # pyright: ignore[reportFunctionMemberAccess] (functions take attributes)
    return loss


def check_unchanged(task: Task, method: str, *inner: str) -> None:
    """Raise `InputError` if one of these wrappers changes what the network gets, which a method would misread."""
    if own := set(getattr(task.loss, "changes", ())) & set(inner):
        raise InputError(f"{method}: would lose or repeat what {min(own)} changes; leave one of them out")


def check_plain_loss(task: Task, method: str) -> None:
    """Raise `InputError` if a wrapper added a term to the task's loss, which a method that recomputes it would drop."""
    if method in ("mart", "fixmatch") and getattr(task.loss, "narrows", False):
        raise InputError(f"{method}: compares all classes, not only those of a row's head; remove continual.heads")
    inner = getattr(task.loss, "adds", None)
    if inner is None:
        return
    fix = f"wrap in the other order, {inner}({method}(task, ...), ...)"
    if inner in RECOMPUTING and method in RECOMPUTING:
        fix = f"{inner} does the same, so use only one of them"
    raise InputError(f"{method}: recomputes the loss from the outputs and would drop the loss of {inner}; {fix}")
