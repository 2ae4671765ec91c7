"""Make standard output and error never raise: write errors and encodings stop nothing; log records are one line."""

import io
import logging
import os
import select
import sys
import textwrap
from typing import Any

from jaxcnn.core.text import visible
from jaxcnn.core.types import reason

_lost: dict[str, str] = {}  # name of a stream to the reason why its output is incomplete


def prepare(columns: int | None = None) -> None:
    """Make both streams survive any error, and log to standard error in lines without control characters.

    Args:
        columns: width at which log lines wrap; None does not wrap.

    """
    for name in ("stdout", "stderr"):
        setattr(sys, name, steady(getattr(sys, name), name))
    log, handler = logging.getLogger("jaxcnn"), logging.StreamHandler()
    handler.setFormatter(Line(columns))
    log.handlers[:], log.propagate = [handler], False
    log.setLevel(logging.INFO)
    for library in ("absl", "asyncio"):  # Orbax and its writers log tracebacks for errors that we report in one line
        logging.getLogger(library).setLevel(logging.CRITICAL)


def steady(stream: Any, name: str) -> Any:
    """Return a text stream to the same place that raises nothing; lost output is reported once.

    Args:
        stream: text over a file, or None, as Python has it if it was closed before the start.
        name: name of the stream, for the message.

    """
    if stream is None:
        # otherwise the next opened file would get number 1 or 2, and libraries would print into it
        while (nowhere := os.open(os.devnull, os.O_WRONLY)) < 3:
            pass
        _lost[name] = "it was closed before the start"
        return io.TextIOWrapper(os.fdopen(nowhere, "wb"))
    buffered = getattr(stream, "buffer", None)
    raw = getattr(buffered, "raw", buffered)  # PYTHONUNBUFFERED leaves out the buffer
    if isinstance(raw, io.FileIO):
        buffer = io.BufferedWriter(_Steady(stream, raw, name))
        return io.TextIOWrapper(buffer, stream.encoding, "backslashreplace", line_buffering=stream.line_buffering)
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    return stream


def lost() -> str | None:
    """Return why standard output is incomplete, or None if it is complete."""
    return _lost.get("stdout")


def wrapped(line: str, columns: int | None) -> str:
    """Wrap a line at a number of columns, if given; words are never split, and continuation lines are indented."""
    if columns is None or len(line) <= columns:
        return line
    return textwrap.fill(line, columns, subsequent_indent=" " * 9, break_long_words=False, break_on_hyphens=False)


def say(line: str) -> None:
    """Print a line on standard error."""
    print(visible(line), file=sys.stderr, flush=True)


class Line(logging.Formatter):
    """Formatter that gives one line of visible text, or wraps it at a number of columns."""

    def __init__(self, columns: int | None = None):
        """Wrap at `columns`, or not at all."""
        super().__init__()
        self.columns = columns

    def format(self, record: logging.LogRecord) -> str:
        """Return the line or lines."""
        return wrapped(visible(super().format(record)), self.columns)


class _Steady(io.RawIOBase):
    """A file whose writes always seem to succeed."""

    def __init__(self, owner: Any, raw: io.FileIO, name: str):
        self.owner, self.raw, self.stream = owner, raw, name  # a collected owner would close the file
        _lost.pop(name, None)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.raw.fileno()

    def isatty(self) -> bool:
        return self.raw.isatty()

    def write(self, data: Any) -> int:
        try:
            while (written := self.raw.write(data)) is None:  # a full non-blocking pipe
                select.select([], [self.raw], [], 1.0)
            return written
        except (OSError, ValueError) as error:  # disk full, no reader, or closed
            self._tell(error)
            return len(data)

    def _tell(self, error: Exception) -> None:
        if self.stream not in _lost:
            _lost[self.stream] = getattr(error, "strerror", None) or reason(error)
            if self.stream == "stdout":
                say(f"standard output cannot be written ({_lost[self.stream]}); some of its output is lost")
