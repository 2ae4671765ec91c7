"""Times one training step against PyTorch and JAX's default lowering: `python -m experiments.benchmarks.resnet`.

The networks are ResNet-18 and MobileNet on images of CIFAR's shape. On a GPU, ResNet-50 on 224x224 in bfloat16 is timed
instead, in images per second.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from experiments.benchmarks import harness, report
from jaxcnn import InputError

SUBJECTS = ("jaxcnn", "torch", "torch-compile", "flax")


@dataclasses.dataclass(frozen=True)
class Config(harness.Settings):
    """Time a training step of ResNet-18 and MobileNet, or of ResNet-50 on a GPU."""

    batch_size: int = 0
    """Rows per step; by default 64, or 256 on a GPU."""
    image_size: int = 0
    """Side of the images; by default 32, or 224 on a GPU."""
    width: float = 1.0
    """Share of the networks' channels."""
    steps: int = 0
    """Steps between two readings of the clock, which jaxcnn runs in one dispatch; by default 2, or 20 on a GPU."""


def measure(bench: harness.Bench) -> Iterator[list[report.Row]]:
    """Time the networks for the device."""
    config = bench.config
    for name in ("batch_size", "image_size", "steps"):
        if (value := getattr(config, name)) < 0:
            raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 1, or 0 for the default")
    if not 0 < config.width <= 4:
        raise InputError(f"--width {config.width}: must be above 0 and at most 4")
    cases = bench.chosen(networks(config, bench.rates["device_platform"] == "gpu"))

    def measured() -> Iterator[list[report.Row]]:
        work = harness.work("resnet", cases)
        for name, case in cases.items():
            samples, facts = harness.in_turn(bench, "resnet", name, case, bench.subjects)
            if len({found["parameters"] for found in facts.values()}) > 1:
                harness.say(f"warning: {name}: not the same network: {facts}")
            for found in facts.values():
                found["gflop"] = work[name]["flop"] / 1e9
            floor = harness.floor_seconds(work[name], bench.rates, case["bfloat16"])
            if case["bfloat16"]:
                rates = {s: [case["batch"] / t for t in times] for s, times in samples.items()}
                yield report.make_rows(name, "images/s", rates, facts, case["batch"] / floor)
            else:
                milliseconds = {s: [1e3 * t for t in times] for s, times in samples.items()}
                yield report.make_rows(name, "ms", milliseconds, facts, 1e3 * floor)

    return measured()


def networks(config: Config, gpu: bool) -> dict[str, dict[str, Any]]:
    """Return a dict from name to case."""
    small, side = config.smoke, config.image_size
    case = {
        "width": 0.125 if small else config.width, "steps": config.steps or (20 if gpu and not small else 2),
        "batch": config.batch_size or (4 if small else 256 if gpu else 64), "bfloat16": gpu, "cifar_stem": not gpu,
    }  # fmt: skip
    name, blocks = ("resnet50", (3, 4, 6, 3)) if gpu else ("resnet18", (2, 2, 2, 2))
    if small:  # a dozen layers would take a minute to compile
        name, blocks = "resnet of 1+1 blocks", (1, 1)
    size = side or (8 if small else 224 if gpu else 32)
    shape = f"{size} bfloat16" if gpu else "CIFAR" if size == 32 else f"{size}x{size}"
    case |= {"size": size, "classes": 1000 if gpu else 10}
    cases = {f"{name} {shape} batch {case['batch']}": case | {"blocks": blocks, "bottleneck": gpu}}
    return cases if gpu else cases | {f"mobilenet {shape} batch {case['batch']}": case}


if __name__ == "__main__":
    harness.run("resnet", Config, SUBJECTS, measure)
