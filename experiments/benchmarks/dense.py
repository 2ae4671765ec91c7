"""Times segmentation and detection against PyTorch: `python -m experiments.benchmarks.dense`.

A training step and a prediction of a U-Net in two and in three dimensions, and of FCOS on a ResNet-18, whose peer is
torchvision's. Predictions of FCOS go to boxes, suppression included.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from experiments.benchmarks import harness, report

SUBJECTS = ("jaxcnn", "torch", "torch-compile", "flax")


@dataclasses.dataclass(frozen=True)
class Config(harness.Settings):
    """Time a training step and a prediction of a U-Net in two and three dimensions, and of FCOS."""

    repeats: int = 3
    """Number of rounds; every subject runs once per round."""


def measure(bench: harness.Bench) -> Iterator[list[report.Row]]:
    """Time the networks."""
    cases = bench.chosen(networks(bench.config.smoke))

    def measured() -> Iterator[list[report.Row]]:
        work = harness.work("dense", cases)
        for name, case in cases.items():
            subjects = [s for s in bench.subjects if s != "torch-compile" or case["network"] == "unet"]
            samples, facts = harness.in_turn(bench, "dense", name, case, subjects)
            if len({found["parameters"] for found in facts.values()}) > 1:
                harness.say(f"warning: {name}: not the same network: {facts}")
            for found in facts.values():
                found["gflop"] = work[name]["flop"] / 1e9
            milliseconds = {s: [1e3 * t for t in times] for s, times in samples.items()}
            yield report.make_rows(
                name, "ms", milliseconds, facts, 1e3 * harness.floor_seconds(work[name], bench.rates)
            )

    return measured()


def networks(small: bool) -> dict[str, dict[str, Any]]:
    """Return a dict from name to case."""
    cases = {
        "U-Net 2-D": {
            "network": "unet", "shape": (32, 32) if small else (256, 256), "channels": 3, "classes": 11,
            "widths": (4, 8) if small else (32, 64, 128, 256), "batch": 2 if small else 4,
        },
        "U-Net 3-D": {
            "network": "unet", "shape": (8, 8, 8) if small else (48, 48, 48), "channels": 1, "classes": 3,
            "widths": (4, 8) if small else (16, 32, 64), "batch": 2,
        },
        "FCOS": {
            "network": "fcos", "shape": (64, 64) if small else (256, 256), "channels": 3, "classes": 3,
            "width": 32 if small else 128, "batch": 2 if small else 4,
        },
    }  # fmt: skip
    return {
        f"{name} {'x'.join(map(str, case['shape']))} batch {case['batch']}, {what}": case | {"training": training}
        for name, case in cases.items()
        for what, training in (("step", True), ("prediction", False))
    }


if __name__ == "__main__":
    harness.run("dense", Config, SUBJECTS, measure)
