"""`train_run` trains a plan into a folder (config, log, checkpoints, summary, pictures), or resumes there."""

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
from jaxcnn.core.types import InputError, State, reason, scalars
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
from jaxcnn.train import DivergedError, Fit, fit, timed_evaluate
from jaxcnn.train.checkpoint import Checkpoints, digest, flatten
from jaxcnn.train.fingerprint import differing, unknown
from jaxcnn.train.resume import described_by

log = logging.getLogger("jaxcnn")
# modules that the end of an epoch or of the run needs
LATER = (
    "orbax.checkpoint", "tensorboardX.proto.event_pb2", "tensorboardX.record_writer", "matplotlib.figure",
    "matplotlib.backends.backend_agg",
)  # fmt: skip


def train_run(
    plan: Plan, folder: str | pathlib.Path, *, signals: Signals | None = None, show: bool = True
) -> dict[str, Any]:
    """Train a plan into a folder, or resume an interrupted run there.

    The folder gets `config.json`, `metrics.jsonl`, TensorBoard events, `checkpoints/`, `summary.json` and pictures. A
    finished run is not trained again: its summary is returned, and a line in the log says so.

    Args:
        plan: what to train.
        folder: folder for this run, created if absent.
        signals: polled between dispatches, to stop at a signal; None leaves SIGTERM and Ctrl-C unchanged.
        show: whether to show the progress and print the result.

    Returns:
        The content of `summary.json`, with arrays as NumPy arrays; an empty dict in every process but the first.

    Raises:
        InputError: A value is out of range; or the folder cannot be written, belongs to a different run or is in use.
        DivergedError: The loss on training or test rows is not finite.
        StoppedError: A signal arrived. The run is saved, and the same call resumes it.
        UnsavedError: The tested weights are not on disk.
        OSError: The summary could not be written.

    """
    ready, folder, found, trouble = prepare(plan), pathlib.Path(folder), None, ""
    if mesh.process_shard()[0] == 0:
        try:
            found = _opened(ready, folder)
        except InputError as error:
            trouble = str(error)
    if trouble := mesh.broadcast_text(trouble):  # all processes raise, so that none waits for the others
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
    """Train, validate, test once, and write the results into a locked folder that has its `config.json`.

    Args:
        ready: result of `prepare`.
        folder: folder of the run, locked by `folders.begin` or `folders.again`; it is unlocked at the end.
        signals: polled between dispatches, to stop at a signal.
        show: whether to show the progress and print the result.
        profile: profile of a few dispatches.
        began: start of the program by `time.perf_counter`; by default now.
        tell: whether to log the data and the devices first and print the result last.
        columns: width at which lines on the screen are wrapped; None for no wrapping.

    Returns:
        The content of `summary.json`, see `train_run`.

    Raises:
        DivergedError: The loss is not finite. Other errors are as in `train_run`.

    """
    plan, chief = ready.plan, mesh.process_shard()[0] == 0
    began = time.perf_counter() if began is None else began
    try:
        for note in [*ready.notes, _rows(plan, ready.splits), _chosen(ready)] if chief and tell else ():
            log.warning(note)
        described = files.read_bytes(folder / "config.json") if chief else b""
        splits = _ordered(ready)
        if jax.default_backend() != "cpu":  # on a CPU the rows are in the device's memory already
            splits = splits._replace(valid=splits.valid.put(ready.ev.replicate))
        lines, first, ready = Log(folder, splits.train.size / rows_of_update(plan)), [], ready._replace(splits=splits)
        fitted = _fit(ready, folder, signals, profile, lines if chief else None, show, first, began, columns)
        weights = _weights(fitted.best)
        values, seconds = timed_evaluate(ready.ev, weights, splits.test, batch_size=plan.eval_batch_size)
        params = digest(flatten(fitted.state.params))  # every process takes part
        if not chief:
            return {}
        values = results.tested(values, plan.task.shares)
        summary = _summary(ready, fitted) | {"test": values, "params_sha256": params}
        summary |= dict(zip(("seconds_to_first_step", "first_step_at"), first or (None, None), strict=True))
        summary["checkpoint"] = str(folder)
        _leave(plan, folder, described, summary, signals, lines, seconds, fitted, show and tell)
    finally:
        folders.release(folder)
    return summary


def _ordered(ready: Ready) -> Splits:
    """Return the data, their training rows in the order of the plan's seed; data of the user's own keep their order."""
    train = ready.splits.train
    if not dataclasses.is_dataclass(train):
        return ready.splits
    return ready.splits._replace(train=dataclasses.replace(train, seed=ready.plan.seed))  # pyright: ignore[reportArgumentType]


def _opened(ready: Ready, folder: pathlib.Path) -> dict[str, Any] | None:
    """Create the folder, or reopen it to resume; return the summary if the run is finished."""
    folders.check_path(folder)
    config = describe(ready.plan, ready.splits, ready.sha256)
    if not (folder / "config.json").exists():
        taken = [name for name in ("checkpoints", "metrics.jsonl", "summary.json") if (folder / name).exists()]
        if taken:
            raise InputError(f"{visible(folder)}: has {taken[0]}, but no config.json; give a new folder")
        folders.begin(folder, config)
    elif not (folder / "summary.json").exists():
        before = folders.again(folder, config["data"])
        try:
            _go_on_with(folder, before, config)
        except BaseException:
            folders.release(folder)
            raise
    else:
        before = read_config(folder)
        folders.check_data(folder, before, config["data"])
        for name in ("settings", "build", "task"):
            if before.get(name) != files.plain(config[name]):
                raise InputError(
                    f"{visible(folder)} is finished, and its config.json has different {name}; give another folder"
                )
        _check_same(ready, folder)
        log.warning("%s is finished: it is not trained again", visible(folder))
        return files.read_json(folder / "summary.json")
    return None


def _go_on_with(folder: pathlib.Path, before: dict[str, Any], config: dict[str, Any]) -> None:
    """Refuse to resume with another network; write other settings, such as more epochs, into `config.json`."""
    for name in ("build", "task"):
        if name in before and before[name] != files.plain(config[name]):  # older runs name no task
            line = f"{visible(folder)} was started with a different {name} (see its config.json)"
            raise InputError(f"{line}; resume with the same one, or give another folder")
    if before.get("settings") != files.plain(config["settings"]):
        try:
            files.write_json(folder / "config.json", {**before, "settings": config["settings"]})
        except OSError as error:
            line = f"{visible(folder)}: config.json cannot be written ({reason(error)})"
            raise InputError(f"{line}; free disk space, or resume with the same settings") from error


def _check_same(ready: Ready, folder: pathlib.Path) -> None:
    """Refuse another step, optimiser, state or data than those of a finished run, as `fit` does."""
    if mesh.process_shard()[1] > 1:
        return
    found = Checkpoints(folder / "checkpoints", read_only=True).newest()
    old = (found[2] or {}).get("fingerprint") if found else None
    new = described_by(ready.run, ready.state, _ordered(ready).train, ready.plan.batch_size)()
    if not unknown(old, new) and (parts := differing(old or {}, new)):
        line = f"{visible(folder)} is finished, and differs from this run in {' and '.join(parts)}"
        raise InputError(f"{line}; give another folder")


def _fit(
    ready: Ready, folder: pathlib.Path, signals: Signals | None, profile: background.Profile | None, lines: Log | None,
    show: bool, first: list[float], began: float, columns: int | None = None,
) -> Fit:  # fmt: skip
    """Train. `first` receives the time of the first step; only a process with `lines` shows and logs anything."""
    plan, splits, steps = ready.plan, ready.splits, cast(int, ready.plan.steps)  # `prepare` has set the steps
    screen = Screen(steps, rows_of_update(plan), plan.shown, plan.unit, columns) if lines and show else None
    every, (monitor, mode) = plan.every or splits.train.size / rows_of_update(plan), plan.watched
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
    plan: Plan, folder: pathlib.Path, described: bytes, summary: dict[str, Any], signals: Signals | None, lines: Log,
    seconds: float, fitted: Fit, show: bool,
) -> None:  # fmt: skip
    """Print the result, write the log and the summary, and only then draw, which may fail."""
    values, step = summary["test"], int(fitted.best.step)
    trained = {k.removeprefix("train/") for k in (fitted.history[-1] if fitted.history else ())}
    if missing := [name for name in plan.shown if name not in values and name not in trained]:
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
    with signals.while_training() if signals else contextlib.nullcontext():  # a signal must not interrupt the writing
        results.write(folder, summary, plan.skipped)
    results.draw(folder, lines.rows, values, plan.data.train.classes, plan.shown, plan.drawn)
    if not results.sound(values):
        raise DivergedError(f"the loss on the test rows is {values['loss']}; try a lower learning rate", step, step)


def _get_ready(ready: Ready, valid: Any) -> None:
    """Import and compile in the background what the first validation, save and plot need."""
    ev, variables = ready.ev, _weights(ready.state)

    def compile_evaluation() -> None:
        if ev.devices == 1:  # two threads must not start programs that communicate between devices
            ev.call(ev.put(variables), empty(ev.shard(next(valid.once(ready.plan.eval_batch_size)))))

    imports = (functools.partial(importlib.import_module, name) for name in LATER)
    background.meanwhile(background.return_memory, *imports, compile_evaluation)


def _rows(plan: Plan, splits: Splits) -> str:
    """Return a line with the data set and the sizes of its parts."""
    train, valid, test = (f"{part.size:,}" for part in splits)
    classes = f", {len(splits.train.classes)} classes" if splits.train.classes else ""
    return f"data {plan.dataset}: {train} rows to train on, {valid} to validate on, {test} to test on{classes}"


def _chosen(ready: Ready) -> str:
    """Return a line with the strategy, the devices and how batch and parameters are divided."""
    plan, run = ready.plan, ready.run
    place, processes = jax.devices()[0].platform, mesh.process_shard()[1]
    why = "is one device" if run.devices == 1 else f"are {run.devices} devices"
    asked = f"auto: {run.strategy}, because there" if plan.strategy == "auto" else f"{run.strategy}: there"
    across = f" in {processes} processes" if processes > 1 else ""
    rows = f", a batch in {run.parts} parts" if run.parts > 1 else ""
    channels = f", output channels in {plan.model_devices}" if run.parts < run.devices else ""
    kept = ", parameters divided" if plan.rule else channels
    return f"strategy {asked} {why} ({place}){across}{rows}{kept}"


def _weights(state: State) -> Any:
    """Return the variables to validate and test: the averaged weights if there are any."""
    return state.extras.get("ema", state.variables)


def rows_of_update(plan: Plan) -> float:
    """Return how many rows an update reads; a batch of clients has those of its clients."""
    own = getattr(plan.data.train, "rows_of_update", None)
    return own(plan.batch_size) if own else plan.batch_size


def _summary(ready: Ready, fitted: Fit) -> dict[str, Any]:
    plan, run, rows = ready.plan, ready.run, ready.splits.train.size
    steps, best_step = int(fitted.state.step), int(fitted.best.step)
    train_seconds = sum(row["seconds"] for row in fitted.history)
    last = scalars(fitted.history[-1]) if fitted.history else {}
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
        **({"private": True} if getattr(plan.grads, "private", False) else {}),
        "train_rows": rows,
        "steps": steps,
        "epochs": steps * rows_of_update(plan) / rows,
        "train_seconds": train_seconds,
        f"{plan.unit}_per_second": steps * rows_of_update(plan) / train_seconds if train_seconds else None,
        "best_step": best_step,
        "train": {k.removeprefix("train/"): v for k, v in last.items() if k.startswith("train/")},
        "validation": {k.removeprefix("validation/"): v for k, v in best.items() if k.startswith("validation/")},
        "skipped_examples": plan.skipped.examples,
        "skipped_batches": round(sum(row.get("train/skipped", 0) for row in fitted.history)),
    }
