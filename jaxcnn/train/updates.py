"""updates: the training loop as a generator of dispatches. It saves, resumes and stops by itself."""

import contextlib
import logging
import math
import pathlib
import queue
import time
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcnn.core.types import (
    CompiledStep,
    InputError,
    Interrupted,
    MetricState,
    State,
    check_numbers,
    check_whole,
    reason,
)
from jaxcnn.data.anything import as_data
from jaxcnn.data.checking import Checked
from jaxcnn.data.core import Indexed
from jaxcnn.parallel import mesh
from jaxcnn.parallel.compile import empty, host
from jaxcnn.parallel.prefetch import ahead, patiently
from jaxcnn.train.batches import BatchStream, ChunkSizer
from jaxcnn.train.divergence import DivergedError, check_params
from jaxcnn.train.session import Options, Session, opened

READ_AHEAD = 2**28  # most bytes of rows in a chunk that is read from files, unless one batch has more
log = logging.getLogger("jaxcnn")


class Update(NamedTuple):
    """The result of one dispatch: the steps `first` to `last`.

    Attributes:
        first: the first step.
        last: the last step.
        sums: the training metrics of these steps, on the host; `jc.types.compute` turns them into numbers.
        seconds: the time of these steps, which includes reading rows but not compilation.
        state: the state after step `last`. Its buffers are donated to the next dispatch: use it within this iteration,
            or copy it.
        total: the training metrics since the last boundary.
        boundary: whether `last` is a boundary: a multiple of `every`, or the last step of the run.

    """

    first: int
    last: int
    sums: dict[str, MetricState]
    seconds: float
    state: State
    total: dict[str, MetricState]
    boundary: bool


def updates(
    run: CompiledStep,
    state: State,
    train: Any,
    *,
    batch_size: int,
    steps: int,
    every: float | None = None,
    workdir: str | pathlib.Path | None = None,
    save_seconds: float | None = None,
    on_nan: str = "stop",
    stop: Callable[[], bool] | None = None,
) -> Generator[Update, None, None]:
    """Train, and yield an `Update` after each dispatch of about half a second.

    With a `workdir` the generator saves at each boundary, after the body of the loop has run, and an interrupted run
    resumes exactly. Leaving the loop by `break` or by an exception saves too, except in a multi-process run, where the
    other processes may still be in the loop. If you keep the generator in a variable, `close()` it.

    A run that is already finished yields one update without steps, with the last state.

    Args:
        run: a compiled training step.
        state: the initial state. It is copied, so it survives donation.
        train: a data set, a dict of arrays `[N, ...]`, or a pair of images and labels.
        batch_size: rows per step over all devices, at most the rows of `train`.
        steps: total number of updates, including those before a resume.
        every: steps between boundaries; default `steps`. It may be a fraction, at least 1: `rows / batch_size` is one
            epoch.
        workdir: folder for checkpoints, which only one loop at a time may use. None saves nothing.
        save_seconds: also save every `save_seconds` seconds between boundaries.
        on_nan: reaction to a NaN or infinite loss. `"stop"` raises `DivergedError`; `"rollback"` returns to the newest
            checkpoint, finds the batch that causes it, and leaves that batch out.
        stop: called between dispatches and during a wait for one. If it returns True, the generator saves and ends.

    Yields:
        An `Update` for each dispatch.

    Raises:
        InputError: an argument is out of range, or `workdir` is in use or belongs to a different run.
        DivergedError: the loss or the parameters are not finite. Earlier checkpoints are kept.

    """
    train = as_data(train)
    check(train, batch_size, steps, every)
    check_saving(save_seconds, 1, on_nan, run)
    options = Options(save_seconds=save_seconds, on_nan=on_nan, stop=stop)
    return _updates(opened(run, state, train, batch_size, steps, every, workdir, options))


def _updates(opening: contextlib.AbstractContextManager[Session]) -> Generator[Update, None, None]:
    """Open the session at the first `next`, so that a generator that is never used locks nothing."""
    with opening as session:
        if not session.going_on():
            at = int(session.state.step)
            yield Update(at + 1, at, {}, 0.0, session.state, {}, True)
        try:
            yield from dispatches(session)
        except DivergedError:
            raise
        except Exception as error:
            say_saved(session, error)
            raise
        session.written()


def dispatches(session: Session) -> Generator[Update, None, None]:
    """Run the remaining steps of a session, and yield an `Update` after each dispatch."""
    while session.going_on():
        try:
            yield from _period(session)
        except DivergedError as error:
            session.roll_back(error)


def _period(session: Session) -> Generator[Update, None, None]:
    """Run the steps up to the next boundary. Save the state, however the period ends."""
    try:
        yield from _dispatches_to(session, _end(session))
        session.end_period()
    except Interrupted:
        if session.zero is None and not session.saver:
            session.state = session.given  # the compiling thread may still donate session.state
        session.save_what_is_there()
        session.stopped = True
    except DivergedError:
        raise
    except (GeneratorExit, Exception):  # in a multi-process run, the others may still be in the loop
        if jax.process_count() == 1:
            session.save_what_is_there()
        raise


def _dispatches_to(session: Session, end: int) -> Generator[Update, None, None]:
    """Run the steps up to `end`, one dispatch after another, while a thread reads the next rows."""
    at = int(session.state.step)
    session.restart_sums()
    # several processes must stop at the same batch
    alone = session.options.stop if jax.process_count() == 1 else None
    sizer = ChunkSizer(single=True) if at < session.single_until else session.sizer
    sizes, (size,) = queue.SimpleQueue(), mesh.all_max(sizer.size)
    for _ in range(2):  # reading is one chunk ahead, so a new size applies two dispatches later
        sizes.put(size)
    stream = BatchStream(session.data, session.record.batch_size, _room(session), session.record.skipped_batches)
    with contextlib.ExitStack() as at_end:
        read = at_end.enter_context(
            contextlib.closing(ahead(stream.chunks(session.run, at, end, sizes.get), session.run.shard, alone))
        )
        at_end.callback(sizes.put, 0)
        clock = time.perf_counter()
        for chunk in read:
            if session.zero is None:
                session.zero = _compile(session, chunk, alone)
                session.restart_sums()
                clock = time.perf_counter()
            stop, due, size = mesh.all_max(session.should_stop(), session.is_due(), sizer.size)
            if stop:
                raise Interrupted
            if due:
                session.save()
                clock = time.perf_counter()
            sizes.put(size)
            first, count, sums = at + 1, int(chunk.count), session.zero
            if count:
                session.state, sums = session.run.call(session.state, chunk)
                sums = host(sums)
            at, seconds = at + count, time.perf_counter() - clock
            sizer.took(count, seconds)
            session.settle(first, at, sums, seconds)
            if at == end:
                check_params(session.state)
            yield Update(first, at, sums, seconds, session.state, session.total, at == end)
            clock = time.perf_counter()


def _compile(session: Session, chunk: Any, stop: Callable[[], bool] | None) -> Any:
    """Compile the step with a call on an empty chunk, and return its sums, which are zero."""

    def call() -> tuple[State, Any]:
        return session.run.call(session.state, empty(chunk))

    session.state, sums = patiently(call, stop)
    return host(sums)


def say_saved(session: Session, error: Exception) -> None:
    """Log the checkpoint that was saved because of an error, if there is one."""
    if session.left_at is not None:
        what = (session.left_at, type(error).__name__, reason(error))
        log.warning("stopped after step %d by %s (%s); the state is saved, and the same call resumes from it", *what)


def _end(session: Session) -> int:
    """Return the next boundary, a multiple of `every` rounded up. A boundary whose row is missing comes again."""
    at, every = int(session.state.step) - (session.record.partial is not None), session.every
    k = math.floor(at / every + 1e-9) + 1
    while math.ceil(k * every - 1e-9) <= at:
        k += 1
    return min(session.steps, math.ceil(k * every - 1e-9))


def _room(session: Session) -> int:
    """Return the capacity of a chunk in batches: a power of two, so that similar runs share a compiled program."""
    most = min(session.data.capacity, 1 << (math.ceil(session.every) - 1).bit_length())
    data = session.data.data if isinstance(session.data, Checked) else session.data
    if not isinstance(data, Indexed):
        return most
    row = sum(np.asarray(x).nbytes for x in jax.tree.leaves(data.example()))
    batch = row * -(-session.record.batch_size // mesh.process_shard()[1])
    fits = max(READ_AHEAD // max(batch, 1), 1)
    return min(most, 1 << (fits.bit_length() - 1))


def check(train: Any, batch_size: int, steps: int, every: float | None) -> None:
    """Check the arguments that `fit` and `updates` share.

    Args:
        train: the training data.
        batch_size: rows per step, from 1 to the rows of `train`.
        steps: total number of updates, at least 0.
        every: steps between boundaries, at least 1, or None.

    Raises:
        InputError: an argument is out of range.

    """
    check_whole("batch_size", batch_size)
    if not 1 <= batch_size <= train.size:
        raise InputError(f"batch_size={batch_size}: must be from 1 to the {train.size} training rows")
    check_whole("steps", steps, 0)
    if every is not None:
        check_numbers(every=every)
    if every is not None and not every >= 1:
        raise InputError(f"every={every}: must be at least 1")


def check_saving(save_seconds: float | None, keep_best: int, on_nan: str, run: CompiledStep) -> None:
    """Check the arguments about saving.

    Args:
        save_seconds: seconds between saves, at least 0, or None.
        keep_best: number of best checkpoints to keep, at least 1.
        on_nan: `"stop"` or `"rollback"`.
        run: the compiled training step.

    Raises:
        InputError: an argument is out of range, or a private step is to leave out batches because of their rows.

    """
    if save_seconds is not None:
        check_numbers(save_seconds=save_seconds)
    if save_seconds is not None and not save_seconds >= 0:
        raise InputError(f"save_seconds={save_seconds}: must be at least 0")
    check_whole("keep_best", keep_best, 1)
    if on_nan not in ("stop", "rollback"):
        raise InputError(f"on_nan={on_nan!r}: must be 'stop' or 'rollback'")
    if on_nan == "rollback" and getattr(run.step, "private", False):
        raise InputError("on_nan='rollback': depends on the rows, which voids the privacy guarantee; use 'stop'")
