"""The functions that run in the worker processes: one file per benchmark, one function per subject.

The functions import their packages themselves, because a peer's interpreter has no jaxcnn and its memory is measured.
"""

from collections.abc import Callable
from typing import Any, NamedTuple


def _nothing() -> dict[str, Any]:
    return {}


class Prepared(NamedTuple):
    """A case, ready to be timed.

    Attributes:
        call: does the work and returns when it is done.
        per: units of work per call; times are divided by it.
        facts: returns further facts of the case; called after all times and the peak of the memory are known.

    """

    call: Callable[[], Any]
    per: int = 1
    facts: Callable[[], dict[str, Any]] = _nothing
