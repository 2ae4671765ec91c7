"""Gathers rows of many requests into batches for one compiled program, within limits of number and time."""

import asyncio
import collections
import concurrent.futures
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from jaxcnn.deploy.outputs import Row
from jaxcnn.deploy.serving.limits import Limits, RefusedError
from jaxcnn.deploy.serving.loaded import Served


class _Item(NamedTuple):
    served: Served
    row: Row
    future: asyncio.Future


class Batches:
    """A queue of rows, and the one task that computes them.

    A batch has rows of one run only, so that a newer run can take over while rows of the older one wait.

    Args:
        limits: the limits of the server.
        tell: called with the number of rows and the seconds of each batch.

    """

    def __init__(self, limits: Limits, tell: Callable[[int, float], None]) -> None:
        self.limits, self.tell = limits, tell
        self.waiting: collections.deque[_Item] = collections.deque()
        self.inside, self.clients = 0, collections.Counter[str]()
        self.more = asyncio.Event()
        self.thread = concurrent.futures.ThreadPoolExecutor(1, "compute")
        self.task = asyncio.create_task(self._run())

    @contextlib.contextmanager
    def admitted(self, client: str, rows: int) -> Iterator[None]:
        """Count the rows of a request as long as it is in the server.

        Raises:
            RefusedError: there are too many, of this client (429) or of all (503).

        """
        most = self.limits.per_client
        if most and self.clients[client] + rows > most:
            raise RefusedError(429, f"more than {most} rows of this client at once; wait for the answers", 1)
        if self.inside + rows > self.limits.queue:
            raise RefusedError(503, f"busy: {self.inside} rows wait; try again", 1)
        self.inside += rows
        self.clients[client] += rows
        try:
            yield
        finally:
            self.inside -= rows
            self.clients[client] -= rows
            if not self.clients[client]:
                del self.clients[client]

    async def outputs(self, served: Served, rows: Sequence[Row]) -> list[Any]:
        """Return the outputs of rows.

        Raises:
            RefusedError: a batch could not be computed; 503.

        """
        loop = asyncio.get_running_loop()
        items = [_Item(served, row, loop.create_future()) for row in rows]
        self.waiting.extend(items)
        self.more.set()
        try:
            return await asyncio.gather(*(one.future for one in items))
        finally:
            for one in items:
                one.future.cancel()  # of a client that has left, or after the time is over; no effect on a result

    async def _batch(self) -> list[_Item]:
        """Wait for the rows of the next batch."""
        while True:
            while not self.waiting:
                self.more.clear()
                await self.more.wait()
            served = self.waiting[0].served
            until = time.monotonic() + self.limits.batch_ms / 1000
            while len(self.waiting) < served.width and (left := until - time.monotonic()) > 0:
                self.more.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.more.wait(), left)
            batch: list[_Item] = []
            while self.waiting and len(batch) < served.width and self.waiting[0].served is served:
                one = self.waiting.popleft()
                if not one.future.done():
                    batch.append(one)
            if batch:
                return batch

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._batch()
            start = time.perf_counter()
            rows = [one.row for one in batch]
            try:
                found = await loop.run_in_executor(self.thread, batch[0].served.compute, rows)
            except Exception as error:  # such as memory that ran out
                for one in batch:
                    if not one.future.done():
                        one.future.set_exception(
                            RefusedError(503, f"not computed ({type(error).__name__}); try again", 5)
                        )
                continue
            self.tell(len(batch), time.perf_counter() - start)
            for one, outputs in zip(batch, found, strict=True):
                if not one.future.done():
                    one.future.set_result(outputs)

    async def close(self) -> None:
        """Stop; rows that wait are not computed."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        self.thread.shutdown()
