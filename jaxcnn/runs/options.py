"""Options of functions as a file gives them: known names, types that JSON has, and finite numbers."""

import collections.abc
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from jaxcnn.core.schema import fitted
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError

FLOAT = 1e38  # an option's largest number
Number = float  # an integer is one as well


def check_options(
    function: Callable[..., Any], options: Mapping[str, Any], where: str, leave: Sequence[str] = ()
) -> None:
    """Check options from a file against a function's own parameters and, where it passes on the rest, the fields of what it makes.

    Args:
        function: of `MODELS`, `TASKS` or `SOURCES`, or a dataclass of flags.
        options: by name.
        where: file and place, for messages.
        leave: parameters that no file may give.

    Raises:
        InputError: a name that the function does not have, a value of another type, or a parameter that only code can give.

    """
    known = _parameters(function)
    for name, value in options.items():
        if name in leave or known is not None and name not in known:
            has = ", ".join(sorted(set(known or ()) - set(leave)))
            raise InputError(f"{where}: {visible(name)[:80]}: no such option in this version of jaxcnn; it has {has}")
        if any(isinstance(x, float) and not abs(x) < FLOAT for x in leaves(value)):
            refuse(where, name, value, f"must be finite, below {FLOAT:g}")
        kind = Any if known is None else _json(known[name])
        if kind is None:
            refuse(where, name, value, "can only be given in Python")
        fitted(dict[str, kind], {name: value}, where)


def _parameters(function: Callable[..., Any]) -> dict[str, Any] | None:
    """Types of a function's parameters by name; None where it takes any, and does not declare what it makes of them."""
    signature = inspect.signature(function)
    named = [p for p in signature.parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    own = {p.name: Any if p.annotation is p.empty else p.annotation for p in named}
    if not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return own
    if not dataclasses.is_dataclass(signature.return_annotation):
        return None
    made = {f.name: f.type for f in dataclasses.fields(signature.return_annotation) if f.name not in ("parent", "name")}
    return made | own


def _json(kind: Any) -> Any:
    """Return the type that JSON has for a type of Python; None where it has none."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _json(inside[0])
    if kind in (int, float, bool, str, type(None)) or origin is Literal:
        return Number if kind is float else kind
    if kind is Any:  # a dtype by name
        return str | None
    if origin in (types.UnionType, typing.Union):
        known = [x for x in map(_json, inside) if x is not None]
        return typing.Union[tuple(known)] if any(x is not type(None) for x in known) else None  # noqa: UP007
    if origin in (list, tuple, collections.abc.Sequence):
        each = _json(next((x for x in inside if x is not Ellipsis), Any))
        return None if each is None else list[each]
    return None


def leaves(value: Any) -> list[Any]:
    """Return the values in lists of lists."""
    return [x for part in value for x in leaves(part)] if isinstance(value, list) else [value]


def refuse(where: str, place: str, value: Any, line: str) -> None:
    """Raise `InputError` with the place, the value and what is wrong with it."""
    shown = visible(repr(value))
    raise InputError(f"{where}: {visible(place)[:80]}: {shown if len(shown) <= 80 else shown[:80] + '...'}: {line}")
