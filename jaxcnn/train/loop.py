"""fit: the loop of `updates` with validation, a best state and a history. Callers customise it with functions."""

import contextlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from jaxcnn.core.text import visible
from jaxcnn.core.types import CompiledStep, InputError, Interrupted, State, check_whole, compute
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
    """The result of `fit`: the last state, the best state and the history.

    Attributes:
        state: the state after the last step.
        best: the best state by the monitored metric; without a monitor, the last state.
        history: one row per validation; arrays of up to 10,000 elements are included.
        saved: step of the newest checkpoint in the `workdir`, or None without one. It is lower than that of `state` if
            the disk was full or the folder was deleted.

    """

    saved: int | None = None


class StoppedError(Exception):
    """`stop()` returned True, and the state was saved.

    Attributes:
        step: the last step.

    """

    def __init__(self, step: int):
        super().__init__(f"stopped after step {step}")
        self.step = step


def print_row(row: Mapping[str, Any]) -> None:
    """Print one line with up to four numbers of a row. Only the first process prints.

    Losses and accuracies come first, then other numbers that `validate` returned.

    Args:
        row: a row of the history.

    """
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
    """Train for a number of steps. A run that was interrupted resumes exactly from the checkpoints in `workdir`.

    A finished run is not trained again: `fit` logs that and returns its result. It raises `InputError` if the step,
    the initial state or the data differ from those of the finished run. An unfinished run continues with the new
    ones, and a warning names the differences.

    `fit` is a short loop over `updates`: write your own for different behaviour.

    Args:
        run: a compiled training step.
        state: the initial state. It is copied, so it survives donation.
        train: a data set, a dict of arrays `[N, ...]`, or a pair of images and labels.
        batch_size: rows per step over all devices, at most the rows of `train`. If it is no multiple of the number of
            devices, each batch is padded with rows whose `row_mask` is 0.
        steps: total number of updates, including those before a resume.
        every: steps between validations, which also save; default `steps`. It may be a fraction, at least 1:
            `rows / batch_size` is one epoch.
        validate: `state -> {name: number or array}`. It may raise `Interrupted` to stop the run. `fit` also calls it
            once before the first step to learn its names; in that call `evaluate` and `collect` return zeros.
        monitor: name of the number that decides which state is best, from `validate` or, as `train/NAME`, from the
            training metrics.
        mode: whether a lower (`"min"`) or higher (`"max"`) value is better.
        patience: stop after this number of validations without improvement.
        workdir: folder for checkpoints, which only one `fit` at a time may use. None keeps the best state only in
            memory. A failed save is logged and training continues; `Fit.saved` is the newest step on the disk.
        save_seconds: also save every `save_seconds` seconds between validations.
        keep_best: number of best checkpoints to keep, beside the newest two.
        on_nan: reaction to a NaN or infinite loss. `"stop"` raises `DivergedError`; `"rollback"` returns to the newest
            checkpoint, finds the batch that causes it, and leaves that batch out.
        log: called with each row: `step`, `seconds` of training time, `learning_rate` if the optimiser exposes it,
            `train/...`, and the values of `validate`. After a resume it first gets all earlier rows, so that a log can
            be rewritten without a gap. The default prints one line; None prints nothing.
        progress: called after each dispatch with its last step and its training metrics.
        stop: called between dispatches. If it returns True, `fit` saves and raises `StoppedError`, or, without a
            `workdir`, returns the state that it has reached.

    Returns:
        A `Fit`.

    Raises:
        InputError: an argument is out of range, `workdir` is in use or belongs to a different run, `monitor` does not
            exist, or is of the rows of a private step, or `validate` returns a reserved name.
        DivergedError: the loss or the parameters are not finite. Earlier checkpoints are kept.
        StoppedError: `stop` returned True or `validate` raised `Interrupted`, and there is a `workdir`.
        Exception: any exception of `validate`, `log`, `progress`, `stop` or the data. The state is saved first. Without
            a `workdir` the attribute `reached` of the exception holds it, as a `Fit`.

    """
    train = as_data(train)
    check(train, batch_size, steps, every)
    _check_monitor(monitor, mode, patience, run)
    check_saving(save_seconds, keep_best, on_nan, run)
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


def _check_monitor(monitor: str | None, mode: str, patience: int | None, run: CompiledStep) -> None:
    if mode not in ("min", "max"):
        raise InputError(f"mode={mode!r}: must be 'min' or 'max'")
    if not isinstance(monitor, str | None):
        raise InputError(f"monitor={monitor!r}: must be a single name, or None")
    if patience is not None:
        check_whole("patience", patience, 1)
        if monitor is None:
            raise InputError(f"patience={patience}: needs a monitor")
    if monitor and monitor.startswith("train/") and getattr(run.step, "private", False):
        line = f"monitor={monitor!r}: depends on the private rows, which epsilon does not cover"
        raise InputError(f"{line}; monitor validation rows, or None")


def _hand_out(error: Exception, session: Session) -> None:
    """Log which checkpoint holds the state at an exception; without checkpoints, attach the state to the exception."""
    if session.saver:
        say_saved(session, error)
        return
    if session.zero is None:
        return
    states = (session.state, session.best)
    last = next((s for s in states if s is not None and _is_whole(s)), session.given)
    with contextlib.suppress(AttributeError, TypeError):
        error.reached = _fit(last, session, None)  # pyright: ignore[reportAttributeAccessIssue] (a new attribute)


def _is_whole(tree: Any) -> bool:
    return not any(isinstance(x, jax.Array) and x.is_deleted() for x in jax.tree.leaves(tree))


def _fit(state: State, session: Session, saved: int | None) -> Fit:
    fitted = Fit(state, state if session.best is None else session.best, session.record.history)
    fitted.saved = saved
    return fitted
