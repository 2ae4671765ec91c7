"""Reading ahead: while the device works on one chunk, a thread reads the next one and moves it to the devices."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from jaxcnn.core.types import Interrupted

POLL = 0.1  # seconds between two calls of `stop`


def patiently(work: Callable[[], Any], stop: Callable[[], bool] | None) -> Any:
    """Return `work()`, which may take minutes (compiling), but stop waiting as soon as `stop()` is true.

    Raises:
        Interrupted: `stop()` was true; `work` continues in its thread.

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
    """Yield the same chunks, on the devices; the next one, and no more, is read while the caller uses the current one.

    The thread ends with the iterator: when it is exhausted, closed, or left by an exception. An error while reading is
    raised here.

    Args:
        chunks: the chunks, on the host.
        shard: moves a chunk to the devices, as `CompiledStep.shard` does.
        stop: called every `POLL` seconds while a chunk is being read.

    Raises:
        Interrupted: `stop()` was true while a chunk was being read.

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
        patient = False  # reading may take long
        raise
    finally:
        thread.shutdown(wait=patient)


def _result(future: Future, stop: Callable[[], bool] | None) -> Any:
    while stop and not wait([future], POLL).done:
        if stop():
            raise Interrupted
    return future.result()
