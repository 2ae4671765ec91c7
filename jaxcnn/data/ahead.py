"""Reading ahead: while the device works on one chunk, a thread reads the next and places it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def ahead(chunks: Iterator[Any], place: Callable[[Any], Any]) -> Iterator[Any]:
    """Give the same chunks, placed; one is read while the caller uses the one before, and never more.

    The thread ends with the iterator: when it is exhausted, closed, or left by an exception. What reading raises is raised here.
    """
    end = object()

    def read() -> Any:
        chunk = next(chunks, end)
        return chunk if chunk is end else place(chunk)

    with ThreadPoolExecutor(1, thread_name_prefix="read ahead") as thread:
        found = thread.submit(read)
        while (chunk := found.result()) is not end:
            found = thread.submit(read)
            yield chunk
