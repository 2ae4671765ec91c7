"""A run in progress: what its updates change, and how that is begun, saved and given back."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxcnn.core.text import visible
from jaxcnn.core.types import CompiledStep, State, reason
from jaxcnn.data.checking import checked
from jaxcnn.parallel import mesh
from jaxcnn.train.batches import ChunkSizer
from jaxcnn.train.checkpoint import Checkpoints
from jaxcnn.train.divergence import DivergedError, check_params, check_sums
from jaxcnn.train.record import Ranking, Record, as_lists, from_lists, improves
from jaxcnn.train.resume import begin, compare, copied, described_by, roll_back

log = logging.getLogger("jaxcnn")
ROLLBACKS = 10  # in one run; whoever needs more needs another recipe, or `skip_nonfinite`


@dataclasses.dataclass
class Session:
    """A run in progress.

    Attributes:
        run: the compiled training step.
        given: the state that the caller gave.
        data: the training rows, on the devices where they are resident.
        steps: updates in all.
        every: steps between two boundaries, perhaps a fraction.
        record: the counters that are saved beside the state.
        state: after the newest dispatch.
        best: the best state on the host, if there is one.
        saver: writes to the work folder, if there is one.
        described: the fingerprint of the run.
        options: what else the caller chose.
        ranking: the steps of the best rows.
        zero: sums of nothing; None until the step is compiled.
        total: sums since the last boundary.
        is_open: whether `total` holds steps that no row has yet.
        unsaved: steps since the last save.
        saved_at: when that was.
        single_until: up to this step a dispatch is one batch, to find the one that the loss went wrong with.
        stopped: whether `stop()` ended the run.
        left_at: the step that was saved when the loop was left.

    """

    run: CompiledStep
    given: State
    data: Any
    steps: int
    every: float
    record: Record
    state: State
    best: State | None
    saver: Checkpoints | None
    described: Callable[[], dict[str, Any]]
    options: "Options"
    ranking: Ranking
    zero: Any = None
    total: Any = None
    is_open: bool = False
    unsaved: int = 0
    saved_at: float = dataclasses.field(default_factory=time.monotonic)
    sizer: ChunkSizer = dataclasses.field(default_factory=ChunkSizer)
    single_until: int = 0
    stopped: bool = False
    left_at: int | None = None

    def going_on(self) -> bool:
        """Whether there is something left to do."""
        patience, left = self.options.patience, int(self.state.step) < self.steps or self.record.partial is not None
        return left and not self.stopped and not (patience is not None and self.record.stale >= patience)

    def should_stop(self) -> bool:
        """Ask the caller."""
        return bool(self.options.stop and self.options.stop())

    def is_due(self) -> bool:
        """Whether it is time to save between two boundaries."""
        seconds = self.options.save_seconds
        return bool(self.saver and self.unsaved and seconds is not None and time.monotonic() - self.saved_at >= seconds)

    def settle(self, first: int, last: int, sums: Any, seconds: float) -> None:
        """Add what one dispatch gave.

        Raises:
            DivergedError: its loss, or what it left of the parameters, is not finite.

        """
        if int(self.state.step) != last:
            raise ValueError(
                f"the step counter is {int(self.state.step)} after {last} batches: a Step must return a state whose step is one higher"
            )
        self.record.seconds += seconds
        check_sums(sums, first, last, self.state)
        if last < self.single_until:
            check_params(self.state)
        self.total, self.is_open = jax.tree.map(lambda x, y: x + y, self.total, sums), True
        self.unsaved += last - first + 1

    def restart_sums(self) -> None:
        """Begin the sums of a period, with those that were saved within it."""
        if self.zero is not None:
            self.total, self.is_open = from_lists(self.zero, self.record.partial), self.record.partial is not None

    def save(self) -> None:
        """Save the state, the record, and the sums of a period that is not over.

        Raises:
            DivergedError: the parameters are not finite.

        """
        check_params(self.state)
        self.record.partial = as_lists(self.total) if self.is_open else None
        if self.saver:
            self.record.fingerprint = self.described()
            self.saver.save(int(self.state.step), self.state, self.record.plain(), self.ranking.steps())
        self.saved_at, self.unsaved = time.monotonic(), 0

    def save_what_is_there(self) -> None:
        """Save before the run is left, if there is anything new and a folder for it."""
        if self.saver and self.unsaved:
            try:
                self.save()
                self.left_at = int(self.state.step)
            except Exception as error:  # the state is gone, or not finite: what was saved before stays
                log.warning("what was trained since the last save is lost: %s", reason(error))

    def add(self, row: dict[str, Any]) -> None:
        """End a period with its row, and save."""
        self.record.seconds = 0.0
        if improves(self.record, row):
            self.best = mesh.to_host(copied(self.state))  # the buffers are donated to the next dispatch
        self.record.history.append(row)
        self.ranking.add(row)
        self.end_period()

    def end_period(self) -> None:
        """End a period, unless that is done, and save."""
        if self.is_open:
            self.is_open = False
            self.record.seconds = 0.0
            self.save()

    def roll_back(self, error: DivergedError) -> None:
        """Go back to the newest checkpoint, and leave out the batch that the loss went wrong with.

        Raises:
            DivergedError: the caller did not ask for that, or it was done too often.

        """
        if self.options.on_nan == "stop" or len(self.record.skipped_batches) >= ROLLBACKS:
            raise error
        self.single_until = max(self.single_until, error.last + 1)
        self.state, self.record, self.best = roll_back(error, self.run, self.given, self.record, self.saver)
        self.ranking, self.unsaved = Ranking(self.record, self.options.keep_best), 0

    def written(self) -> int | None:
        """Wait for the disk; try once more where the last state is not there, and warn where it stays so."""
        if not self.saver:
            return None
        step, written = int(self.state.step), self.saver.saved()
        if self.zero is None or written == step:
            return written
        self.save()
        written = self.saver.saved()
        if written != step:
            newest = "no checkpoint" if written is None else f"none after step {written}"
            log.warning(
                "the weights of step %d are not saved: there is %s in %s", step, newest, visible(self.saver.folder)
            )
        return written


@dataclasses.dataclass(frozen=True)
class Options:
    """What a caller chose, beside what is trained; see `fit`."""

    monitor: str | None = None
    mode: str = "min"
    patience: int | None = None
    save_seconds: float | None = None
    keep_best: int = 1
    on_nan: str = "stop"
    stop: Callable[[], bool] | None = None


@contextlib.contextmanager
def opened(
    run: CompiledStep,
    state: State,
    train: Any,
    batch_size: int,
    steps: int,
    every: float | None,
    workdir: Any,
    options: Options,
) -> Iterator[Session]:
    """Begin a run, or go on with the one in `workdir`, which nobody else may then write to."""
    data = checked(train, run.check).put(run.replicate)
    record = Record(batch_size, data.seed, data.size, options.monitor, options.mode)
    saver = Checkpoints(workdir, options.keep_best, alone=True) if workdir else None
    with contextlib.ExitStack() as at_end:
        if saver:
            at_end.callback(saver.close)
        at, record, best, found = begin(run, state, record, saver)
        described = described_by(run, state, train, batch_size) if saver else dict
        session = Session(
            run, state, data, steps, every or max(steps, 1), record, at, best, saver, described, options,
            Ranking(record, options.keep_best),
        )  # fmt: skip
        if saver and found:
            compare(saver, record, described(), int(at.step), steps, session.going_on())
        yield session
