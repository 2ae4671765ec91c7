"""From the flags that every experiment has to a `runs.Plan`, trained into a folder that the flags name."""

import dataclasses
import math
import pathlib
from typing import Any

import numpy as np

import jaxcnn as jc
from experiments import START, settings
from experiments.folders import named, open_folder
from experiments.settings import Settings
from jaxcnn import runs
from jaxcnn.parallel import mesh
from jaxcnn.runs import background
from jaxcnn.runs.plan import MOST_STEPS, layout
from jaxcnn.runs.ready import data_digest
from jaxcnn.runs.signals import Signals

__all__ = ["compiled", "data_digest", "model", "pixel_statistics", "planned", "train"]


def train(name: str, config: Settings, plan: runs.Plan, signals: Signals, opened: list[pathlib.Path]) -> dict[str, Any]:
    """Train, validate, test once with the best weights, and leave everything in the run's folder.

    Args:
        name: of the experiment.
        config: its flags.
        plan: what to train; the flags say the rest.
        signals: asked between dispatches.
        opened: receives the run's folder as soon as there is one, for whoever reports a failure.

    Returns:
        The content of `summary.json`, with arrays as they are.

    Raises:
        DivergedError: the loss is not finite, on training or on test rows.
        UnsavedError: the weights that were tested are not on the disk.
        OSError: nor is the summary.

    """
    with named("--profile"):
        profile = background.Profile(config.profile)
    ready = runs.prepare(planned(name, config, plan))
    ready = ready._replace(notes=[note.replace("batch_size=", "--batch-size ", 1) for note in ready.notes])
    place = str(open_folder(name, config, ready.plan, ready.splits, ready.sha256)) if mesh.share()[0] == 0 else ""
    folder = pathlib.Path(mesh.tell(place))
    opened.append(folder)
    return runs.train_prepared(ready, folder, signals=signals, profile=profile, began=START)


def planned(name: str, config: Settings, plan: runs.Plan) -> runs.Plan:
    """Return the plan with what the flags of every experiment say."""
    data, grads = plan.data, jc.accumulate(config.accumulate)
    if config.limit_examples:
        data = jc.data.Splits(*(runs.limited(part, config.limit_examples) for part in data))
    plan = dataclasses.replace(
        plan, data=data, name=name, unit="images", batch_size=config.batch_size, seed=config.seed, on_nan=config.on_nan,
        eval_batch_size=config.eval_batch_size, patience=config.early_stopping or None, keep_best=config.keep_best,
        save_seconds=config.checkpoint_seconds or None, grads=jc.with_norm(grads) if config.gradient_norm else grads, **_devices(config),
    )  # fmt: skip
    batch, parts = layout(plan)
    width = -(-batch // parts)
    if width % config.accumulate:
        raise jc.InputError(f"--accumulate {config.accumulate}: must divide the {width} rows of a device")
    steps = math.ceil(config.epochs * data.train.size / batch)
    steps = min(steps, config.max_steps) if config.max_steps else steps
    if steps > MOST_STEPS:
        raise jc.InputError(f"--epochs {config.epochs}: {steps:,} updates, and a run has at most {MOST_STEPS:,}; give --max-steps")
    return dataclasses.replace(plan, steps=steps, epochs=config.epochs)


def _devices(config: Settings) -> dict[str, Any]:
    """How steps are compiled, as the flags say."""
    rule = mesh.split_all if config.shard_parameters else None
    return {"strategy": config.strategy, "devices": config.devices or None, "model_devices": config.model_devices, "rule": rule}


def compiled(step: jc.Step, config: Settings, donate: bool = True) -> jc.CompiledStep:
    """Compile a step as the flags say."""
    return jc.compile_step(step, donate=donate, **_devices(config))


def model(name: str, config: Settings, **options: Any) -> dict[str, Any]:
    """What `runs.build` makes a model from: its name, its own options, and those that the flags of every experiment ask for."""
    settings.one_of("--model", name, jc.models.MODELS)
    if config.remat and not hasattr(jc.models.MODELS[name](), "remat"):
        able = [known for known, make in jc.models.MODELS.items() if hasattr(make(), "remat")]
        raise jc.InputError(f"--remat: --model {name} has no stages to compute anew; {', '.join(able)} have")
    return {"name": name, "options": options | settings.PRECISIONS[config.precision] | ({"remat": True} if config.remat else {})}


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
