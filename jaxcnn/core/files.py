"""Untrusted files: only regular files up to a stated size are read, and a file is written whole or not at all.

Nothing is written through a link.
"""

import contextlib
import errno
import io
import json
import math
import os
import pathlib
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason

Path = str | os.PathLike
TEXT_LIMIT = 64 * 2**20  # bytes of a text file that is read whole


class Memory(NamedTuple):
    """A file that is in memory and nowhere else, such as an upload; its name is for messages and is never opened."""

    name: str
    data: bytes

    @property
    def suffix(self) -> str:
        """The ending of its name."""
        return pathlib.PurePath(self.name).suffix

    def __str__(self) -> str:
        """Return its name."""
        return self.name


def expanded(path: Path, fix: str = "give the whole path") -> pathlib.Path:
    """Return a path with its `~` replaced by the user's home folder.

    Args:
        path: the path of a file or folder.
        fix: for the message: what a user without a home folder can do instead.

    Raises:
        InputError: that user has no home folder, and no file has exactly this name.

    """
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError:
        if os.path.lexists(path):
            return pathlib.Path(path)
        raise InputError(
            f"{visible(path)}: no user here has the home folder that ~ means; set HOME to a folder, or {fix}"
        ) from None


@contextlib.contextmanager
def opened(path: Path | Memory, limit: int | None = None) -> Iterator[io.BufferedReader]:
    """Open a regular file for reading; links are followed.

    Reading a pipe or a device could make the program wait, or never end.

    Args:
        path: the path of the file.
        limit: the most bytes it may have; None for any number.

    Raises:
        InputError: it is not a regular file, or it has more bytes.
        OSError: it cannot be opened; the error has the system's reason.

    """
    if isinstance(path, Memory):
        if limit is not None and len(path.data) > limit:
            raise InputError(
                f"{visible(path)}: {len(path.data):,} bytes, more than the {limit:,} that are read of such a file"
            )
        yield io.BufferedReader(io.BytesIO(path.data))  # pyright: ignore[reportArgumentType] (it reads as raw files do)
        return
    handle = os.open(
        path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    )
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise InputError(f"{visible(path)}: not a regular file; give a plain file")
    with os.fdopen(handle, "rb") as file:
        if limit is not None and found.st_size > limit:
            raise InputError(
                f"{visible(path)}: {found.st_size:,} bytes, more than the {limit:,} that are read of such a file"
            )
        yield file


def held(found: os.stat_result) -> int:
    """Return how many bytes of a file the disk holds; the holes of a sparse file do not count."""
    return int(min(found.st_size, getattr(found, "st_blocks", math.inf) * 512))


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """Return the bytes of a regular file; see `opened`."""
    with opened(path, limit) as file:
        data = file.read() if limit is None else file.read(limit + 1)
    if limit is not None and len(data) > limit:  # it has grown in the meantime
        raise InputError(f"{visible(path)}: more than the {limit:,} bytes that are read of such a file")
    return data


def read_text(path: Path, limit: int = TEXT_LIMIT) -> str:
    """Return the text of a regular UTF-8 file.

    Raises:
        InputError: see `opened`; or the text is not UTF-8.
        OSError: it cannot be read.

    """
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{visible(path)}: not UTF-8 text ({reason(error)})") from error


def read_json(path: Path, limit: int = TEXT_LIMIT) -> Any:
    """Return the value of a JSON file.

    Raises:
        InputError: see `read_text`; or the text is not JSON.
        OSError: it cannot be read.

    """
    return parse_json(read_text(path, limit), visible(path))


def parse_json(text: str | bytes, where: str, drop: Sequence[str] = (), once: bool = False) -> Any:
    """Return the value of a JSON text; NaN and Infinity, which older runs wrote, are read as floats.

    Args:
        text: the JSON text.
        where: the file's name, for the message.
        drop: keys that are left out of every object as it is read.
        once: refuse a key that is in an object twice.

    Raises:
        InputError: it is not JSON, it is nested too deeply, or a key is there twice.

    """

    def without(value: dict[str, Any]) -> dict[str, Any]:
        for key in drop:
            value.pop(key, None)
        return value

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found, seen = dict(pairs), set()
        if len(found) < len(pairs):
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise InputError(f"{where}: has {visible(twice)[:80]!r} twice; leave one out")
        return without(found)

    try:
        return json.loads(text, object_hook=without if drop else None, object_pairs_hook=unique if once else None)
    except RecursionError:
        raise InputError(f"{where}: nested too deeply to be read") from None
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({reason(error)})") from error


def plain(value: Any) -> Any:
    """Turn a value into JSON types: arrays become lists, and a float that is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any, indent: int | None = None) -> str:
    """Write a value as strict JSON in ASCII; NaN and infinity become null, because strict readers refuse them."""
    return json.dumps(plain(value), indent=indent, allow_nan=False)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: after a crash, or when the disk is full, the old file is still there.

    The data go into a new file with a random name, which is then renamed. No link in the folder is followed; a link at
    `path` itself is replaced.
    """
    path = pathlib.Path(path)
    if not path.name or path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def write_text(path: Path, text: str) -> None:
    r"""Write a whole UTF-8 text file or nothing.

    Characters that UTF-8 cannot hold, such as those of a file name in a different encoding, are written as `\udce9`.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write a value as a whole file of strict JSON, or nothing."""
    write_text(path, to_json(value, indent=2) + "\n")


@contextlib.contextmanager
def appending(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file to append to; it is created if it does not exist.

    Raises:
        OSError: it cannot be opened, or it is a link.
        InputError: it is not a regular file.

    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # not every system has each
        flags |= getattr(os, name, 0)
    handle = os.open(path, flags, 0o666)
    with os.fdopen(handle, "ab") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InputError(f"{visible(path)}: not a regular file")
        yield file


def writable(folder: pathlib.Path) -> None:
    """Create a folder and try to write into it; an OSError says why that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
