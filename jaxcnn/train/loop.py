"""fit: validation, the best state and a history on top of `updates`; everything a caller may change is a function passed in."""

import contextlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from jaxcnn.core.text import visible
from jaxcnn.core.types import CompiledStep, InputError, Interrupted, State, compute
from jaxcnn.data.anything import as_data
from jaxcnn.parallel import mesh
from jaxcnn.train.divergence import rate
from jaxcnn.train.record import COLUMNS, row_of
from jaxcnn.train.resume import check_names
from jaxcnn.train.session import Options, Session, opened
from jaxcnn.train.updates import check, check_saving, dispatches, say_saved

SHOWN = 4  # numbers of a row that are printed


class _Reached(NamedTuple):
    state: State
    best: State
    history: list[dict[str, Any]]


class Fit(_Reached):
    """What `fit` returns: the last state, the best one by the monitored metric, and a row for each validation.

    Attributes:
        state: after the last step.
        best: by the monitored metric; the last one without a monitor.
        history: a row for each validation, arrays of up to 10,000 values included.
        saved: step of the newest checkpoint in the `workdir`: not that of `state` where the disk was full or the folder gone. None
            where there is no checkpoint.

    """

    saved: int | None = None


class StoppedError(Exception):
    """`stop()` said so; `step` is saved where there is a `workdir`."""

    def __init__(self, step: int):
        super().__init__(f"stopped after step {step}")
        self.step = step


def print_row(row: Mapping[str, Any]) -> None:
    """Print a line of the losses and accuracies of a row, or of what else `validate` gave; in the first process alone."""
    if mesh.process_shard()[0] != 0:
        return
    numbers = {k: v for k, v in row.items() if isinstance(v, int | float) and k not in COLUMNS}
    usual = [name for name in numbers if name.rpartition("/")[2] in ("loss", "accuracy")]
    own = [name for name in numbers if not name.startswith("train/") and name not in usual]
    shown = "  ".join(f"{visible(name)} {numbers[name]:.4g}" for name in [*usual, *own][:SHOWN])
    print(f"step {row['step']}  {row['seconds']:.1f} s  {shown}", flush=True)


def fit(
    run: CompiledStep,
    state: State,
    train: Any,
    *,
    batch_size: int,
    steps: int,
    every: float | None = None,
    validate: Callable[[State], Mapping[str, Any]] | None = None,
    monitor: str | None = None,
    mode: str = "min",
    patience: int | None = None,
    workdir: str | pathlib.Path | None = None,
    save_seconds: float | None = None,
    keep_best: int = 1,
    on_nan: str = "stop",
    log: Callable[[dict[str, Any]], None] | None = print_row,
    progress: Callable[[int, dict[str, Any]], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Fit:
    """Train for a number of steps, and go on exactly where a run in the same `workdir` was cut off.

    A run that is finished is not trained again: its result comes back, with a line that says so. With another step, beginning or
    data than it was made from, it is refused; one that is not finished goes on with them, and a line says what is new.
    It is a short loop on `updates`: write one of your own to act differently.

    Args:
        run: a compiled training step.
        state: where to begin; it is copied, so it survives donation.
        train: a data set, a dict of arrays `[N, ...]`, or a pair of images and labels.
        batch_size: rows per step over all devices; at most the rows of `train`. Where the devices do not divide them, each
            batch is padded with rows of `row_mask = 0`.
        steps: updates in all, those before a resume included.
        every: steps between validations and saves, also a fraction (`rows / batch_size` is an epoch); by default `steps`.
        validate: `state -> {name: number or array}`, called at each of these points; what it raises as `Interrupted` stops the run.
            It is also called once before the first step, for its names: `evaluate` and `collect` then return zeros at once.
        monitor: name among these numbers, or `train/` and a training metric, that decides which state is best.
        mode: `"min"` or `"max"`.
        patience: stop after this number of validations without a better one.
        workdir: folder for checkpoints, which one `fit` at a time writes to; None keeps the best state in memory only. What cannot
            be written is said, and training goes on; `Fit.saved` tells what is there at the end.
        save_seconds: save between validations, too, when this number of seconds has passed since the last save.
        keep_best: how many of the best checkpoints to keep, beside the newest two.
        on_nan: `"stop"`, or `"rollback"`: go back to the newest checkpoint, and leave out the one batch that it went wrong with.
        log: called with each row: `step`, `seconds` of training alone, `learning_rate` where the optimiser tells it,
            `train/...`, and what `validate` gave. After a resume the earlier rows come again first, so that a log can be
            written anew without a gap. By default it prints a line; None is silent.
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
    train = as_data(train)
    check(train, batch_size, steps, every)
    _check_monitor(monitor, mode, patience)
    check_saving(save_seconds, keep_best, on_nan)
    options = Options(monitor, mode, patience, save_seconds, keep_best, on_nan, stop)
    with opened(run, state, train, batch_size, steps, every, workdir, options) as session:
        if session.going_on() and not session.record.history:
            check_names(run, state, train, batch_size, validate, monitor)
        if log:
            for row in session.record.history:
                log(row)
        try:
            with contextlib.closing(dispatches(session)) as running:
                for update in running:
                    if progress:
                        progress(update.last, compute(update.sums))
                    if update.boundary:
                        own = {"step": update.last, "seconds": session.record.seconds, **rate(update.state)}
                        row = row_of(own, compute(update.total), validate(update.state) if validate else {}, monitor)
                        session.add(row)
                        if log:
                            log(row)
        except Interrupted:  # from `validate`
            session.stopped = True
        except Exception as error:
            _hand_out(error, session)
            raise
        if session.stopped and session.saver:
            raise StoppedError(int(session.state.step))
        written = session.written()
    return _fit(session.state, session, written)


def _check_monitor(monitor: str | None, mode: str, patience: int | None) -> None:
    if mode not in ("min", "max"):
        raise InputError(f"mode={mode!r}: must be 'min' or 'max'")
    if not isinstance(monitor, str | None):
        raise InputError(f"monitor={monitor!r}: must be one name, or None")
    if patience is not None and (patience < 1 or monitor is None):
        raise InputError(f"patience={patience}: must be at least 1, with a monitor")


def _hand_out(error: Exception, session: Session) -> None:
    """Put what is reached on an exception, where there is no checkpoint that has it; else tell that there is one."""
    if session.saver:
        say_saved(session, error)
        return
    if session.zero is None:
        return
    states = (session.state, session.best)
    last = next((s for s in states if s is not None and _is_whole(s)), session.given)
    with contextlib.suppress(AttributeError, TypeError):
        error.reached = _fit(last, session, None)  # pyright: ignore[reportAttributeAccessIssue] (new to it)


def _is_whole(tree: Any) -> bool:
    return not any(isinstance(x, jax.Array) and x.is_deleted() for x in jax.tree.leaves(tree))


def _fit(state: State, session: Session, saved: int | None) -> Fit:
    fitted = Fit(state, state if session.best is None else session.best, session.record.history)
    fitted.saved = saved
    return fitted
