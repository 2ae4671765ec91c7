"""Measures the training step of `experiments.imagenet`: `python -m experiments.benchmarks.accelerator`.

It prints one JSON line: images per second from the data and from rows that are on the devices already, the share of the
time that is lost to input, the FLOP per image (counted in the default lowering, a multiply-add as two), and their share
of the peak of the devices (MFU). On several devices or processes it measures all of them together.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

import jaxcnn as jc
from experiments import cli, common, imagenet
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.parallel import mesh
from jaxcnn.runs.signals import Signals

# peaks of dense bfloat16 products in TFLOP/s, from the data sheets, by the beginning of `device_kind`
PEAKS = {
    "NVIDIA H100": 989, "NVIDIA H200": 989, "NVIDIA A100": 312, "NVIDIA L4": 121, "NVIDIA L40S": 362,
    "Tesla V100": 125, "Tesla T4": 65, "TPU v2": 46, "TPU v3": 123, "TPU v4": 275, "TPU v5 lite": 197, "TPU v5": 459,
    "TPU v6 lite": 918,
}  # fmt: skip
WARM_UP = 3  # dispatches that do not count


@dataclasses.dataclass(frozen=True)
class Config(imagenet.Config):
    """Measure a training step: images per second, time lost to input, and MFU."""

    dataset: str = "synthetic"
    """A TFDS name or an image folder; by default invented photos in memory."""
    precision: str = "bf16"
    """What the network computes in: float32 or bf16."""
    max_steps: int = 200
    """Number of updates to measure, from each kind of data."""
    peak_tflops: float = 0.0
    """Peak of one device in TFLOP/s; by default that of its data sheet, if it is known."""


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> dict[str, Any]:
    """Measure and print."""
    del opened
    if config.evaluate or config.predict or config.resume:
        raise jc.InputError("--evaluate, --predict, --resume: belong to experiments.imagenet; this only measures")
    if config.peak_tflops < 0:
        raise jc.InputError(f"--peak-tflops {config.peak_tflops}: must be positive, or 0 for the data sheet's")
    ready = runs.prepare(common.planned("imagenet", config, imagenet.plan(config)))
    batch = ready.plan.batch_size
    read = images_per_second(ready, ready.splits.train, signals)
    held = images_per_second(ready, on_device(ready.splits.train, batch), signals)
    flop = flop_per_image(ready, batch)
    device = jax.devices()[0]
    peak = 1e12 * (config.peak_tflops or known_peak(device.device_kind)) * ready.run.devices
    found = {
        "device": device.device_kind, "devices": ready.run.devices, "processes": mesh.process_shard()[1],
        "model": config.model, "precision": config.precision, "batch_size": batch, "images_per_second": read,
        "images_per_second_without_input": held, "time_lost_to_input": max(1 - read / held, 0.0),
        "gflop_per_image": flop / 1e9, "mfu": flop * read / peak if peak else None,
    }  # fmt: skip
    if mesh.process_shard()[0] == 0:
        print(files.to_json(found), flush=True)
    return found


def images_per_second(ready: runs.Ready, data: Any, signals: Signals) -> float:
    """Train from the initial state, and divide the rows by the seconds after the first dispatches."""
    plan, rows, seconds = ready.plan, 0, 0.0
    updates = jc.updates(ready.run, ready.state, data, batch_size=plan.batch_size, steps=plan.steps, stop=signals.stop)
    for i, update in enumerate(updates):
        if i >= WARM_UP or update.last == plan.steps and not rows:
            rows, seconds = rows + (update.last - update.first + 1) * plan.batch_size, seconds + update.seconds
    return rows / seconds


def on_device(data: Any, batch_size: int) -> jc.data.Resident:
    """Return a data set of the training rows' shape that stays on the devices."""
    example = data.chunk(1, 0, 1, 1).at(0)
    rng, (_, *shape) = np.random.default_rng(0), example["image"].shape
    image = rng.integers(0, 256, (batch_size, *shape), dtype=np.uint8)
    return jc.data.Resident({"image": image, "label": rng.integers(0, len(data.classes), batch_size)}, data.classes)


def flop_per_image(ready: runs.Ready, batch_size: int) -> float:
    """Count the FLOP of a training step in the default lowering, before compilation, without augmentation."""
    rows = on_device(ready.splits.train, 1).arrays
    batch = {name: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype) for name, x in rows.items()}
    step = jc.make_train_step(ready.plan.task, ready.plan.optimizer(1))
    with jc.ops.native_lowering():
        cost = jax.jit(step).lower(jax.eval_shape(lambda: ready.state), batch).cost_analysis()
    return cost["flops"] / batch_size


def known_peak(kind: str) -> float:
    """Return the peak of a device in TFLOP/s, 0 if it is not known."""
    return next((float(PEAKS[name]) for name in sorted(PEAKS, key=len, reverse=True) if kind.startswith(name)), 0.0)


if __name__ == "__main__":
    cli.run(main, Config, "benchmarks.accelerator", imagenet.PRESETS)
