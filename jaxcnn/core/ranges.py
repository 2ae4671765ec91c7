"""Marks on the fields of a dataclass that say what is worth trying, as in `Annotated[float, Range(0, 0.6)]`."""

from typing import Any, NamedTuple


class Range(NamedTuple):
    """Numbers from `low` to `high`; whole numbers may have a `step`."""

    low: float
    high: float
    step: int = 1


class Choice(NamedTuple):
    """Any of some values."""

    values: tuple[Any, ...]
