"""What every experiment shares: a plan trained into a run's folder, and evaluation and prediction of such a run."""

import contextlib
import dataclasses
import functools
import importlib
import logging
import math
import pathlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import optax

import jaxcnn as jc
from experiments import START, settings
from experiments.folders import named, open_folder
from experiments.settings import Settings
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.parallel import mesh
from jaxcnn.parallel.compile import choose_devices, empty, resolve
from jaxcnn.runs import background, folders, results
from jaxcnn.runs.logs import Log
from jaxcnn.runs.screen import Screen
from jaxcnn.runs.signals import Signals
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


@dataclasses.dataclass(frozen=True)
class Plan:
    """What an experiment wants trained: everything but the flags above.

    Attributes:
        dataset: name for the summary.
        splits: the data.
        build: what `runs.build` makes model and task from, with `"image": {"shape", "dtype"}` and `"ema"`.
        optimizer: number of steps to an optax transform.
        wrap: what to put around the training step.
        skipped: examples that could not be read.
        variables: where to begin; None for new ones.
        task: what to change of the task that `build` describes.
        prepare: what training and evaluation read instead of the splits, such as features that were computed once.
        validations: how often to validate and save at most; 0 for once an epoch, however short.
        best: test the weights with the lowest validation loss, not the last ones.
        source: how the data were read, for whoever reads them again, as `runs.source` describes it.

    """

    dataset: str
    splits: jc.data.Splits
    build: dict[str, Any]
    optimizer: Callable[[int], optax.GradientTransformation]
    wrap: Callable[[jc.Step], jc.Step] = lambda step: step
    skipped: settings.Skipped = dataclasses.field(default_factory=settings.Skipped)
    variables: Any = None
    task: Callable[[jc.Task], jc.Task] = lambda task: task
    prepare: Callable[[jc.data.Splits], jc.data.Splits] = lambda splits: splits
    validations: int = 0
    best: bool = True
    source: dict[str, Any] | None = None


def train(name: str, config: Settings, plan: Plan, signals: Signals, opened: list[pathlib.Path]) -> dict[str, Any]:
    """Train, validate, test once with the best weights, and leave everything in the run's folder.

    Args:
        name: of the experiment.
        config: its flags.
        plan: what to train.
        signals: asked between dispatches.
        opened: receives the run's folder as soon as there is one, for whoever reports a failure.

    Returns:
        The content of `summary.json`, with arrays as they are.

    Raises:
        DivergedError: the loss is not finite, on training or on test rows.
        UnsavedError: the weights that were tested are not on the disk.
        OSError: nor is the summary.

    """
    background.return_memory()  # what reading the data took
    with named("--profile"):
        profile = background.Profile(config.profile)
    requested, chief = config, mesh.share()[0] == 0
    config, splits, notes = _fitted(config, plan)
    per_epoch = splits.train.size / config.batch_size
    steps = _steps(config, per_epoch)
    with ThreadPoolExecutor(1) as thread:
        hashing = thread.submit(data_digest, splits.train)
        splits = plan.prepare(splits)
        state, run, ev = _prepared(config, plan, splits, max(steps, 1))
    place = str(open_folder(name, requested, plan, splits, hashing.result())) if chief else ""
    folder = pathlib.Path(mesh.tell(place))
    opened.append(folder)
    try:
        for note in [*notes, _rows(plan, splits), _chosen(config, run)] if chief else ():
            log.warning(note)
        described = files.read_bytes(folder / "config.json") if chief else b""
        splits = splits._replace(train=dataclasses.replace(splits.train, seed=config.seed))
        if jax.default_backend() != "cpu":  # there the rows are in the device's memory already
            splits = splits._replace(valid=splits.valid.placed(ev.hold))
        lines, first = Log(folder, per_epoch), []
        fitted = _fit(config, plan, splits, (state, run, ev), steps, folder, signals, profile, lines if chief else None, first)
        values, seconds = jc.timed_evaluate(ev, _weights(fitted.best), splits.test, batch_size=config.eval_batch_size)
        params = digest(flatten(fitted.state.params))  # all processes have a part
        if not chief:
            return {}
        values = results.tested(values)
        began = first or (None, None)
        summary = _summary(name, config, plan, splits, run, fitted) | {"test": values, "params_sha256": params}
        summary |= {"seconds_to_first_step": began[0], "first_step_at": began[1], "checkpoint": str(folder)}
        _leave(folder, described, summary, plan, signals, lines, seconds, fitted)
    finally:
        folders.release(folder)
    return summary


def _fit(
    config: Settings, plan: Plan, splits: jc.data.Splits, prepared: tuple[jc.State, jc.Run, jc.Run], steps: int, folder: pathlib.Path,
    signals: Signals, profile: background.Profile, lines: Log | None, first: list[float],
) -> jc.Fit:  # fmt: skip
    """Train; `first` receives when the first step ended, and only a process with `lines` shows and logs anything."""
    (state, run, ev), per_epoch = prepared, splits.train.size / config.batch_size
    screen = Screen(steps, config.batch_size)

    def validate(state: jc.State) -> dict[str, Any]:
        measured = jc.timed_evaluate(ev, _weights(state), splits.valid, batch_size=config.eval_batch_size, stop=signals.stop)
        return {f"validation/{k}": v for k, v in measured[0].items()} | {"validation/seconds": measured[1]}

    def progress(at: int, values: dict[str, Any]) -> None:
        if not first:
            first.extend((time.perf_counter() - START, time.time()))
            _get_ready(ev, _weights(state), splits.valid, config.eval_batch_size)
        profile.dispatch()
        screen.dispatch(at, values)

    def record(row: dict[str, Any]) -> None:
        lines.row(row)
        screen.row(row)

    with signals.while_training(), screen if lines else contextlib.nullcontext(), profile:
        return jc.fit(
            run,
            state,
            splits.train,
            batch_size=config.batch_size,
            steps=steps,
            every=max(per_epoch, steps / plan.validations if plan.validations else 0),
            validate=validate,
            monitor="validation/loss" if plan.best or config.early_stopping else None,
            patience=config.early_stopping or None,
            workdir=folder / "checkpoints",
            save_seconds=config.checkpoint_seconds or None,
            keep_best=config.keep_best,
            on_nan="rollback" if config.on_nan == "rollback" else "stop",
            log=record if lines else None,
            progress=progress if lines else None,
            stop=signals.stop,
        )


def _leave(
    folder: pathlib.Path, described: bytes, summary: dict[str, Any], plan: Plan, signals: Signals, lines: Log, seconds: float,
    fitted: jc.Fit,
) -> None:  # fmt: skip
    """Write what the run found, and only then draw; say what is missing or wrong."""
    values, step = summary["test"], int(fitted.best.step)
    print(results.line(values, folder), flush=True)
    folders.restore(folder, described)
    rate = fitted.history[-1].get("learning_rate", 0.0) if fitted.history else 0.0
    lines.line("test", step, seconds, rate, {k: v for k, v in values.items() if k != "accuracy_interval"})
    lines.write()
    if step:
        folders.check_saved(folder, step)
    with signals.while_training():  # a signal comes before the summary or after it
        results.write(folder, summary, plan.skipped)
    results.draw(folder, lines.rows, values, plan.splits.train.classes)
    if not results.sound(values):
        raise jc.DivergedError(f"the loss on the test rows is {values['loss']}; try a lower --learning-rate", step, step)


def _steps(config: Settings, per_epoch: float) -> int:
    """Return the number of updates."""
    steps = math.ceil(config.epochs * per_epoch)
    steps = min(steps, config.max_steps) if config.max_steps else steps
    if steps > settings.MOST_STEPS:
        raise jc.InputError(f"--epochs {config.epochs}: {steps:,} updates, and a run has at most {settings.MOST_STEPS:,}; give --max-steps")
    return steps


def _rows(plan: Plan, splits: jc.data.Splits) -> str:
    """Say what became what, with numbers."""
    train, valid, test = (f"{part.size:,}" for part in splits)
    return f"data {plan.dataset}: {train} rows to train on, {valid} to validate on, {test} to test on, {len(splits.train.classes)} classes"


def model(name: str, config: Settings, **options: Any) -> dict[str, Any]:
    """What `runs.build` makes a model from: its name, its own options, and those that the flags of every experiment ask for."""
    settings.one_of("--model", name, jc.models.MODELS)
    if config.remat and not hasattr(jc.models.MODELS[name](), "remat"):
        able = [known for known, make in jc.models.MODELS.items() if hasattr(make(), "remat")]
        raise jc.InputError(f"--remat: --model {name} has no stages to compute anew; {', '.join(able)} have")
    return {"name": name, "options": options | settings.PRECISIONS[config.precision] | ({"remat": True} if config.remat else {})}


def _get_ready(ev: jc.Run, variables: Any, valid: Any, batch_size: int) -> None:
    """Do beside training what the first validation, save and plot would wait for: their imports, and compiling the evaluation."""

    def compile_evaluation() -> None:
        if ev.devices == 1:  # programs that talk between devices must not be started by two threads
            ev.call(ev.put(variables), empty(ev.place(next(valid.once(batch_size)))))

    background.meanwhile(
        background.return_memory, *(functools.partial(importlib.import_module, name) for name in LATER), compile_evaluation
    )


def _prepared(config: Settings, plan: Plan, splits: jc.data.Splits, steps: int) -> tuple[jc.State, jc.Run, jc.Run]:
    """Make the first state and compile the training and evaluation steps."""
    task = plan.task(runs.build(plan.build)[1])
    tx, decay = plan.optimizer(steps), plan.build.get("ema")
    grads = jc.accumulate(config.accumulate)
    step = plan.wrap(jc.make_train_step(task, tx, jc.with_norm(grads) if config.gradient_norm else grads))
    step = jc.with_ema(step, decay) if decay else step
    step = jc.skip_nonfinite(step) if config.on_nan == "skip" else step
    begin = lambda batch, variables: jc.init_state(task, tx, batch, config.seed, variables)  # noqa: E731
    begin_all = lambda *given: jc.start_ema(begin(*given)) if decay else begin(*given)  # noqa: E731
    state = jax.jit(begin_all, compiler_options=_once())(splits.train.example(), plan.variables)
    return state, compiled(step, config), compiled(jc.make_eval_step(task), config, donate=False)


def compiled(step: jc.Step, config: Settings, donate: bool = True) -> jc.Run:
    """Compile a step as the flags say."""
    rule = mesh.split_all if config.shard_parameters else None
    return jc.compile_step(step, config.strategy, config.devices or None, donate, model_devices=config.model_devices, rule=rule)


def _chosen(config: Settings, run: jc.Run) -> str:
    """Say what runs where, and why."""
    platform, processes = jax.devices()[0].platform, mesh.share()[1]
    why = "one device" if run.devices == 1 else f"{run.devices} devices"
    asked = f"strategy auto: {run.strategy}, because there " if config.strategy == "auto" else f"strategy {run.strategy}: there "
    across = f" in {processes} processes" if processes > 1 else ""
    rows = f", a batch in {run.parts} parts" if run.parts > 1 else ""
    kept = (
        ", parameters divided"
        if config.shard_parameters
        else f", output channels in {config.model_devices}"
        if run.parts < run.devices
        else ""
    )
    return f"{asked}{'is' if run.devices == 1 else 'are'} {why} ({platform}){across}{rows}{kept}"


def _once() -> dict[str, Any] | None:
    """Options for a program that runs only once: on a CPU, compiling it well takes a second or two longer than running it."""
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None


def _weights(state: jc.State) -> Any:
    """Return what is validated and tested: the averaged weights where there are any."""
    return state.extras.get("ema", state.variables)


def _summary(name: str, config: Settings, plan: Plan, splits: jc.data.Splits, run: jc.Run, fitted: jc.Fit) -> dict[str, Any]:
    steps, best_step = int(fitted.state.step), int(fitted.best.step)
    train_seconds = sum(row["seconds"] for row in fitted.history)
    best = next((row for row in fitted.history if row["step"] == best_step), {})
    return {
        "experiment": name,
        "dataset": plan.dataset,
        "model": plan.build["model"]["name"],
        "parameters": sum(x.size for x in jax.tree.leaves(fitted.state.params)),
        "devices": run.devices,
        "strategy": run.strategy,
        "platform": jax.devices()[0].platform,
        "seed": config.seed,
        "train_rows": splits.train.size,
        "steps": steps,
        "epochs": steps * config.batch_size / splits.train.size,
        "train_seconds": train_seconds,
        "images_per_second": steps * config.batch_size / train_seconds if train_seconds else None,
        "best_step": best_step,
        "validation": {k.removeprefix("validation/"): v for k, v in best.items() if k.startswith("validation/")},
        "skipped_examples": plan.skipped.examples,
        "skipped_batches": round(sum(row.get("train/skipped", 0) for row in fitted.history)),
    }


def _fitted(config: Settings, plan: Plan) -> tuple[Settings, jc.data.Splits, list[str]]:
    """Adapt limits to the data and the devices; what was changed comes back as lines to print."""
    splits, notes = plan.splits, []
    if config.limit_examples:
        splits = jc.data.Splits(*(runs.limited(part, config.limit_examples) for part in splits))
    chosen = choose_devices(config.devices or None, config.strategy)
    resolve(config.strategy, chosen, config.shard_parameters or config.model_devices > 1)
    parts = max(len(chosen) // config.model_devices, 1)
    batch = config.batch_size
    if batch > splits.train.size:
        batch = splits.train.size
        notes.append(f"--batch-size {config.batch_size}: lowered to the {batch} training rows")
    width = -(-batch // parts)
    if batch % parts:
        notes.append(f"--batch-size {batch}: padded to {width * parts} rows for {parts} devices; padding counts nowhere")
    if width % config.accumulate:
        raise jc.InputError(f"--accumulate {config.accumulate}: must divide the {width} rows of a device")
    return dataclasses.replace(config, batch_size=batch), splits, notes


def data_digest(data: Any) -> str | None:
    """SHA-256 of rows in memory; streamed ones are known by their number alone."""
    return digest(data.arrays) if hasattr(data, "arrays") else None


def pixel_statistics(data: Any, rows: int = 10_000) -> dict[str, list[float]]:
    """Mean and deviation of the training pixels, one a channel, in 0..1; of about `rows` rows where they are streamed."""
    if hasattr(data, "arrays"):
        image = data.arrays["image"]
        parts = (image[i : i + 1024] for i in range(0, len(image), 1024))
    else:
        size = min(64, data.size)
        parts = (np.asarray(data.chunk(size, t, 1, 1).at(0)["image"]) for t in range(max(min(rows, data.size) // size, 1)))
    n, total, square = 0, 0.0, 0.0
    for part in parts:
        pixels = part.reshape(-1, part.shape[-1]).astype(np.float64) / (255 if part.dtype == np.uint8 else 1)
        n, total, square = n + len(pixels), total + pixels.sum(0), square + np.square(pixels).sum(0)
    mean = total / n
    std = np.sqrt(np.maximum(square / n - np.square(mean), 1e-6))
    return {"mean": mean.round(6).tolist(), "std": std.round(6).tolist()}
