"""The body of a request, as a list of files in memory or of texts; nothing is written to disk."""

import asyncio
import base64
import binascii
import contextlib
import functools
from collections.abc import AsyncGenerator, Callable, Iterator
from email.message import Message
from typing import Any, NamedTuple

from jaxcnn.core.files import Memory, parse_json
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.deploy.serving.limits import Limits, RefusedError

NAMES = {
    "image": ("file", "files", "image", "images"), "audio": ("file", "files", "audio", "sound", "sounds"),
    "text": ("text", "texts"),
}  # fmt: skip
LONGEST_NAME = 200  # characters of the name of a file that are kept


class Asked(NamedTuple):
    """What a request asks about.

    Attributes:
        things: files in memory, or texts.
        options: further fields, such as `"target"`.

    """

    things: list[Memory | str]
    options: dict[str, str]


class Bodies:
    """Limits the bytes of all request bodies in the process; each stays in memory until it is answered."""

    def __init__(self, most: int) -> None:
        """Keep the limit.

        Args:
            most: bytes at once.

        """
        self.most, self.inside = most, 0

    @contextlib.contextmanager
    def held(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that reserves bytes or refuses them (503); they are released at the end."""
        mine = 0

        def take(count: int) -> None:
            nonlocal mine
            if self.inside + count > self.most:
                raise RefusedError(503, f"busy: {self.inside:,} bytes of other requests wait; try again", 2)
            self.inside, mine = self.inside + count, mine + count

        try:
            yield take
        finally:
            self.inside -= mine


async def read(request: Any, limits: Limits, take: Callable[[int], None] = lambda _: None) -> bytes:
    """Return the body of a request.

    Args:
        request: of Starlette.
        limits: the limits of the server.
        take: see `Bodies.held`.

    Raises:
        RefusedError: it is too large (413), takes too long (408), or there are too many bodies (503).

    """
    size = request.headers.get("content-length", "0")
    if size.isdigit() and int(size) > limits.bytes:
        raise RefusedError(413, f"a body of {int(size):,} bytes; at most {limits.bytes:,} are read")
    parts, total = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                take(len(part))
                total += len(part)
                if total > limits.bytes:
                    raise RefusedError(
                        413, f"a body of more than {limits.bytes:,} bytes, which is the most that is read"
                    )
                parts.append(part)
    except TimeoutError:
        raise RefusedError(408, f"the body did not arrive within {limits.body_seconds:g} seconds") from None
    return b"".join(parts)


async def asked(
    request: Any, limits: Limits, field: str, options: tuple[str, ...], take: Callable[[int], None]
) -> Asked:
    """Return what a request asks about.

    Args:
        request: of Starlette.
        limits: the limits of the server.
        field: what the run's rows are, `"image"`, `"audio"` or `"text"`.
        options: names of further fields that the request may have.
        take: see `Bodies.held`.

    Raises:
        RefusedError: the body is too large (413), too slow (408), of an unknown type (415), or cannot be used (422), or
            there are too many (503).

    """
    body = functools.partial(read, request, limits, take)
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        found = await _multipart(request, await body(), limits, field, options)
    elif kind == "application/json":
        found = await asyncio.to_thread(_json, await body(), limits, field, options)  # a large one takes its time
    elif field != "text" and (kind.startswith(f"{field}/") or kind == "application/octet-stream"):
        found = Asked([Memory("body", await body())], {})
    elif field == "text" and kind == "text/plain":
        _check_charset(request.headers["content-type"])
        found = Asked([_decoded(await body())], {})
    else:
        also = "text/plain" if field == "text" else f"{field}/*"
        raise RefusedError(
            415, f"content-type {visible(kind)[:80]!r}; send multipart/form-data, application/json or {also}"
        )
    if not found.things:
        raise RefusedError(422, f"nothing to predict; give at least one {field}")
    _check_rows(len(found.things), limits)
    for one in found.things:
        if isinstance(one, str) and len(one) > limits.characters:
            raise RefusedError(413, f"a text of {len(one):,} characters; at most {limits.characters:,} are read")
    return found


def _check_rows(count: int, limits: Limits) -> None:
    if count > limits.rows:
        raise RefusedError(413, f"{count} rows; at most {limits.rows} are taken in one request")


async def _multipart(request: Any, body: bytes, limits: Limits, field: str, options: tuple[str, ...]) -> Asked:
    from python_multipart.exceptions import FormParserError
    from starlette.formparsers import MultiPartException, MultiPartParser

    class InMemory(MultiPartParser):
        spool_max_size = 0  # of a SpooledTemporaryFile: never onto disk

        def on_part_end(self) -> None:
            """Read a field as UTF-8, or refuse it; Starlette would read it in another encoding."""
            part = self._current_part
            if part.file is not None:
                super().on_part_end()
            else:
                self.items.append((part.field_name, _decoded(bytes(part.data))))

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = InMemory(
        request.headers, stream(), max_files=limits.rows, max_fields=limits.rows + len(options),
        max_part_size=4 * limits.characters,
    )  # fmt: skip
    try:
        return await _parts(await parser.parse(), field, options)
    except MultiPartException as error:
        status = 413 if "exceeded" in error.message or "Too many" in error.message else 422
        raise RefusedError(status, f"multipart/form-data: {visible(error.message)[:200]}") from error
    except (FormParserError, LookupError, ValueError) as error:
        raise RefusedError(422, "multipart/form-data: malformed; give a boundary and complete parts") from error
    finally:
        for file in parser._files_to_close_on_error:  # a form does not know parts that were cut off
            file.close()


async def _parts(form: Any, field: str, options: tuple[str, ...]) -> Asked:
    """Sort the parts of a form into things and options."""
    from starlette.datastructures import UploadFile

    things, more = list[Memory | str](), dict[str, str]()
    for name, value in form.multi_items():
        if name in NAMES[field] and isinstance(value, UploadFile):
            content, label = await value.read(), (value.filename or name)[:LONGEST_NAME]
            things.append(_decoded(content) if field == "text" else Memory(label, content))
        elif name in NAMES[field] and field == "text" and isinstance(value, str):
            things.append(value)
        elif name in more:
            raise RefusedError(422, f"{name}: is there twice; leave one out")
        elif name in options and isinstance(value, str):
            more[name] = value
        else:
            raise _unknown(name, field, options)
    return Asked(things, more)


def _json(body: bytes, limits: Limits, field: str, options: tuple[str, ...]) -> Asked:
    try:
        found = parse_json(body, "the body", once=True)
    except (InputError, UnicodeDecodeError) as error:
        raise RefusedError(422, visible(error)[:200]) from error
    if not isinstance(found, dict):
        raise RefusedError(422, f'the body must be an object, such as {{"{field}": "..."}}')
    things, more = list[Memory | str](), dict[str, str]()
    for name, value in found.items():
        if name in options and isinstance(value, str):
            more[name] = value
            continue
        if name not in NAMES[field]:
            raise _unknown(name, field, options)
        some = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str) for one in some):
            raise RefusedError(422, f"{name}: must be a string, or a list of strings")
        _check_rows(len(things) + len(some), limits)  # before each of them is decoded
        for one in some:
            number = len(things) + 1
            things.append(one if field == "text" else Memory(f"{name} {number}", _from_base64(one, f"{name} {number}")))
    if any(isinstance(one, str) and _unpaired(one) for one in things):
        raise RefusedError(422, "a text with half of a surrogate pair; send Unicode")
    return Asked(things, more)


def _from_base64(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedError(422, f"{name}: not base64 (RFC 4648); encode the bytes of the file") from error


def _check_charset(kind: str) -> None:
    message = Message()
    message["content-type"] = kind
    charset = message.get_content_charset("utf-8")
    if charset not in ("utf-8", "utf8", "us-ascii", "ascii"):
        raise RefusedError(415, f"charset {visible(charset)[:40]!r}; send UTF-8")


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RefusedError(422, f"a text that is not UTF-8 (byte {error.start:,})") from error


def _unpaired(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _unknown(name: Any, field: str, options: tuple[str, ...]) -> RefusedError:
    known = ", ".join((NAMES[field][0], *options))
    return RefusedError(422, f"field {visible(name)[:80]!r}: unknown or of the wrong kind; use {known}")
