"""Reading ahead: while the device works on one chunk, a thread reads the next and places it."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from jaxcnn.core.types import Interrupted

POLL = 0.1  # seconds between two questions whether to stop


def patiently(work: Callable[[], Any], stop: Callable[[], bool] | None) -> Any:
    """Return `work()`, which may take minutes in one call (compiling), unless `stop()` says not to wait for it.

    Raises:
        Interrupted: `stop()` was true; `work` goes on in its thread.

    """
    if stop is None:
        return work()
    thread = ThreadPoolExecutor(1, thread_name_prefix="work")
    try:
        return _result(thread.submit(work), stop)
    finally:
        thread.shutdown(wait=False)


def ahead(
    chunks: Iterator[Any],
    shard: Callable[[Any], Any],
    stop: Callable[[], bool] | None = None,
) -> Generator[Any, None, None]:
    """Give the same chunks, on the devices; one is read while the caller uses the one before, and never more.

    The thread ends with the iterator: when it is exhausted, closed, or left by an exception. What reading raises is raised here.

    Raises:
        Interrupted: `stop()` was true while a chunk was waited for.

    """
    end = object()

    def read() -> Any:
        chunk = next(chunks, end)
        return chunk if chunk is end else shard(chunk)

    thread, patient = ThreadPoolExecutor(1, thread_name_prefix="read ahead"), True
    try:
        found = thread.submit(read)
        while (chunk := _result(found, stop)) is not end:
            found = thread.submit(read)
            yield chunk
    except Interrupted:
        patient = False  # what is being read may take long
        raise
    finally:
        thread.shutdown(wait=patient)


def _result(future: Future, stop: Callable[[], bool] | None) -> Any:
    while stop and not wait([future], POLL).done:
        if stop():
            raise Interrupted
    return future.result()
