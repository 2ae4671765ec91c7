"""Standard output and error output: what cannot be written there, or not in their encoding, stops nothing; the log is one line each."""

import io
import logging
import os
import select
import sys
import textwrap
from typing import Any

from jaxcnn.core.text import visible
from jaxcnn.core.types import reason

_lost: dict[str, str] = {}  # stream to why something is missing in it


def prepare(columns: int | None = None) -> None:
    """Make both streams go on whatever happens to them, and log lines there in which nothing acts on the terminal.

    Args:
        columns: at which what is logged is wrapped; by default nowhere.

    """
    for name in ("stdout", "stderr"):
        setattr(sys, name, steady(getattr(sys, name), name))
    log, handler = logging.getLogger("jaxcnn"), logging.StreamHandler()
    handler.setFormatter(Line(columns))
    log.handlers[:], log.propagate = [handler], False
    log.setLevel(logging.INFO)
    for library in ("absl", "asyncio"):  # Orbax and its writers log a traceback for what we say in a line
        logging.getLogger(library).setLevel(logging.CRITICAL)


def steady(stream: Any, name: str) -> Any:
    """Return a text stream to the same place that raises nothing: what cannot be written is left out, and said once.

    Args:
        stream: text over a file; None, as Python has it where it was closed before the start, is a stream to nowhere.
        name: of the stream, for the message.

    """
    if stream is None:
        while (nowhere := os.open(os.devnull, os.O_WRONLY)) < 3:  # else the next file that is opened takes this number,
            pass  # and libraries print into it
        _lost[name] = "it was closed before the start"
        return io.TextIOWrapper(os.fdopen(nowhere, "wb"))
    buffered = getattr(stream, "buffer", None)
    raw = getattr(buffered, "raw", buffered)  # under PYTHONUNBUFFERED there is nothing between
    if isinstance(raw, io.FileIO):
        buffer = io.BufferedWriter(_Steady(stream, raw, name))
        return io.TextIOWrapper(buffer, stream.encoding, "backslashreplace", line_buffering=stream.line_buffering)
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    return stream


def lost() -> str | None:
    """Why something is missing in the standard output; None where nothing is."""
    return _lost.get("stdout")


def wrapped(line: str, columns: int | None) -> str:
    """Wrap a line at a number of columns, if there is one; words are never cut, and later lines are indented."""
    if columns is None or len(line) <= columns:
        return line
    return textwrap.fill(line, columns, subsequent_indent=" " * 9, break_long_words=False, break_on_hyphens=False)


def say(line: str) -> None:
    """Print a line on the error output."""
    print(visible(line), file=sys.stderr, flush=True)


class Line(logging.Formatter):
    """A message as one line of visible text, or wrapped at a number of columns."""

    def __init__(self, columns: int | None = None):
        super().__init__()
        self.columns = columns

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return wrapped(visible(super().format(record)), self.columns)


class _Steady(io.RawIOBase):
    """A file whose writes always succeed, as far as the caller sees."""

    def __init__(self, owner: Any, raw: io.FileIO, name: str):
        self.owner, self.raw, self.stream = owner, raw, name  # the owner would close the file when it goes
        _lost.pop(name, None)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.raw.fileno()

    def isatty(self) -> bool:
        return self.raw.isatty()

    def write(self, data: Any) -> int:
        try:
            while (written := self.raw.write(data)) is None:  # a pipe that does not block, and is full
                select.select([], [self.raw], [], 1.0)
            return written
        except (OSError, ValueError) as error:  # no space, no reader, closed
            self._tell(error)
            return len(data)

    def _tell(self, error: Exception) -> None:
        if self.stream not in _lost:
            _lost[self.stream] = getattr(error, "strerror", None) or reason(error)
            if self.stream == "stdout":
                say(f"standard output cannot be written ({_lost[self.stream]}); what is missing there is left out")
