"""From shared flags to a `runs.Plan`: its data, batches, steps, devices and saving; and what a model is described by."""

import dataclasses
import math
from typing import Any

import numpy as np

from jaxcnn import runs
from jaxcnn.cli import flags
from jaxcnn.core.types import CompiledStep, InputError, Step
from jaxcnn.data import Splits
from jaxcnn.models import MODELS
from jaxcnn.parallel import mesh
from jaxcnn.parallel.compile import compile_step
from jaxcnn.runs.plan import MOST_STEPS, layout
from jaxcnn.train import accumulate, with_norm


def planned(name: str, config: Any, plan: runs.Plan) -> runs.Plan:
    """Return a plan with what the shared flags say.

    Args:
        name: of the command or experiment, kept with the run.
        config: its flags, with the groups `Length`, `Rows`, `Update`, `Layout` and `Saving`.
        plan: what to train.

    Raises:
        InputError: parts of a batch that do not divide it, too many steps, or devices that cannot be had.

    """
    data, grads = plan.data, accumulate(config.accumulate)
    if config.limit_examples:
        data = Splits(*(runs.limited(part, config.limit_examples) for part in data))
    plan = dataclasses.replace(
        plan, data=data, name=name, unit="images", batch_size=config.batch_size, seed=config.seed, on_nan=config.on_nan,
        eval_batch_size=config.eval_batch_size, patience=config.early_stopping or None, keep_best=config.keep_best,
        save_seconds=config.checkpoint_seconds or None, grads=with_norm(grads) if config.gradient_norm else grads, **layout_of(config),
    )  # fmt: skip
    batch, parts = layout(plan)
    width = -(-batch // parts)
    if width % config.accumulate:
        raise InputError(f"--accumulate {config.accumulate}: must divide the {width} rows of a device")
    steps = math.ceil(config.epochs * data.train.size / batch)
    steps = min(steps, config.max_steps) if config.max_steps else steps
    if steps > MOST_STEPS:
        raise InputError(
            f"--epochs {config.epochs}: {steps:,} updates, and a run has at most {MOST_STEPS:,}; give --max-steps"
        )
    return dataclasses.replace(plan, steps=steps, epochs=config.epochs)


def layout_of(config: Any) -> dict[str, Any]:
    """Say how steps are compiled: options of `compile_step` from the flags."""
    rule = mesh.split_all if config.shard_parameters else None
    return {
        "strategy": config.strategy,
        "devices": config.devices or None,
        "model_devices": config.model_devices,
        "rule": rule,
    }


def compiled(step: Step, config: Any, donate: bool = True) -> CompiledStep:
    """Compile a step as the flags say."""
    return compile_step(step, donate=donate, **layout_of(config))


def model(name: str, config: Any, **options: Any) -> dict[str, Any]:
    """Describe a model for `runs.build`.

    Args:
        name: of `MODELS`.
        config: flags of the group `Update`.
        options: of the model itself.

    Raises:
        InputError: an unknown name, or a flag that the model has no use for.

    """
    flags.one_of("--model", name, MODELS)
    if config.remat and not hasattr(MODELS[name](), "remat"):
        able = [known for known, make in MODELS.items() if hasattr(make(), "remat")]
        raise InputError(f"--remat: --model {name} has no stages to compute anew; {', '.join(able)} have")
    return {
        "name": name,
        "options": options | flags.PRECISIONS[config.precision] | ({"remat": True} if config.remat else {}),
    }


def pixel_statistics(data: Any, rows: int = 10_000) -> dict[str, list[float]]:
    """Return mean and deviation of the training pixels per channel, in 0..1; of about `rows` rows where they are streamed."""
    if hasattr(data, "arrays"):
        image = data.arrays["image"]
        parts = (image[i : i + 1024] for i in range(0, len(image), 1024))
    else:
        size = min(64, data.size)
        parts = (
            np.asarray(data.chunk(size, t, 1, 1).at(0)["image"]) for t in range(max(min(rows, data.size) // size, 1))
        )
    n, total, square = 0, np.zeros(1), np.zeros(1)
    for part in parts:
        pixels = part.reshape(-1, part.shape[-1]).astype(np.float64) / (255 if part.dtype == np.uint8 else 1)
        n, total, square = n + len(pixels), total + pixels.sum(0), square + np.square(pixels).sum(0)
    mean = total / n
    std = np.sqrt(np.maximum(square / n - np.square(mean), 1e-6))
    return {"mean": mean.round(6).tolist(), "std": std.round(6).tolist()}
