"""How many batches one dispatch runs, and where they come from."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jaxcnn.core.types import CompiledStep
from jaxcnn.parallel import mesh
from jaxcnn.parallel.compile import Chunk, empty

SECONDS = 0.5  # that a dispatch should take


class ChunkSizer:
    """Choose how many batches a dispatch runs.

    The first dispatch runs one batch. Later ones run the number that takes about half a second, but at most twice
    the number of the dispatch before.

    Args:
        single: always run one batch, to find the batch at which the loss stops being finite.

    """

    def __init__(self, single: bool = False) -> None:
        self.size, self.single = 1, single

    def took(self, count: int, seconds: float) -> None:
        """Adjust the size after a dispatch.

        Args:
            count: batches that it ran.
            seconds: time that they took.

        """
        if count and not self.single:
            self.size = max(1, min(int(SECONDS * count / max(seconds, 1e-6)), 2 * count))


class BatchStream(NamedTuple):
    """The batches of a run, in order.

    Attributes:
        data: a data set; if it is resident, it is already on the devices.
        batch_size: rows per batch, over all devices.
        room: the largest number of batches in a chunk.
        skipped: `[step, batches]` pairs: from that step on, the stream leaves out this number of batches.

    """

    data: Any
    batch_size: int
    room: int
    skipped: list[list[int]]

    def chunks(self, run: CompiledStep, start: int, end: int, sizes: Callable[[], int]) -> Iterator[Chunk]:
        """Read the batches of the steps from `start` up to `end`.

        Args:
            run: the compiled step that will run them.
            start: number of steps that are done.
            end: number of steps to reach. If it equals `start`, the only chunk has no batches to run.
            sizes: returns the size of the next chunk in batches, or 0 to end the iteration.

        Yields:
            A chunk of one or more batches.

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
