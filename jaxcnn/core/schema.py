"""Values from files are checked against types; an error names the place and the value that do not fit."""

import functools
from typing import Any, TypeVar

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError

T = TypeVar("T")


def fitted(kind: type[T], value: Any, where: str) -> T:
    """Return `value` if it fits the type `kind`.

    Values are not converted: "1" is not a number, and 1.5 is not an integer. A `TypedDict` keeps only the keys that it
    declares, unless its `__pydantic_config__` has `extra="allow"`.

    Args:
        kind: any type that pydantic knows, such as a `TypedDict`, a dataclass or `dict[str, float]`.
        value: the value from the file.
        where: the file's name, for the message.

    Raises:
        InputError: it does not fit; the line names the first wrong place, what belongs there, and what is there.

    """
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        place, wanted, value = _first(error.errors(include_url=False, include_context=False))
        found = visible(repr(value))
        shown = found if len(found) <= 80 else found[:80] + "..."
        raise InputError(f"{visible(where)}: {visible(place)[:200]}: {wanted}, not {shown}") from None
    except RecursionError:
        raise InputError(f"{visible(where)}: nested too deeply to be read") from None


def _first(errors: list[Any]) -> tuple[str, str, Any]:
    """Return the first wrong place, what belongs there, and what is there.

    Pydantic lists the alternatives of a union as if each were a place inside the value; here they are joined.
    """
    first = errors[0]
    way = first["loc"][:-1]
    same = [e for e in errors if e["input"] is first["input"] and e["loc"][:-1] == way] if first["loc"] else [first]
    place = ".".join(map(str, way if len(same) > 1 else first["loc"])) or "the whole"
    wanted = [e["msg"].lower().removeprefix("input should be ") for e in same]
    return place, f"input should be {' or '.join(wanted)}" if len(same) > 1 else first["msg"].lower(), first["input"]


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
