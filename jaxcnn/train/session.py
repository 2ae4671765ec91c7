"""A run in progress: its state and counters, and how they are saved."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxcnn.core.text import visible
from jaxcnn.core.types import CompiledStep, InputError, State, reason
from jaxcnn.data.checking import checked
from jaxcnn.parallel import mesh
from jaxcnn.train.batches import ChunkSizer
from jaxcnn.train.checkpoint import Checkpoints
from jaxcnn.train.divergence import DivergedError, check_params, check_sums
from jaxcnn.train.record import Ranking, Record, as_lists, from_lists, improves
from jaxcnn.train.resume import begin, compare, copied, described_by, roll_back

log = logging.getLogger("jaxcnn")
ROLLBACKS = 10  # per run; a run that needs more needs a different recipe, or `skip_nonfinite`


@dataclasses.dataclass
class Session:
    """A run in progress.

    Attributes:
        run: the compiled training step.
        given: the initial state from the caller.
        data: the training data; if they are resident, they are already on the devices.
        steps: total number of updates.
        every: steps between boundaries; may be a fraction.
        record: the counters that are saved beside the state.
        state: the state after the newest dispatch.
        best: the best state, on the host, or None.
        saver: the checkpoints, or None without a `workdir`.
        described: returns the fingerprint of the run.
        options: the other arguments of the caller.
        ranking: the steps of the best rows.
        zero: sums of no batches; None until the step is compiled.
        total: sums since the last boundary.
        is_open: whether `total` includes steps that no row covers yet.
        unsaved: number of steps since the last save.
        saved_at: time of the last save, from `time.monotonic`.
        sizer: chooses the number of batches per dispatch.
        single_until: until this step, each dispatch runs one batch, to find the batch that causes a NaN.
        stopped: whether `stop()` ended the run.
        left_at: the step that was saved when the loop ended early, or None.

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
        """Whether there are steps or a row left to do."""
        patience, left = self.options.patience, int(self.state.step) < self.steps or self.record.partial is not None
        return left and not self.stopped and not (patience is not None and self.record.stale >= patience)

    def should_stop(self) -> bool:
        """Whether the caller wants to stop."""
        return bool(self.options.stop and self.options.stop())

    def is_due(self) -> bool:
        """Whether a save between boundaries is due."""
        seconds = self.options.save_seconds
        return bool(self.saver and self.unsaved and seconds is not None and time.monotonic() - self.saved_at >= seconds)

    def settle(self, first: int, last: int, sums: Any, seconds: float) -> None:
        """Account for a dispatch.

        Args:
            first: its first step.
            last: its last step.
            sums: its metric states.
            seconds: the time that it took.

        Raises:
            DivergedError: the loss or, while batches run one at a time, the parameters are not finite.
            ValueError: the step function did not increase the step counter by one per batch.

        """
        if int(self.state.step) != last:
            raise ValueError(
                f"the step counter is {int(self.state.step)} after {last} batches: "
                "a Step must return a state whose step is one higher"
            )
        self.record.seconds += seconds
        check_sums(sums, first, last, self.state)
        if last < self.single_until:
            check_params(self.state)
        self.total, self.is_open = jax.tree.map(lambda x, y: x + y, self.total, sums), True
        self.unsaved += last - first + 1

    def restart_sums(self) -> None:
        """Start the sums of a period, from the saved ones if a checkpoint has any."""
        if self.zero is not None:
            self.total, self.is_open = from_lists(self.zero, self.record.partial), self.record.partial is not None

    def save(self) -> None:
        """Save the state and the record, with the sums of a period that is not finished.

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
        """Save before the loop ends early, if there are new steps and a folder."""
        if self.saver and self.unsaved:
            try:
                self.save()
                self.left_at = int(self.state.step)
            except Exception as error:  # the state is deleted or not finite; older checkpoints stay
                log.warning("the steps since the last save are lost: %s", reason(error))

    def add(self, row: dict[str, Any]) -> None:
        """Add the row of a period, end the period, and save."""
        self.record.seconds = 0.0
        if improves(self.record, row):
            self.best = mesh.to_host(copied(self.state))  # the buffers are donated to the next dispatch
        self.record.history.append(row)
        self.ranking.add(row)
        self.end_period()

    def end_period(self) -> None:
        """End a period and save, unless that has been done."""
        if self.is_open:
            self.is_open = False
            self.record.seconds = 0.0
            self.save()

    def roll_back(self, error: DivergedError) -> None:
        """Return to the newest checkpoint, and leave out the batch that caused the error, once it is known.

        Args:
            error: the error.

        Raises:
            DivergedError: rollback is not enabled, or `ROLLBACKS` batches are left out already.

        """
        if self.options.on_nan == "stop" or len(self.record.skipped_batches) >= ROLLBACKS:
            raise error
        self.single_until = max(self.single_until, error.last + 1)
        self.state, self.record, self.best = roll_back(error, self.run, self.given, self.record, self.saver)
        self.ranking, self.unsaved = Ranking(self.record, self.options.keep_best), 0

    def written(self) -> int | None:
        """Wait for pending writes, and return the newest saved step.

        If the last state is missing, save it again. If that fails too, log a warning.
        """
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
    """The arguments of `fit` and `updates` about monitoring, saving and stopping; see `fit`."""

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
    """Start a run, or resume the one in `workdir`, which stays locked meanwhile.

    Args:
        run: the compiled training step.
        state: the initial state.
        train: the training data.
        batch_size: rows per step.
        steps: total number of updates.
        every: steps between boundaries; None means `steps`.
        workdir: folder for checkpoints, or None.
        options: the other arguments.

    Yields:
        The session.

    Raises:
        InputError: the data do not suit the task, or `workdir` cannot be written to, is in use, or belongs to a
            different run.

    """
    data = checked(train, run.check).put(run.replicate)
    record = Record(batch_size, data.seed, data.size, options.monitor, options.mode)
    saver = Checkpoints(workdir, options.keep_best, alone=True) if workdir else None
    with contextlib.ExitStack() as at_end:
        if saver:
            at_end.callback(saver.close)
        at, record, best, found = begin(run, state, record, saver)
        described = described_by(run, state, train, batch_size) if saver else dict
        if not found and 0 < steps <= int(at.step):
            line = f"steps={steps}: the state is already at step {int(at.step)}, so no steps are left"
            raise InputError(f"{line}; give more steps, or reset it with state.replace(step=jnp.int32(0))")
        session = Session(
            run, state, data, steps, every or max(steps, 1), record, at, best, saver, described, options,
            Ranking(record, options.keep_best),
        )  # fmt: skip
        if saver and found:
            private = getattr(run.step, "private", False)
            compare(saver, record, described(), int(at.step), steps, session.going_on(), private)
        yield session
