"""fit: plain Python around compiled dispatches; everything a caller may change is a function passed in."""

import dataclasses
import logging
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import mesh
from jaxcnn.checkpoint import Checkpoints, DamagedError, unflatten
from jaxcnn.data.core import checked
from jaxcnn.dispatch import Pace, Source, Stretch, as_lists, from_lists
from jaxcnn.optim import learning_rate
from jaxcnn.types import InputError, Interrupted, Run, State, compute, scalars

logger = logging.getLogger("jaxcnn")
ROLLBACKS = 10  # in one run; whoever needs more needs another recipe, or `skip_nonfinite`


class Fit(NamedTuple):
    """What `fit` returns: the last state, the best one by the monitored metric, and a row for each validation."""

    state: State
    best: State
    history: list[dict[str, Any]]


class DivergedError(FloatingPointError):
    """The loss is no longer a finite number; the message names the steps, `first` to `last`, and the learning rate."""

    def __init__(self, message: str, first: int, last: int):
        super().__init__(message)
        self.first, self.last = first, last


class StoppedError(Exception):
    """`stop()` said so; `step` is saved where there is a `workdir`."""

    def __init__(self, step: int):
        super().__init__(f"stopped after step {step}")
        self.step = step


@dataclasses.dataclass
class Record:
    """What the loop itself must remember to go on exactly: plain numbers, saved as JSON beside the state."""

    batch_size: int
    seed: int
    rows: int
    monitor: str | None
    best: float | None = None
    best_step: int | None = None
    stale: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    partial: list[Any] | None = None  # sums since the last validation, when saved between two
    seconds: float = 0.0  # and the time they took
    passed: list[list[int]] = dataclasses.field(default_factory=list)  # (step, batches) left out by rolling back


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

    Args:
        run: a compiled training step.
        state: where to begin; it is copied, so it survives donation.
        train: a data set.
        batch_size: rows in a step over all devices; at most the rows of `train`. Where the devices do not divide them, each
            batch is padded with rows of `real = 0`.
        steps: updates in all, those before a resume included.
        every: steps between validations and saves, also a fraction (`rows / batch_size` is an epoch); by default `steps`.
        validate: `state -> {name: number}`, called at each of these points; what it raises as `Interrupted` stops the run.
        monitor: name among these numbers that decides which state is best.
        mode: `"min"` or `"max"`.
        patience: stop after so many validations without a better one.
        workdir: folder for checkpoints; None keeps the best state in memory only. What cannot be written is said, and
            training goes on.
        save_seconds: save also when so many seconds have passed since the last time.
        keep_best: how many of the best checkpoints to keep, beside the newest two.
        on_nan: `"stop"`, or `"rollback"`: go back to the newest checkpoint, and leave out the one batch that it went wrong with.
        log: called with each row: `step`, `seconds` of training alone, `learning_rate` where the optimiser tells it,
            `train/...`, and what `validate` gave. After a resume the earlier rows come again first, so that a log can be
            written anew without a gap.
        progress: called after each dispatch with its last step and its training metrics.
        stop: asked between dispatches; true saves and raises `StoppedError`.

    Returns:
        A `Fit`; `best` is the last state without `monitor`.

    Raises:
        InputError: an argument out of range, or a `workdir` of a different run.
        DivergedError: the loss is not finite; checkpoints before it are kept.
        StoppedError: see `stop`.

    """
    _check(train, batch_size, steps, every, monitor, mode, patience)
    _check_saving(save_seconds, keep_best, on_nan)
    given, train = state, checked(train, run.check).placed(run.hold)
    every = every or max(steps, 1)
    record, room = Record(batch_size, train.seed, train.size, monitor), _room(every, train.capacity)
    saver, pace, saved = Checkpoints(workdir, keep_best) if workdir else None, Pace(), time.monotonic()
    careful = 0  # up to this step a dispatch is one batch, to find the one that it went wrong with

    def save(state: State, total: Any = None) -> None:
        nonlocal saved
        _sound(state)
        record.partial = None if total is None else as_lists(total)
        if saver:
            saver.save(int(state.step), state, dataclasses.asdict(record), _ranking(record, mode))
        saved = time.monotonic()

    def settled(first: int, last: int, sums: Any, seconds: float, newest: State) -> None:
        record.seconds += seconds
        _finite(sums, first, last, newest)
        if last < careful:
            _sound(newest)
        if progress:
            progress(last, compute(sums))

    def period() -> dict[str, Any]:
        """Train up to the next validation, which gives the row."""
        nonlocal state
        at = int(state.step)
        end = _boundary(at if record.partial is None else at - 1, every, steps)
        due = (lambda: time.monotonic() - saved >= save_seconds) if saver and save_seconds is not None else None
        stretch = Stretch(
            run, Source(train, batch_size, room, record.passed), Pace(single=True) if at < careful else pace, settled, stop, due, save
        )
        try:
            state, reached, sums = stretch.go(state, end, lambda zero: from_lists(zero, record.partial))
        except Interrupted:
            raise StoppedError(at) from None
        try:
            if reached < end:
                raise Interrupted
            _sound(state)
            values = dict(validate(state) if validate else {})
        except Interrupted:
            if reached > at:
                save(state, sums)
            raise StoppedError(reached) from None
        train_values = {f"train/{name}": value for name, value in compute(sums).items()}
        return scalars({"step": end, "seconds": record.seconds, **_rate(state), **train_values, **values})

    try:
        state, record, best = _begin(run, given, record, saver)
        for row in record.history if log else ():
            log(row)
        while (int(state.step) < steps or record.partial is not None) and not (patience is not None and record.stale >= patience):
            try:
                row = period()
            except DivergedError as error:
                if on_nan == "stop" or len(record.passed) >= ROLLBACKS:
                    raise
                careful = max(careful, error.last + 1)
                state, record, best = _roll_back(error, run, given, record, saver)
                continue
            record.seconds = 0.0
            if _improves(record, row, mode):
                best = mesh.to_host(_copied(state))  # the buffers are donated to the next dispatch
            record.history.append(row)
            if log:
                log(row)
            save(state)
    finally:
        if saver:
            saver.close()
    return Fit(state, state if best is None else best, record.history)


def _check(train: Any, batch_size: int, steps: int, every: float | None, monitor: str | None, mode: str, patience: int | None) -> None:
    if not 1 <= batch_size <= train.size:
        raise InputError(f"batch_size={batch_size}: must be from 1 to the {train.size} training rows")
    if steps < 0:
        raise InputError(f"steps={steps}: must be at least 0")
    if every is not None and every < 1:
        raise InputError(f"every={every}: must be at least 1")
    if mode not in ("min", "max"):
        raise InputError(f"mode={mode!r}: must be 'min' or 'max'")
    if patience is not None and (patience < 1 or monitor is None):
        raise InputError(f"patience={patience}: must be at least 1, with a monitor")


def _check_saving(save_seconds: float | None, keep_best: int, on_nan: str) -> None:
    if save_seconds is not None and save_seconds < 0:
        raise InputError(f"save_seconds={save_seconds}: must be at least 0")
    if keep_best < 1:
        raise InputError(f"keep_best={keep_best}: must be at least 1")
    if on_nan not in ("stop", "rollback"):
        raise InputError(f"on_nan={on_nan!r}: must be 'stop' or 'rollback'")


def _begin(run: Run, state: State, record: Record, saver: Checkpoints | None) -> tuple[State, Record, State | None]:
    """Return where to begin: the newest sound checkpoint, else the state given, copied because its buffers will be donated."""
    if saver and (found := saver.newest()):
        return _resume(run, state, record, saver, found)
    return run.put(_copied(state)), record, None


def _roll_back(error: DivergedError, run: Run, begin: State, record: Record, saver: Checkpoints | None) -> tuple[State, Record, Any]:
    """Go back to the newest checkpoint; once it is known which batch it went wrong with, that one is left out from there on."""
    if saver:
        saver.wait()
    state, back, best = _begin(run, begin, Record(record.batch_size, record.seed, record.rows, record.monitor), saver)
    found = error.first == error.last
    back.passed = [*record.passed, *([[error.first - 1, 1]] if found else [])]
    how = f"without the batch of step {error.first}" if found else "one batch at a time, to find the one"
    logger.warning("%s; back to step %d, %s", error, int(state.step), how)
    return state, back, best


def _resume(run: Run, state: State, record: Record, saver: Checkpoints, found: tuple) -> tuple[State, Record, State | None]:
    _, flat, loop = found
    saved = Record(**loop)
    for name in ("batch_size", "seed", "rows", "monitor"):
        if getattr(saved, name) != getattr(record, name):
            raise InputError(
                f"resume: {name} was {getattr(saved, name)} and is now {getattr(record, name)}; give the same, or another workdir"
            )
    best = None
    if saved.best_step is not None:
        try:
            best = unflatten(state, flat if saved.best_step == found[0] else saver.load(saved.best_step)[0])
        except DamagedError as error:
            logger.warning("the best checkpoint, %d, is damaged (%s): the best is sought anew from here", saved.best_step, error)
            saved.best = saved.best_step = None
    logger.info("going on from step %d", found[0])
    return run.put(unflatten(state, flat)), saved, best


def _boundary(at: int, every: float, steps: int) -> int:
    """Return the end of the period that step `at` is in: multiples of `every`, rounded up."""
    k = math.floor(at / every + 1e-9) + 1
    while math.ceil(k * every - 1e-9) <= at:
        k += 1
    return min(steps, math.ceil(k * every - 1e-9))


def _room(every: float, limit: int) -> int:
    """Batches that a chunk has room for: a power of two, so that runs which differ a little share a compiled program."""
    return min(limit, 1 << (math.ceil(every) - 1).bit_length())


def _rate(state: State) -> dict[str, float]:
    """Return the learning rate in force; nothing where the optimiser does not tell."""
    try:
        return {"learning_rate": learning_rate(state.opt_state)}
    except InputError:
        return {}


def _finite(sums: Mapping[str, Any], first: int, last: int, state: State) -> None:
    """Refuse to go on once the loss of steps `first` to `last` is no number; where a step reports none, any of its metrics."""
    for name in ("loss",) if "loss" in sums else sums:
        if not all(np.isfinite(x).all() for x in sums[name]):
            where = f"step {last}" if last == first else f"one of steps {first} to {last}"
            shown = compute({name: sums[name]}).get(name, float("nan"))
            raise DivergedError(f"{'the loss' if name == 'loss' else name} is {shown} at {where}{_at_rate(state)}", first, last)


@jax.jit
def _copied(state: State) -> State:
    """Copy a state, all its leaves in one program."""
    return jax.tree.map(jnp.copy, state)


def _sound(state: State) -> None:
    """Refuse to save parameters that are no numbers: the loss shows it only one step later."""
    if not _all_finite(state.params):
        at = int(state.step)
        raise DivergedError(f"the parameters are no longer finite after step {at}{_at_rate(state)}", at, at)


@jax.jit
def _all_finite(params: Any) -> Any:
    return jnp.all(jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(params)]))


def _at_rate(state: State) -> str:
    return "".join(f", learning rate {rate:g}; try a lower one" for rate in _rate(state).values())


def _improves(record: Record, row: Mapping[str, Any], mode: str) -> bool:
    if record.monitor is None:
        return False
    if record.monitor not in row:
        raise InputError(f"monitor={record.monitor!r}: validate gave {', '.join(row)}")
    value = float(row[record.monitor])
    better = math.isfinite(value) and (record.best is None or (value < record.best if mode == "min" else value > record.best))
    if better:
        record.best, record.best_step, record.stale = value, row["step"], 0
    else:
        record.stale += 1
    return better


def _ranking(record: Record, mode: str) -> list[int]:
    """Steps that were validated, the best first."""
    rows = [(row[record.monitor], row["step"]) for row in record.history if record.monitor and math.isfinite(row[record.monitor])]
    return [step for _, step in sorted(rows, key=lambda r: (r[0] if mode == "min" else -r[0], r[1]))]
