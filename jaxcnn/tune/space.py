"""A search space from the types of a dataclass: what a field may be is written where the field is."""

import dataclasses
import math
import types
import typing
from typing import Annotated, Any, Literal, get_type_hints

from jaxcnn.core.ranges import Choice, Range
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.tune.study import library

DECADES = 100  # quotient of the ends of a range from which it is searched on a log scale
WORDS = {"true": True, "false": False}


def derived(kind: type) -> dict[str, Any]:
    """Return Optuna's distributions of the fields of a dataclass whose types say what is worth trying.

    A field of type `bool` or `Literal`, or with a mark `Choice`, becomes categorical. A number with a mark `Range`
    becomes an integer or a float, on a log scale if the range spans two decades or more. Other fields have none.

    Args:
        kind: the dataclass.

    Raises:
        InputError: Optuna is not installed.

    """
    found = {name: _distribution(hint) for name, hint in get_type_hints(kind, include_extras=True).items()}
    return {field.name: found[field.name] for field in dataclasses.fields(kind) if found[field.name] is not None}


def stated(kind: type, name: str, values: str) -> Any:
    """Return the distribution that a user states, such as `1e-4:1e-2` or `32,64,128`.

    Args:
        kind: the dataclass.
        name: one of its fields.
        values: the ends of a range of numbers, or the values to choose from.

    Raises:
        InputError: the values do not fit the type of the field, or are fewer than two.

    """
    plain = _types(get_type_hints(kind, include_extras=True)[name])[0]
    ends, several = values.split(":"), values.split(",")
    wanted = {int: "whole numbers", float: "numbers", bool: "true and false"}.get(plain, "values")
    fix = "give two or more different values as a,b,c"
    fix += ", or a range as low:high, the lower end first" if plain in (int, float) else ""
    try:
        if plain in (int, float) and len(ends) == 2:
            low, high = map(plain, ends)
            if low < high and math.isfinite(high - low):
                return _numbers(plain, Range(low, high))
        elif len(chosen := dict.fromkeys(_value(plain, one) for one in several)) == len(several) > 1:
            return library().distributions.CategoricalDistribution(tuple(chosen))
    except ValueError:
        pass
    raise InputError(f"{name}={visible(values)}: must be {wanted} for {name}; {fix}")


def _value(kind: Any, text: str) -> Any:
    if kind is bool:
        if text.lower() not in WORDS:
            raise ValueError(text)
        return WORDS[text.lower()]
    return kind(text) if kind in (int, float) else text


def _distribution(hint: Any) -> Any:
    """Return the distribution of a type; None if it does not say what is worth trying."""
    plain, marks = _types(hint)
    categorical = library().distributions.CategoricalDistribution
    for mark in marks:
        if isinstance(mark, Choice):
            return categorical(mark.values)
        if isinstance(mark, Range) and plain in (int, float):
            return _numbers(plain, mark)
    if plain is bool:
        return categorical((False, True))
    return categorical(typing.get_args(plain)) if typing.get_origin(plain) is Literal else None


def _numbers(kind: Any, ends: Range) -> Any:
    """Return the distribution of whole or other numbers in a range."""
    known, log = library().distributions, ends.low > 0 and ends.high / ends.low >= DECADES
    if kind is int:
        return known.IntDistribution(int(ends.low), int(ends.high), log=log, step=1 if log else ends.step)
    return known.FloatDistribution(float(ends.low), float(ends.high), log=log)


def _types(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without its marks and without None, and the marks."""
    marks: tuple[Any, ...] = ()
    if typing.get_origin(hint) is Annotated:
        hint, *more = typing.get_args(hint)
        marks = tuple(more)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        some = [one for one in typing.get_args(hint) if one is not type(None)]
        if len(some) == 1:
            inner, more = _types(some[0])
            return inner, marks + more
    return hint, marks
