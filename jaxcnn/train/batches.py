"""Batches for a run: how many go into one dispatch, and where they come from."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jaxcnn.core.types import CompiledStep
from jaxcnn.parallel import mesh
from jaxcnn.parallel.compile import Chunk, empty

SECONDS = 0.5  # what a dispatch aims at


class ChunkSizer:
    """How many batches a dispatch gets: one at first, then as many as take about half a second, at most twice the last number.

    Args:
        single: always one, to see which batch something goes wrong with.

    """

    def __init__(self, single: bool = False) -> None:
        self.size, self.single = 1, single

    def took(self, count: int, seconds: float) -> None:
        """Learn from a dispatch."""
        if count and not self.single:
            self.size = max(1, min(int(SECONDS * count / max(seconds, 1e-6)), 2 * count))


class BatchStream(NamedTuple):
    """Where batches come from.

    Attributes:
        data: a data set, on the devices where it is resident.
        batch_size: rows over all devices.
        room: batches that a chunk has room for.
        skipped: `(step, batches)` each: from that step on, this number of batches is left out.

    """

    data: Any
    batch_size: int
    room: int
    skipped: list[list[int]]

    def chunks(self, run: CompiledStep, start: int, end: int, sizes: Callable[[], int]) -> Iterator[Chunk]:
        """Read the batches of steps `start` to `end`, as many together as `sizes()` says, until that is 0.

        Where `start` is `end`, there is one chunk with nothing to run.
        """
        rows = (run.parts, mesh.process_shard())
        if start == end:
            yield empty(self.data.chunk(self.batch_size, self._batch(start), 1, self.room, *rows))
        while start < end and (size := sizes()):
            stay = min([step for step, _ in self.skipped if step > start], default=end)
            count = min(size, self.room, min(stay, end) - start)
            yield self.data.chunk(self.batch_size, self._batch(start), count, self.room, *rows)
            start += count

    def _batch(self, step: int) -> int:
        return step + sum(n for at, n in self.skipped if at <= step)
