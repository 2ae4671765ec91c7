"""Validation of function options that come from a file: known names, JSON types and finite numbers."""

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

FLOAT = 1e38  # bound on an option's absolute value
Number = float  # the schema also accepts integers


def check_options(
    function: Callable[..., Any], options: Mapping[str, Any], where: str, leave: Sequence[str] = ()
) -> None:
    """Check options from a file against a function's parameters.

    If the function passes `**options` on to a dataclass that it returns, the fields of the dataclass count as well.

    Args:
        function: a function of `MODELS`, `TASKS` or `SOURCES`, or a dataclass of flags.
        options: dict from the name of an option to its value.
        where: file and place, for messages.
        leave: parameters that a file must not set.

    Raises:
        InputError: The function has no such option, the value has a wrong type, or only Python code can set it.

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
    """Dict from parameter name to type; None if a function takes `**options` and declares no dataclass for them."""
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
    """Return the JSON type for a Python type; None if there is none."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _json(inside[0])
    if kind in (int, float, bool, str, type(None)) or origin is Literal:
        return Number if kind is float else kind
    if kind is Any:  # a dtype, given by name
        return str | None
    if origin in (types.UnionType, typing.Union):
        known = [x for x in map(_json, inside) if x is not None]
        return typing.Union[tuple(known)] if any(x is not type(None) for x in known) else None  # noqa: UP007
    if origin in (list, tuple, collections.abc.Sequence):
        each = _json(next((x for x in inside if x is not Ellipsis), Any))
        return None if each is None else list[each]
    if origin is collections.abc.Mapping:
        return dict[str, Any]
    return None


def leaves(value: Any) -> list[Any]:
    """Return the values in nested lists and dicts."""
    value = list(value.values()) if isinstance(value, Mapping) else value
    return [x for part in value for x in leaves(part)] if isinstance(value, list) else [value]


def refuse(where: str, place: str, value: Any, line: str) -> None:
    """Raise `InputError` for a wrong value in a file.

    Args:
        where: the file, and perhaps a place in it.
        place: name of the value.
        value: the value.
        line: what is wrong with the value.

    Raises:
        InputError: Always.

    """
    shown = visible(repr(value))
    raise InputError(f"{where}: {visible(place)[:80]}: {shown if len(shown) <= 80 else shown[:80] + '...'}: {line}")
