"""fit: plain Python around compiled dispatches; everything a caller may change is a function passed in."""

import contextlib
import dataclasses
import logging
import math
import pathlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.checkpoint import Checkpoints, DamagedError, unflatten
from jaxcnn.data.ahead import ahead
from jaxcnn.optim import learning_rate
from jaxcnn.parallel import Chunk, empty, host
from jaxcnn.types import InputError, Run, State, add, compute, scalars

logger = logging.getLogger("jaxcnn")
DISPATCH_SECONDS = 0.5  # what a dispatch aims at: signals, progress and timed saves act between two
IN_FLIGHT = {"cpu": 1}  # dispatches queued at once, elsewhere 2; a CPU has nothing to hide between two, and each holds memory


class Fit(NamedTuple):
    """What `fit` returns: the last state, the best one by the monitored metric, and a row for each validation."""

    state: State
    best: State
    history: list[dict[str, Any]]


class DivergedError(FloatingPointError):
    """The loss is no longer a finite number; the message names the steps and the learning rate."""


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
    partial: list[Any] | None = None  # sums since the last validation, when stopped between two
    seconds: float = 0.0  # and the time they took


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
    log: Callable[[dict[str, Any]], None] | None = None,
    progress: Callable[[int, dict[str, Any]], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Fit:
    """Train for a number of steps, and go on exactly where a run in the same `workdir` was cut off.

    Args:
        run: a compiled training step.
        state: where to begin; it is copied, so it survives donation.
        train: a data set.
        batch_size: rows in a step over all devices; at most the rows of `train`, a multiple of `run.devices`.
        steps: updates in all, those before a resume included.
        every: steps between validations and saves, also a fraction (`rows / batch_size` is an epoch); by default `steps`.
        validate: `state -> {name: number}`, called at each of these points.
        monitor: name among these numbers that decides which state is best.
        mode: `"min"` or `"max"`.
        patience: stop after so many validations without a better one.
        workdir: folder for checkpoints; None keeps the best state in memory only.
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
        OSError: a checkpoint could not be written.

    """
    _check(run, train, batch_size, steps, every, monitor, mode, patience)
    state, train = run.put(_copied(state)), train.placed(run.put)
    every = every or max(steps, 1)
    record, room = Record(batch_size, train.seed, train.size, monitor), _room(every, train.capacity)
    saver = Checkpoints(workdir) if workdir else None
    best = None
    try:
        if saver and (found := saver.newest()):
            state, record, best = _resume(run, state, record, saver, found)
            for row in record.history if log else ():
                log(row)
        while (at := int(state.step)) < steps and not (patience is not None and record.stale >= patience):
            end = _boundary(at, every, steps)
            state, sums = _period(run, state, train, record, room, end, progress, stop)
            if (reached := int(state.step)) < end:  # stopped on the way
                if reached > at:
                    _sound(state)
                    record.partial = [np.asarray(x).tolist() for x in jax.tree.leaves(sums)]
                    if saver:
                        saver.save(reached, state, dataclasses.asdict(record), record.best_step)
                raise StoppedError(reached)
            _sound(state)
            row = {"step": end, "seconds": record.seconds, **_rate(state)}
            row |= {f"train/{name}": value for name, value in compute(sums).items()}
            row = scalars(row | dict(validate(state) if validate else {}))
            record.partial, record.seconds = None, 0.0
            if _improves(record, row, mode):
                best = jax.device_get(_copied(state))  # the buffers are donated to the next dispatch
            record.history.append(row)
            if log:
                log(row)
            if saver:
                saver.save(end, state, dataclasses.asdict(record), record.best_step)
    finally:
        if saver:
            saver.close()
    return Fit(state, state if best is None else best, record.history)


def _check(
    run: Run, train: Any, batch_size: int, steps: int, every: float | None, monitor: str | None, mode: str, patience: int | None
) -> None:
    if not 1 <= batch_size <= train.size:
        raise InputError(f"batch_size={batch_size}: must be from 1 to the {train.size} training rows")
    if batch_size % run.devices:
        near = max(batch_size // run.devices, 1) * run.devices
        raise InputError(f"batch_size={batch_size}: must be a multiple of the {run.devices} devices, such as {near}")
    if steps < 0:
        raise InputError(f"steps={steps}: must be at least 0")
    if every is not None and every < 1:
        raise InputError(f"every={every}: must be at least 1")
    if mode not in ("min", "max"):
        raise InputError(f"mode={mode!r}: must be 'min' or 'max'")
    if patience is not None and (patience < 1 or monitor is None):
        raise InputError(f"patience={patience}: must be at least 1, with a monitor")


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
    return run.put(unflatten(state, flat)), saved, best


def _boundary(at: int, every: float, steps: int) -> int:
    """Return the end of the period that step `at` is in: multiples of `every`, rounded up."""
    k = math.floor(at / every + 1e-9) + 1
    while math.ceil(k * every - 1e-9) <= at:
        k += 1
    return min(steps, math.ceil(k * every - 1e-9))


def _period(run: Run, state: State, train: Any, record: Record, room: int, end: int, progress: Any, stop: Any) -> tuple[State, Any]:
    """Run up to step `end`, or to where `stop()` says so; sums stay on the device until the dispatches after them need room."""
    at, total, clock = int(state.step), None, 0.0
    pending: deque = deque()
    aim, in_flight = 1, IN_FLIGHT.get(jax.default_backend(), 2)

    def chunks(start: int) -> Iterator[Chunk]:
        while start < end:
            count = min(aim, room, end - start)  # as long as suits when it is read
            yield train.chunk(record.batch_size, start, count, room)
            start += count

    def settle(down_to: int) -> None:
        nonlocal total, clock, aim
        while len(pending) > down_to:
            count, last, sums = pending.popleft()
            sums, now = host(sums), time.perf_counter()
            aim = max(1, min(int(DISPATCH_SECONDS * count / max(now - clock, 1e-6)), 2 * count))
            record.seconds, clock = record.seconds + now - clock, now
            _finite(sums, last - count + 1, last, state)
            total = add(total, sums)
            if progress:
                progress(last, compute(sums))

    with contextlib.closing(ahead(chunks(at), run.place)) as read:
        for chunk in read:
            settle(in_flight - 1)
            if stop and stop():
                break
            if total is None:
                state, sums = run.call(state, empty(chunk))  # compiles, the first time, and runs nothing
                total, clock = _begin(record, host(sums)), time.perf_counter()
            state, sums = run.call(state, chunk)
            count = int(chunk.count)
            at += count
            pending.append((count, at, sums))
    settle(0)
    if int(state.step) != at:
        raise ValueError(f"the step counter is {int(state.step)} after {at} batches: a Step must return a state whose step is one higher")
    return state, total


def _begin(record: Record, zero: Any) -> Any:
    """Sums to go on from: none, or those from before a stop within the period."""
    if record.partial is None:
        return zero
    return jax.tree.unflatten(jax.tree.structure(zero), [np.asarray(x, np.float64) for x in record.partial])


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
    """Refuse to go on once a metric of steps `first` to `last` is no number."""
    for name, total in sums.items():
        if not all(np.isfinite(x).all() for x in total):
            where = f"step {last}" if last == first else f"one of steps {first} to {last}"
            shown = compute({name: total}).get(name, float("nan"))
            raise DivergedError(f"{'the loss' if name == 'loss' else name} is {shown} at {where}{_at_rate(state)}")


@jax.jit
def _copied(state: State) -> State:
    """Copy a state, all its leaves in one program."""
    return jax.tree.map(jnp.copy, state)


def _sound(state: State) -> None:
    """Refuse to save parameters that are no numbers: the loss shows it only one step later."""
    if not all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(state.params)):
        raise DivergedError(f"the parameters are no longer finite after step {int(state.step)}{_at_rate(state)}")


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
