"""Running steps: dispatches of about half a second, between which progress, signals and timed saves act."""

import contextlib
import dataclasses
import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcnn.core.types import Interrupted, Run, State, add
from jaxcnn.parallel import mesh
from jaxcnn.parallel.compile import Chunk, empty, host
from jaxcnn.parallel.prefetch import ahead, patiently

SECONDS = 0.5  # what a dispatch aims at
log = logging.getLogger("jaxcnn")
IN_FLIGHT = {"cpu": 1}  # dispatches queued at once, elsewhere 2; a CPU has nothing to hide between two, and each holds memory


class Pace:
    """How many batches a dispatch gets: one at first, then as many as take about half a second, at most twice the last.

    Args:
        single: one batch each, and never two dispatches queued: to see which batch it is that something goes wrong with.

    """

    def __init__(self, single: bool = False) -> None:
        self.aim, self.single = 1, single

    def took(self, count: int, seconds: float) -> None:
        """Learn from a dispatch."""
        if not self.single:
            self.aim = max(1, min(int(SECONDS * count / max(seconds, 1e-6)), 2 * count))


class Source(NamedTuple):
    """Where batches come from.

    Attributes:
        data: a data set, placed.
        batch_size: rows over all devices.
        room: batches that a chunk has room for.
        passed: `(step, batches)` each: from that step on so many batches are left out.

    """

    data: Any
    batch_size: int
    room: int
    passed: list[list[int]]

    def chunks(self, run: Run, start: int, end: int, sizes: Callable[[], int]) -> Iterator[Chunk]:
        """Read the batches of steps `start` to `end`, as many together as `sizes()` says; one that is not run if there are none."""
        rows = (run.parts, mesh.share())
        if start == end:
            yield empty(self.data.chunk(self.batch_size, self._batch(start), 1, self.room, *rows))
        while start < end and (size := sizes()):
            stay = min([step for step, _ in self.passed if step > start], default=end)
            count = min(size, self.room, min(stay, end) - start)
            yield self.data.chunk(self.batch_size, self._batch(start), count, self.room, *rows)
            start += count

    def _batch(self, step: int) -> int:
        return step + sum(n for at, n in self.passed if at <= step)


@dataclasses.dataclass
class Stretch:
    """Steps run one dispatch after another, up to step `end` or to where `stop()` says so.

    Attributes:
        run: a compiled training step.
        source: its batches.
        pace: of the dispatches; it learns.
        settled: called for each dispatch, in order, when its sums are on the host: `(first, last, sums, seconds, newest state)`.
        shown: called after that with `(last, sums)`.
        stop: asked between dispatches, and while one is waited for.
        due: whether it is time to save.
        save: `(state, total) -> None`.
        compiled: whether the step is, so that its first call is no longer one that takes minutes.

    """

    run: Run
    source: Source
    pace: Pace
    settled: Callable[[int, int, Any, float, State], None]
    shown: Callable[[int, Any], None] | None = None
    stop: Callable[[], bool] | None = None
    due: Callable[[], bool] | None = None
    save: Callable[[State, Any], None] | None = None
    compiled: bool = False

    def go(self, state: State, end: int, begin: Callable[[Any], Any]) -> tuple[State, int, Any, Exception | None]:
        """Return the state, its step, all sums, and what ended it early; `begin` maps sums of nothing to those to add to.

        What goes wrong after the first dispatch (reading, showing, asking) is returned, so that what is reached can be saved.

        Raises:
            Interrupted: `stop()` was true before the first dispatch; unless it was `compiled`, the state given may be gone.
            FloatingPointError: from `settled`.

        """
        at = begun = int(state.step)
        total, clock, failed, in_flight = None, 0.0, None, 1 if self.pace.single else IN_FLIGHT.get(jax.default_backend(), 2)
        alone = self.stop if jax.process_count() == 1 else None  # several processes only stop where all of them do
        pending, sizes = deque(), queue.SimpleQueue()
        (aim,) = mesh.agree(self.pace.aim)
        for _ in range(2):  # reading is one chunk ahead, so what it is told now comes two dispatches later
            sizes.put(aim)

        def settle(down_to: int) -> None:
            nonlocal total, clock
            while len(pending) > down_to:
                first, last, sums = pending.popleft()
                sums, now = host(sums), time.perf_counter()
                seconds, clock = now - clock, now
                self.pace.took(last - first + 1, seconds)
                total = add(total, sums)
                self.settled(first, last, sums, seconds, state)
                if self.shown and not failed:
                    self.shown(last, sums)

        with contextlib.closing(ahead(self.source.chunks(self.run, at, end, sizes.get), self.run.place, alone)) as read:
            try:
                for chunk in read:
                    settle(in_flight - 1)
                    if total is None:  # compiles, the first time, and runs nothing
                        call = lambda: self.run.call(state, empty(chunk))  # noqa: B023, E731 (used at once)
                        state, sums = patiently(call, None if self.compiled else alone)
                        total, clock = begin(host(sums)), time.perf_counter()
                    stop, save, aim = mesh.agree(bool(self.stop and self.stop()), bool(self.due and self.due()), self.pace.aim)
                    if stop:
                        break
                    if save and at > begun:
                        settle(0)
                        self.save(state, total)
                        clock = time.perf_counter()
                    sizes.put(aim)
                    if count := int(chunk.count):
                        state, sums = self.run.call(state, chunk)
                        pending.append((at + 1, at + count, sums))
                        at += count
            except Interrupted:
                if total is None:
                    raise
            except FloatingPointError:
                raise
            except Exception as error:
                if total is None:
                    raise
                failed = error
            finally:
                sizes.put(0)
        try:
            settle(0)
        except FloatingPointError:
            raise
        except Exception as error:
            failed = failed or error
            settle(0)
        if failed:
            return state, at, total, failed
        if int(state.step) != at:
            raise ValueError(
                f"the step counter is {int(state.step)} after {at} batches: a Step must return a state whose step is one higher"
            )
        return state, at, total, None


def as_lists(sums: Any) -> list[Any]:
    """Sums as plain JSON values."""
    return [np.asarray(x).tolist() for x in jax.tree.leaves(sums)]


def from_lists(zero: Any, saved: list[Any] | None) -> Any:
    """Sums that `as_lists` made plain; `zero` where there are none, or, with a warning, where they are of other metrics."""
    if saved is None:
        return zero
    leaves, kind = jax.tree.flatten(zero)
    try:
        sums = [np.asarray(x, np.float64) for x in saved]
    except (TypeError, ValueError):
        sums = []
    if [x.shape for x in sums] != [np.shape(x) for x in leaves]:
        log.warning("the metrics are not those that were being summed when the run was stopped: they count from here on")
        return zero
    return jax.tree.unflatten(kind, sums)
