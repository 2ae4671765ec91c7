"""How fit begins: at the newest sound checkpoint or anew, after names and, in a folder that was used before, the run were compared."""

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
    """Return where to begin, and whether that is a checkpoint: the newest sound one, else a copy of the state given.

    It is copied because the buffers will be donated.
    """
    if saver and (found := saver.newest(state)):
        return *_resume(run, state, record, saver, found), True
    return run.put(copied(state)), record, None, False


def roll_back(
    error: DivergedError, run: CompiledStep, first: State, record: Record, saver: Checkpoints | None
) -> tuple[State, Record, Any]:
    """Go back to the newest checkpoint; once it is known which batch it went wrong with, that one is left out from there on."""
    if saver:
        saver.wait()
    state, back, best, _ = begin(run, first, record.again(), saver)
    found = error.first == error.last
    back.skipped_batches = [*record.skipped_batches, *([[error.first - 1, 1]] if found else [])]
    how = f"without the batch of step {error.first}" if found else "one batch at a time, to find the one"
    logger.warning("%s; back to step %d, %s", error, int(state.step), how)
    return state, back, best


def _resume(
    run: CompiledStep, state: State, record: Record, saver: Checkpoints, found: tuple
) -> tuple[State, Record, State | None]:
    step, flat, loop = found
    saved, going = restored(loop, record, step), unflatten(state, flat)
    if int(going.step) != step:
        raise InputError(
            f"resume: checkpoint {step} in {visible(saver.folder)} has the state of step {int(going.step)}; remove it"
        )
    best = None
    if saved.best_step is not None:
        try:
            best = (
                going
                if saved.best_step == step
                else unflatten(state, saver.load(saved.best_step, state, rows=False)[0])
            )
        except DamagedError as error:
            logger.warning(
                "the best checkpoint, %d, is damaged (%s): the best is sought anew from here", saved.best_step, error
            )
            saved.best = saved.best_step = None
    logger.info("going on from step %d", step)
    return run.put(going), saved, best


def described_by(run: CompiledStep, state: State, data: Any, batch_size: int) -> Callable[[], dict[str, Any]]:
    """Begin a fingerprint: the step is traced here, which compiling it then need not do, and the rest is done on a thread."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="fingerprint")
    found = thread.submit(fingerprint.describe(run, state, data, rehearsal.abstract(data.example(), batch_size)))
    thread.shutdown(wait=False)
    return found.result


def compare(saver: Checkpoints, record: Record, new: dict[str, Any], step: int, steps: int, going_on: bool) -> None:
    """Refuse a finished run that is not the one asked for; else say that it is finished, or what an unfinished one goes on with."""
    where, old = visible(saver.folder), record.fingerprint or {}
    why = fingerprint.unknown(old, new)
    parts = " and ".join([] if why else fingerprint.differing(old, new))
    if parts and not going_on:
        raise InputError(
            f"workdir={where}: holds a run that finished at step {step} and differs from this one in {parts}; "
            "give another workdir, or delete this one"
        )
    if parts:
        logger.warning("%s: going on from step %d, but not with the same as before: new is %s", where, step, parts)
    elif not going_on:
        beyond = f", beyond steps={steps}" if step > steps else ""
        why = why or fingerprint.untraced(old, new)
        unsure = f"; whether it is the same run cannot be told: {why}" if why else ""
        logger.warning("%s: finished at step %d%s, nothing trained%s", where, step, beyond, unsure)


def check_names(
    run: CompiledStep, state: State, data: Any, batch_size: int, validate: Any, monitor: str | None
) -> None:
    """Refuse, before the first step, names that a row cannot hold, and a monitor that no row will have."""
    values = rehearsal.names(validate, state) if validate else {}
    own = {"step": 0, "seconds": 0.0, **rate(state)}
    known = values is not rehearsal.UNKNOWN
    values = checked(values) if known else {}
    if monitor is None or monitor in own or not (known or monitor.startswith("train/")):
        return
    try:
        trained = (
            {} if monitor in values else rehearsal.sums(run, state, rehearsal.abstract(data.example(), batch_size))
        )
    except Exception:  # compiling says what is wrong with the step
        if monitor.startswith("train/"):
            return
        trained = {}
    check_monitor(monitor, {**values, **{f"train/{name}": value for name, value in trained.items()}})


@jax.jit
def copied(state: State) -> State:
    """Copy a state, all its leaves in one program."""
    return jax.tree.map(jnp.copy, state)
