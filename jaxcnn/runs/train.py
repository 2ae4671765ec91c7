"""`train_run` trains a plan into a folder (config, log, checkpoints, summary, pictures), or goes on there."""

import contextlib
import dataclasses
import functools
import importlib
import logging
import pathlib
import time
from typing import Any, cast

import jax

from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, State, scalars
from jaxcnn.data import Splits
from jaxcnn.parallel import mesh
from jaxcnn.parallel.compile import empty
from jaxcnn.runs import background, folders, results
from jaxcnn.runs.load import read_config
from jaxcnn.runs.logs import Log
from jaxcnn.runs.plan import Plan
from jaxcnn.runs.ready import Ready, describe, prepare
from jaxcnn.runs.screen import Screen
from jaxcnn.runs.signals import Signals
from jaxcnn.train import (
    DivergedError,
    Fit,
    fit,
    timed_evaluate,
)
from jaxcnn.train.checkpoint import digest, flatten

log = logging.getLogger("jaxcnn")
# what the end of an epoch, or of the run, imports
LATER = (
    "orbax.checkpoint",
    "tensorboardX.proto.event_pb2",
    "tensorboardX.record_writer",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
)


def train_run(
    plan: Plan, folder: str | pathlib.Path, *, signals: Signals | None = None, show: bool = True
) -> dict[str, Any]:
    """Train a plan into a folder, or go on there where a run was cut off.

    The folder gets `config.json`, `metrics.jsonl`, TensorBoard events, `checkpoints/`, `summary.json` and pictures. A
    run that is
    finished is not trained again: its summary comes back, with a line that says so.

    Args:
        plan: what to train.
        folder: of this run alone, made if absent.
        signals: asked between dispatches whether to stop; None leaves SIGTERM and Ctrl-C as they are.
        show: show progress, and print the result.

    Returns:
        The content of `summary.json`, with arrays as they are; nothing in processes other than the first.

    Raises:
        InputError: a value out of range, or a folder that cannot be written, is another run's or is in use.
        DivergedError: the loss is not finite, on training or on test rows.
        StoppedError: a signal came; the run is saved, and the same call goes on.
        UnsavedError: the weights that were tested are not on the disk.
        OSError: nor is the summary.

    """
    ready, folder, found, trouble = prepare(plan), pathlib.Path(folder), None, ""
    if mesh.process_shard()[0] == 0:
        try:
            found = _opened(ready, folder)
        except InputError as error:
            trouble = str(error)
    if trouble := mesh.broadcast_text(trouble):  # all processes refuse
        raise InputError(trouble)
    if mesh.broadcast_text("finished" if found else ""):
        return found or {}
    return train_prepared(ready, folder, signals=signals, show=show)


def train_prepared(
    ready: Ready,
    folder: pathlib.Path,
    *,
    signals: Signals | None = None,
    show: bool = True,
    profile: background.Profile | None = None,
    began: float | None = None,
    tell: bool = True,
    columns: int | None = None,
) -> dict[str, Any]:
    """Train, validate, test once, and leave everything in a folder that has its `config.json` and is locked.

    Args:
        ready: what `prepare` made.
        folder: of the run, as `folders.begin` or `folders.again` left it; it is released in any case.
        signals: asked between dispatches.
        show: show progress, and print the result.
        profile: of a few dispatches.
        began: when the program began, by `time.perf_counter`; by default now.
        tell: log rows and devices first, and print the result last; False for a caller that says so itself.
        columns: at which lines on the screen are wrapped; by default nowhere.

    Returns:
        The summary, as `train_run`.

    Raises:
        DivergedError: as `train_run`, as are the other errors.

    """
    plan, chief = ready.plan, mesh.process_shard()[0] == 0
    began = time.perf_counter() if began is None else began
    try:
        for note in [*ready.notes, _rows(plan, ready.splits), _chosen(ready)] if chief and tell else ():
            log.warning(note)
        described = files.read_bytes(folder / "config.json") if chief else b""
        splits = ready.splits
        if dataclasses.is_dataclass(ready.splits.train):  # data of another kind keep the order that they have
            splits = splits._replace(train=dataclasses.replace(splits.train, seed=plan.seed))
        if jax.default_backend() != "cpu":  # there the rows are in the device's memory already
            splits = splits._replace(valid=splits.valid.put(ready.ev.replicate))
        lines, first = Log(folder, splits.train.size / plan.batch_size), []
        fitted = _fit(
            ready._replace(splits=splits),
            folder,
            signals,
            profile,
            lines if chief else None,
            show,
            first,
            began,
            columns,
        )
        weights = _weights(fitted.best)
        values, seconds = timed_evaluate(ready.ev, weights, splits.test, batch_size=plan.eval_batch_size)
        params = digest(flatten(fitted.state.params))  # all processes have a part
        if not chief:
            return {}
        values = results.tested(values, plan.task.shares)
        summary = _summary(ready, fitted) | {"test": values, "params_sha256": params}
        summary |= dict(zip(("seconds_to_first_step", "first_step_at"), first or (None, None), strict=True)) | {
            "checkpoint": str(folder)
        }
        _leave(plan, folder, described, summary, signals, lines, seconds, fitted, show and tell)
    finally:
        folders.release(folder)
    return summary


def _opened(ready: Ready, folder: pathlib.Path) -> dict[str, Any] | None:
    """Make the folder or go on in it; the summary of a run that is finished."""
    folders.check_path(folder)
    config = describe(ready.plan, ready.splits, ready.sha256)
    if not (folder / "config.json").exists():
        taken = [name for name in ("checkpoints", "metrics.jsonl", "summary.json") if (folder / name).exists()]
        if taken:
            raise InputError(f"{visible(folder)}: has {taken[0]}, but no config.json; give a folder that is new")
        folders.begin(folder, config)
    elif not (folder / "summary.json").exists():
        folders.again(folder, config["data"])
    else:
        before = read_config(folder)
        folders.check_data(folder, before, config["data"])
        for name in ("settings", "build", "task"):
            if before.get(name) != files.plain(config[name]):
                raise InputError(
                    f"{visible(folder)} is finished, and its config.json has other {name}; give another folder"
                )
        log.warning("%s is finished: it is not trained again", visible(folder))
        return files.read_json(folder / "summary.json")
    return None


def _fit(
    ready: Ready, folder: pathlib.Path, signals: Signals | None, profile: background.Profile | None, lines: Log | None, show: bool,
    first: list[float], began: float, columns: int | None = None,
) -> Fit:  # fmt: skip
    """Train; `first` receives when the first step ended, and only a process with `lines` shows and logs anything."""
    plan, splits, steps = ready.plan, ready.splits, cast(int, ready.plan.steps)  # `prepare` settled them
    screen = Screen(steps, plan.batch_size, plan.shown, plan.unit, columns) if lines and show else None
    every, (monitor, mode) = splits.train.size / plan.batch_size, plan.watched
    stop = signals.stop if signals else None

    def validate(state: State) -> dict[str, Any]:
        measured = timed_evaluate(ready.ev, _weights(state), splits.valid, batch_size=plan.eval_batch_size, stop=stop)
        return {f"validation/{k}": v for k, v in measured[0].items()} | {"validation/seconds": measured[1]}

    def progress(at: int, values: dict[str, Any]) -> None:
        if not first:
            first.extend((time.perf_counter() - began, time.time()))
            _get_ready(ready, splits.valid)
        if profile:
            profile.dispatch()
        if screen:
            screen.dispatch(at, values)

    def record(row: dict[str, Any]) -> None:
        if lines:
            lines.row(row)
        if screen:
            screen.row(row)

    nothing = contextlib.nullcontext()
    with signals.while_training() if signals else nothing, screen or nothing, profile or nothing:
        return fit(
            ready.run,
            ready.state,
            splits.train,
            batch_size=plan.batch_size,
            steps=steps,
            every=max(every, steps / plan.validations if plan.validations else 0),
            validate=validate,
            monitor=f"validation/{monitor}" if plan.best or plan.patience else None,
            mode=mode,
            patience=plan.patience,
            workdir=folder / "checkpoints",
            save_seconds=plan.save_seconds,
            keep_best=plan.keep_best,
            on_nan="rollback" if plan.on_nan == "rollback" else "stop",
            log=record if lines else None,
            progress=progress if lines else None,
            stop=stop,
        )


def _leave(
    plan: Plan, folder: pathlib.Path, described: bytes, summary: dict[str, Any], signals: Signals | None, lines: Log, seconds: float,
    fitted: Fit, show: bool,
) -> None:  # fmt: skip
    """Write what the run found, and only then draw; say what is missing or wrong."""
    values, step = summary["test"], int(fitted.best.step)
    if missing := [name for name in plan.shown if name not in values]:
        log.warning(
            "headline: %s is not measured; the metrics are %s", visible(missing[0]), visible(", ".join(scalars(values)))
        )
    if show:
        print(results.line(values, folder, plan.shown, plan.unit), flush=True)
    folders.restore(folder, described)
    rate = fitted.history[-1].get("learning_rate", 0.0) if fitted.history else 0.0
    lines.line("test", step, seconds, rate, {k: v for k, v in values.items() if not k.endswith("_interval")})
    lines.write()
    if step:
        folders.check_saved(folder, step)
    with (
        signals.while_training() if signals else contextlib.nullcontext()
    ):  # a signal comes before the summary or after it
        results.write(folder, summary, plan.skipped)
    results.draw(folder, lines.rows, values, plan.data.train.classes, plan.shown, plan.drawn)
    if not results.sound(values):
        raise DivergedError(f"the loss on the test rows is {values['loss']}; try a lower learning rate", step, step)


def _get_ready(ready: Ready, valid: Any) -> None:
    """Import and compile, beside training, what the first validation, save and plot would wait for."""
    ev, variables = ready.ev, _weights(ready.state)

    def compile_evaluation() -> None:
        if ev.devices == 1:  # programs that talk between devices must not be started by two threads
            ev.call(ev.put(variables), empty(ev.shard(next(valid.once(ready.plan.eval_batch_size)))))

    imports = (functools.partial(importlib.import_module, name) for name in LATER)
    background.meanwhile(background.return_memory, *imports, compile_evaluation)


def _rows(plan: Plan, splits: Splits) -> str:
    """Say what became what, with numbers."""
    train, valid, test = (f"{part.size:,}" for part in splits)
    classes = f", {len(splits.train.classes)} classes" if splits.train.classes else ""
    return f"data {plan.dataset}: {train} rows to train on, {valid} to validate on, {test} to test on{classes}"


def _chosen(ready: Ready) -> str:
    """Say what runs where, and why."""
    plan, run = ready.plan, ready.run
    place, processes = jax.devices()[0].platform, mesh.process_shard()[1]
    why = "one device" if run.devices == 1 else f"{run.devices} devices"
    asked = (
        f"strategy auto: {run.strategy}, because there "
        if plan.strategy == "auto"
        else f"strategy {run.strategy}: there "
    )
    across = f" in {processes} processes" if processes > 1 else ""
    rows = f", a batch in {run.parts} parts" if run.parts > 1 else ""
    channels = f", output channels in {plan.model_devices}" if run.parts < run.devices else ""
    kept = ", parameters divided" if plan.rule else channels
    return f"{asked}{'is' if run.devices == 1 else 'are'} {why} ({place}){across}{rows}{kept}"


def _weights(state: State) -> Any:
    """Return what is validated and tested: the averaged weights where there are any."""
    return state.extras.get("ema", state.variables)


def _summary(ready: Ready, fitted: Fit) -> dict[str, Any]:
    plan, run, rows = ready.plan, ready.run, ready.splits.train.size
    steps, best_step = int(fitted.state.step), int(fitted.best.step)
    train_seconds = sum(row["seconds"] for row in fitted.history)
    best = scalars(next((row for row in fitted.history if row["step"] == best_step), {}))
    return {
        "experiment": plan.name,
        "dataset": plan.dataset,
        "model": plan.build["model"]["name"] if plan.build else plan.name,
        "parameters": sum(x.size for x in jax.tree.leaves(fitted.state.params)),
        "devices": run.devices,
        "strategy": run.strategy,
        "platform": jax.devices()[0].platform,
        "seed": plan.seed,
        "train_rows": rows,
        "steps": steps,
        "epochs": steps * plan.batch_size / rows,
        "train_seconds": train_seconds,
        f"{plan.unit}_per_second": steps * plan.batch_size / train_seconds if train_seconds else None,
        "best_step": best_step,
        "validation": {k.removeprefix("validation/"): v for k, v in best.items() if k.startswith("validation/")},
        "skipped_examples": plan.skipped.examples,
        "skipped_batches": round(sum(row.get("train/skipped", 0) for row in fitted.history)),
    }
