"""What runs in the worker processes: one file a benchmark, one function a subject, jaxcnn among its peers.

The functions import what they need themselves: a peer's interpreter has no jaxcnn, and its memory is measured.
"""

from collections.abc import Callable
from typing import Any, NamedTuple


def _nothing() -> dict[str, Any]:
    return {}


class Prepared(NamedTuple):
    """A case, ready to be timed.

    Attributes:
        call: does the work and returns when it is done.
        per: units of work in one call; times are divided by it.
        facts: what to say of the case besides its time, asked once all times and the peak of the memory are known.

    """

    call: Callable[[], Any]
    per: int = 1
    facts: Callable[[], dict[str, Any]] = _nothing
