"""fit: plain Python around compiled dispatches; everything a caller may change is a function passed in."""

import contextlib
import logging
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, Interrupted, Run, State, compute, reason
from jaxcnn.data.core import checked
from jaxcnn.parallel import mesh
from jaxcnn.train.checkpoint import Checkpoints
from jaxcnn.train.dispatch import Pace, Source, Stretch, as_lists, from_lists
from jaxcnn.train.divergence import DivergedError, check_params, check_sums, rate
from jaxcnn.train.record import Ranking, Record, improves, row_of
from jaxcnn.train.resume import begin, check_names, compare, copied, described_by, roll_back

logger = logging.getLogger("jaxcnn")
ROLLBACKS = 10  # in one run; whoever needs more needs another recipe, or `skip_nonfinite`


class _Reached(NamedTuple):
    state: State
    best: State
    history: list[dict[str, Any]]


class Fit(_Reached):
    """What `fit` returns: the last state, the best one by the monitored metric, and a row for each validation.

    Attributes:
        state: after the last step.
        best: by the monitored metric; the last one without a monitor.
        history: a row for each validation.
        saved: step of the newest checkpoint in the `workdir`: not that of `state` where the disk was full or the folder gone. None
            where there is no checkpoint.

    """

    saved: int | None = None


class StoppedError(Exception):
    """`stop()` said so; `step` is saved where there is a `workdir`."""

    def __init__(self, step: int):
        super().__init__(f"stopped after step {step}")
        self.step = step


def fit(
    run: Run,
    state: State,
    train: Any,
    *,
    batch_size: int,
    steps: int,
    every: float | None = None,
    validate: Callable[[State], Mapping[str, float]] | None = None,
    monitor: str | None = None,
    mode: str = "min",
    patience: int | None = None,
    workdir: str | pathlib.Path | None = None,
    save_seconds: float | None = None,
    keep_best: int = 1,
    on_nan: str = "stop",
    log: Callable[[dict[str, Any]], None] | None = None,
    progress: Callable[[int, dict[str, Any]], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Fit:
    """Train for a number of steps, and go on exactly where a run in the same `workdir` was cut off.

    A run that is finished is not trained again: its result comes back, with a line that says so. With another step, beginning or
    data than it was made from, it is refused; one that is not finished goes on with them, and a line says what is new.

    Args:
        run: a compiled training step.
        state: where to begin; it is copied, so it survives donation.
        train: a data set.
        batch_size: rows in a step over all devices; at most the rows of `train`. Where the devices do not divide them, each
            batch is padded with rows of `real = 0`.
        steps: updates in all, those before a resume included.
        every: steps between validations and saves, also a fraction (`rows / batch_size` is an epoch); by default `steps`.
        validate: `state -> {name: number}`, called at each of these points; what it raises as `Interrupted` stops the run. It is
            also called once before the first step, for its names: `evaluate` and `collect` then return zeros at once.
        monitor: name among these numbers, or `train/` and a training metric, that decides which state is best.
        mode: `"min"` or `"max"`.
        patience: stop after so many validations without a better one.
        workdir: folder for checkpoints, which one `fit` at a time writes to; None keeps the best state in memory only. What cannot
            be written is said, and training goes on; `Fit.saved` tells what is there at the end.
        save_seconds: save also when so many seconds have passed since the last time.
        keep_best: how many of the best checkpoints to keep, beside the newest two.
        on_nan: `"stop"`, or `"rollback"`: go back to the newest checkpoint, and leave out the one batch that it went wrong with.
        log: called with each row: `step`, `seconds` of training alone, `learning_rate` where the optimiser tells it,
            `train/...`, and what `validate` gave. After a resume the earlier rows come again first, so that a log can be
            written anew without a gap.
        progress: called after each dispatch with its last step and its training metrics.
        stop: asked between dispatches; true saves and raises `StoppedError`, or without a `workdir` returns what is reached.

    Returns:
        A `Fit`; `best` is the last state without `monitor`.

    Raises:
        InputError: an argument out of range, a `workdir` of a different run or in use, a `monitor` that is not there, or a name of
            `validate` that is one of fit's own.
        DivergedError: the loss is not finite; checkpoints before it are kept.
        StoppedError: see `stop`.
        Exception: what `validate`, `log`, `progress`, `stop` or the data raise. The state is saved first; without a `workdir` the
            exception has it, as a `Fit`, in its attribute `reached`.

    """
    _check(train, batch_size, steps, every, monitor, mode, patience)
    _check_saving(save_seconds, keep_best, on_nan)
    given, rows, train = state, train, checked(train, run.check).placed(run.hold)
    every = every or max(steps, 1)
    record, room = Record(batch_size, train.seed, train.size, monitor, mode), _room(every, train.capacity)
    saver, pace, saved = Checkpoints(workdir, keep_best, alone=True) if workdir else None, Pace(), time.monotonic()
    careful = 0  # up to this step a dispatch is one batch, to find the one that it went wrong with
    compiled = False

    def going_on() -> bool:
        return (int(state.step) < steps or record.partial is not None) and not (patience is not None and record.stale >= patience)

    def save(state: State, total: Any = None) -> None:
        nonlocal saved
        check_params(state)
        record.partial = None if total is None else as_lists(total)
        if saver:
            record.fingerprint = described()
            saver.save(int(state.step), state, record.plain(), ranking.steps())
        saved = time.monotonic()

    def settled(first: int, last: int, sums: Any, seconds: float, newest: State) -> None:
        record.seconds += seconds
        check_sums(sums, first, last, newest)
        if last < careful:
            check_params(newest)

    def period() -> dict[str, Any]:
        """Train up to the next validation, which gives the row."""
        nonlocal state, compiled
        at = int(state.step)
        end = _boundary(at if record.partial is None else at - 1, every, steps)
        stretch = Stretch(
            run,
            Source(train, batch_size, room, record.passed),
            Pace(single=True) if at < careful else pace,
            settled,
            (lambda last, sums: progress(last, compute(sums))) if progress else None,
            stop,
            (lambda: time.monotonic() - saved >= save_seconds) if saver and save_seconds is not None else None,
            save,
            compiled,
        )
        try:
            state, reached, sums, failed = stretch.go(state, end, lambda zero: from_lists(zero, record.partial))
        except Interrupted:
            state = state if compiled or saver else given
            raise StoppedError(at) from None
        compiled = True
        try:
            if failed:
                raise failed
            if reached < end:
                raise Interrupted
            check_params(state)
            own = {"step": end, "seconds": record.seconds, **rate(state)}
            return row_of(own, compute(sums), validate(state) if validate else {}, monitor)
        except Interrupted:
            if reached > at:
                save(state, sums)
            raise StoppedError(reached) from None
        except DivergedError:
            raise
        except Exception as error:
            if saver and reached > at and jax.process_count() == 1:
                _save_first(lambda: save(state, sums), reached, error)
            raise

    with contextlib.ExitStack() as at_end:
        if saver:
            at_end.callback(saver.close)
        state, record, best, found = begin(run, given, record, saver)
        ranking, described = Ranking(record, keep_best), described_by(run, given, rows, batch_size) if saver else dict
        if found:
            compare(saver, record, described(), int(state.step), steps, going_on())
        if going_on() and not record.history:
            check_names(run, given, rows, batch_size, validate, monitor)
        for row in record.history if log else ():
            log(row)
        try:
            while going_on():
                try:
                    row = period()
                except DivergedError as error:
                    if on_nan == "stop" or len(record.passed) >= ROLLBACKS:
                        raise
                    careful = max(careful, error.last + 1)
                    state, record, best = roll_back(error, run, given, record, saver)
                    ranking = Ranking(record, keep_best)
                    continue
                record.seconds = 0.0
                if improves(record, row):
                    best = mesh.to_host(copied(state))  # the buffers are donated to the next dispatch
                record.history.append(row)
                ranking.add(row)
                save(state)
                if log:
                    log(row)
        except StoppedError:
            if saver:
                raise
        except Exception as error:
            if not saver and compiled:
                _hand_out(error, state, best, given, record)
            raise
        written = _written(saver, state, save if compiled else None)
    return _fit(state, best, record, written)


def _check(train: Any, batch_size: int, steps: int, every: float | None, monitor: str | None, mode: str, patience: int | None) -> None:
    if not 1 <= batch_size <= train.size:
        raise InputError(f"batch_size={batch_size}: must be from 1 to the {train.size} training rows")
    if steps < 0:
        raise InputError(f"steps={steps}: must be at least 0")
    if every is not None and every < 1:
        raise InputError(f"every={every}: must be at least 1")
    if mode not in ("min", "max"):
        raise InputError(f"mode={mode!r}: must be 'min' or 'max'")
    if not isinstance(monitor, str | None):
        raise InputError(f"monitor={monitor!r}: must be one name, or None")
    if patience is not None and (patience < 1 or monitor is None):
        raise InputError(f"patience={patience}: must be at least 1, with a monitor")


def _check_saving(save_seconds: float | None, keep_best: int, on_nan: str) -> None:
    if save_seconds is not None and save_seconds < 0:
        raise InputError(f"save_seconds={save_seconds}: must be at least 0")
    if keep_best < 1:
        raise InputError(f"keep_best={keep_best}: must be at least 1")
    if on_nan not in ("stop", "rollback"):
        raise InputError(f"on_nan={on_nan!r}: must be 'stop' or 'rollback'")


def _save_first(save: Callable[[], None], step: int, error: Exception) -> None:
    """Save before an error of the caller's own functions, or of reading, goes on its way."""
    try:
        save()
    except Exception:  # the state is gone, or not finite
        return
    logger.warning("stopped after step %d by %s (%s); the state is saved, go on from there", step, type(error).__name__, reason(error))


def _hand_out(error: Exception, state: State, best: State | None, given: State, record: Record) -> None:
    """Put what is reached on an exception, where there is no checkpoint that has it."""
    whole = lambda tree: not any(isinstance(x, jax.Array) and x.is_deleted() for x in jax.tree.leaves(tree))  # noqa: E731
    last = next((s for s in (state, best) if s is not None and whole(s)), given)
    with contextlib.suppress(AttributeError, TypeError):
        error.reached = _fit(last, best, record, None)


def _written(saver: Checkpoints | None, state: State, save: Callable[[State], None] | None) -> int | None:
    """Wait for the disk; try once more where the last state is not there, and say so where it stays so."""
    if not saver:
        return None
    step, written = int(state.step), saver.saved()
    if save and written != step:
        save(state)
        written = saver.saved()
    if save and written != step:
        newest = "no checkpoint" if written is None else f"none after step {written}"
        logger.warning("the weights of step %d are not saved: there is %s in %s", step, newest, visible(saver.folder))
    return written


def _fit(state: State, best: State | None, record: Record, saved: int | None) -> Fit:
    fit = Fit(state, state if best is None else best, record.history)
    fit.saved = saved
    return fit


def _boundary(at: int, every: float, steps: int) -> int:
    """Return the end of the period that step `at` is in: multiples of `every`, rounded up."""
    k = math.floor(at / every + 1e-9) + 1
    while math.ceil(k * every - 1e-9) <= at:
        k += 1
    return min(steps, math.ceil(k * every - 1e-9))


def _room(every: float, limit: int) -> int:
    """Batches that a chunk has room for: a power of two, so that runs which differ a little share a compiled program."""
    return min(limit, 1 << (math.ceil(every) - 1).bit_length())
