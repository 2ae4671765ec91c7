"""Apply shared flags to a `runs.Plan` (data, batches, steps, devices, saving); describe models for `runs.build`."""

import dataclasses
import math
from typing import Any

import numpy as np

from jaxcnn import runs
from jaxcnn.cli import flags
from jaxcnn.core.types import CompiledStep, InputError, Step
from jaxcnn.data import Splits
from jaxcnn.models import NETWORKS
from jaxcnn.parallel import mesh
from jaxcnn.parallel.compile import compile_step
from jaxcnn.runs.plan import MOST_STEPS, layout
from jaxcnn.train import accumulate, plain, with_norm


def planned(name: str, config: Any, plan: runs.Plan) -> runs.Plan:
    """Return a plan updated by the shared flags.

    Args:
        name: name of the command or experiment, saved with the run.
        config: its flags, with the groups `Length`, `Rows`, `Update`, `Layout` and `Saving`.
        plan: what to train.

    Raises:
        InputError: accumulation that does not divide the batch, or of a plan with its own gradient estimator; too many
            steps, or unavailable devices.

    """
    if config.accumulate > 1 and plan.grads is not plain:
        raise InputError(
            f"--accumulate {config.accumulate}: {name} has its own gradient estimator; leave --accumulate out"
        )
    data, grads = plan.data, accumulate(config.accumulate) if plan.grads is plain else plan.grads
    if config.limit_examples:
        data = Splits(*(runs.limited(part, config.limit_examples) for part in data))
    unit = "images" if plan.unit == "rows" else plan.unit
    plan = dataclasses.replace(
        plan, data=data, name=name, unit=unit, batch_size=config.batch_size, seed=config.seed, on_nan=config.on_nan,
        eval_batch_size=config.eval_batch_size, patience=config.early_stopping or None, keep_best=config.keep_best,
        save_seconds=config.checkpoint_seconds or None, grads=with_norm(grads) if config.gradient_norm else grads,
        **layout_of(config),
    )  # fmt: skip
    batch, parts = layout(plan)
    width = -(-batch // parts)
    if width % config.accumulate:
        raise InputError(f"--accumulate {config.accumulate}: must divide the {width} rows of a device")
    steps = math.ceil(config.epochs * data.train.size / batch)
    steps = min(steps, config.max_steps) if config.max_steps else steps
    if steps > MOST_STEPS:
        raise InputError(
            f"--epochs {config.epochs}: {steps:,} updates, but a run has at most {MOST_STEPS:,}; give --max-steps"
        )
    if plan.patience and plan.validations:  # of the flag in epochs, between which there may be no validation
        each = max(1.0, steps * batch / data.train.size / plan.validations)
        plan = dataclasses.replace(plan, patience=math.ceil(plan.patience / each))
    return dataclasses.replace(plan, steps=steps, epochs=config.epochs)


def layout_of(config: Any) -> dict[str, Any]:
    """Return the options of `compile_step` that the flags set."""
    rule = mesh.split_all if config.shard_parameters else None
    devices = config.devices or None
    return {"strategy": config.strategy, "devices": devices, "model_devices": config.model_devices, "rule": rule}


def compiled(step: Step, config: Any) -> CompiledStep:
    """Compile a step with the options that the flags set."""
    return compile_step(step, **layout_of(config))


def model(name: str, config: Any, **options: Any) -> dict[str, Any]:
    """Describe a model for `runs.build`.

    Args:
        name: a key of `NETWORKS`.
        config: flags of the group `Update`.
        **options: options of the model itself.

    Raises:
        InputError: an unknown name, or a flag that the model does not support.

    """
    flags.one_of("--model", name, NETWORKS)
    if config.remat and not hasattr(NETWORKS[name](), "remat"):
        able = [known for known, make in NETWORKS.items() if hasattr(make(), "remat")]
        raise InputError(f"--remat: --model {name} has no stages to recompute; use one of {', '.join(able)}")
    options |= flags.PRECISIONS[config.precision] | ({"remat": True} if config.remat else {})
    return {"name": name, "options": options}


def pixel_statistics(data: Any, rows: int = 10_000) -> dict[str, list[float]]:
    """Return mean and standard deviation of the training pixels per channel, in 0..1.

    Args:
        data: the training rows.
        rows: approximate number of rows to read, if they are streamed.

    """
    if hasattr(data, "arrays"):
        image = data.arrays["image"]
        parts = (image[i : i + 1024] for i in range(0, len(image), 1024))
    else:
        size = min(64, data.size)
        chunks = (data.chunk(size, t, 1, 1) for t in range(max(min(rows, data.size) // size, 1)))
        parts = (np.asarray(chunk.at(0)["image"]) for chunk in chunks)
    n, total, square = 0, np.zeros(1), np.zeros(1)
    for part in parts:
        pixels = part.reshape(-1, part.shape[-1]).astype(np.float64) / (255 if part.dtype == np.uint8 else 1)
        n, total, square = n + len(pixels), total + pixels.sum(0), square + np.square(pixels).sum(0)
    mean = total / n
    std = np.sqrt(np.maximum(square / n - np.square(mean), 1e-6))
    return {"mean": mean.round(6).tolist(), "std": std.round(6).tolist()}
