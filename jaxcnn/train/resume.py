"""How a run starts: from its newest intact checkpoint, or from the beginning. Names and settings are checked first."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.core.text import visible
from jaxcnn.core.types import CompiledStep, InputError, State
from jaxcnn.train import fingerprint, rehearsal
from jaxcnn.train.checkpoint import Checkpoints, DamagedError, unflatten
from jaxcnn.train.divergence import DivergedError, rate
from jaxcnn.train.record import Record, check_monitor, checked, restored

logger = logging.getLogger("jaxcnn")


def begin(
    run: CompiledStep, state: State, record: Record, saver: Checkpoints | None
) -> tuple[State, Record, State | None, bool]:
    """Start from the newest intact checkpoint, or from a copy of the given state, because its buffers will be donated.

    Args:
        run: the compiled training step.
        state: the initial state.
        record: the record of a run without steps.
        saver: the checkpoints, if there is a folder for them.

    Returns:
        The state, its record, the best state if there is one, and whether these come from a checkpoint.

    Raises:
        InputError: the checkpoint belongs to a different run.

    """
    if saver and (found := saver.newest(state)):
        return *_resume(run, state, record, saver, found), True
    return run.put(copied(state)), record, None, False


def roll_back(
    error: DivergedError, run: CompiledStep, first: State, record: Record, saver: Checkpoints | None
) -> tuple[State, Record, Any]:
    """Return to the newest checkpoint, and leave out the batch that caused an error, once it is known.

    Args:
        error: the error; if it names a single step, the batch of that step is left out.
        run: the compiled training step.
        first: the initial state.
        record: the record at the error.
        saver: the checkpoints, if there is a folder for them.

    Returns:
        The state, its record, and the best state if there is one.

    """
    if saver:
        saver.wait()
    state, back, best, _ = begin(run, first, record.again(), saver)
    found = error.first == error.last
    back.skipped_batches = [*record.skipped_batches, *([[error.first - 1, 1]] if found else [])]
    how = (
        f"without the batch of step {error.first}" if found else "one batch at a time, to find the batch that causes it"
    )
    logger.warning("%s; back to step %d, %s", error, int(state.step), how)
    return state, back, best


def _resume(
    run: CompiledStep, state: State, record: Record, saver: Checkpoints, found: tuple
) -> tuple[State, Record, State | None]:
    step, flat, loop = found
    saved, going = restored(loop, record, step), unflatten(state, flat)
    if int(going.step) != step:
        raise InputError(
            f"resume: checkpoint {step} in {visible(saver.folder)} has the state of step {int(going.step)}; "
            "delete this checkpoint"
        )
    best = None
    if saved.best_step is not None:
        try:
            same = saved.best_step == step
            best = going if same else unflatten(state, saver.load(saved.best_step, state, rows=False)[0])
        except DamagedError as error:
            logger.warning(
                "the best checkpoint, %d, is damaged (%s): the search for the best restarts here",
                saved.best_step,
                error,
            )
            saved.best = saved.best_step = None
    logger.info("going on from step %d", step)
    return run.put(going), saved, best


def described_by(run: CompiledStep, state: State, data: Any, batch_size: int) -> Callable[[], dict[str, Any]]:
    """Start to compute a fingerprint on a thread.

    The step is traced on this thread, and compilation reuses the trace.

    Args:
        run: the compiled training step.
        state: the initial state.
        data: the training data.
        batch_size: rows per step.

    Returns:
        A function that waits for the fingerprint and returns it.

    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="fingerprint")
    found = thread.submit(fingerprint.describe(run, state, data, rehearsal.batch_of(data, batch_size)))
    thread.shutdown(wait=False)
    return found.result


def compare(
    saver: Checkpoints, record: Record, new: dict[str, Any], step: int, steps: int, going_on: bool,
    private: bool = False,
) -> None:  # fmt: skip
    """Compare a run with the one in its folder. Log that the run is finished, or the parts that differ.

    Args:
        saver: the checkpoints of the folder.
        record: the record of the newest one.
        new: the fingerprint of this run.
        step: step of the newest checkpoint.
        steps: the number of steps that the caller asks for.
        going_on: whether there are steps left to train.
        private: whether the step is differentially private.

    Raises:
        InputError: the run in the folder is finished and differs from this one, or it goes on with another private step
            or other rows, while epsilon counts all steps alike.

    """
    where, old = visible(saver.folder), record.fingerprint or {}
    why = fingerprint.unknown(old, new)
    parts = " and ".join([] if why else fingerprint.differing(old, new))
    if parts and not going_on:
        raise InputError(
            f"workdir={where}: holds a run that finished at step {step} and differs from this one in {parts}; "
            "give a different workdir, or delete this one"
        )
    if private and going_on:
        if not why and (changed := fingerprint.differing(old, new, ("step", "data"))):
            raise InputError(
                f"workdir={where}: the run before differs from this one in {' and '.join(changed)}, and epsilon would "
                "count its steps like those of this one; use its settings, or a different workdir"
            )
        if why := why or fingerprint.untraced(old, new):
            logger.warning("%s: whether epsilon covers the steps before cannot be told: %s", where, why)
    if parts:
        logger.warning("%s: going on from step %d, but this run differs from the one before in %s", where, step, parts)
    elif not going_on:
        beyond = f", beyond steps={steps}" if step > steps else ""
        why = why or fingerprint.untraced(old, new)
        unsure = f"; whether it is the same run cannot be told: {why}" if why else ""
        logger.warning("%s: finished at step %d%s, nothing trained%s", where, step, beyond, unsure)


def check_names(
    run: CompiledStep, state: State, data: Any, batch_size: int, validate: Any, monitor: str | None
) -> None:
    """Check the names of `validate` and the monitor before the first step.

    Args:
        run: the compiled training step.
        state: the initial state.
        data: the training data.
        batch_size: rows per step.
        validate: the function that `fit` was given, or None.
        monitor: name of the monitored value, or None.

    Raises:
        InputError: a row cannot hold a name that `validate` returns, or no row will have the monitored value.

    """
    values = rehearsal.names(validate, state) if validate else {}
    own = {"step": 0, "seconds": 0.0, **rate(state)}
    known = values is not rehearsal.UNKNOWN
    values = checked(values) if known else {}
    if monitor is None or monitor in own or not (known or monitor.startswith("train/")):
        return
    try:
        batch = rehearsal.batch_of(data, batch_size)
        trained = {} if monitor in values else rehearsal.sums(run, state, batch)
    except Exception:  # compilation reports the fault
        if monitor.startswith("train/"):
            return
        trained = {}
    check_monitor(monitor, {**values, **{f"train/{name}": value for name, value in trained.items()}})


@jax.jit
def copied(state: State) -> State:
    """Copy all leaves of a state in one compiled program."""
    return jax.tree.map(jnp.copy, state)
