"""Times single operations against PyTorch and JAX's default lowering: `python -m experiments.benchmarks.ops`."""

import dataclasses
import statistics
from collections.abc import Iterator
from typing import Any

from experiments.benchmarks import harness, report

SUBJECTS = ("jaxcnn", "torch", "flax")


@dataclasses.dataclass(frozen=True)
class Config(harness.Settings):
    """Time single operations, forward and with gradients of all arguments."""


def conv(x: tuple[int, ...], kernel: tuple[int, ...], **options: Any) -> dict[str, Any]:
    """Describe a convolution, by default with the padding that keeps the size at stride 1."""
    return {"op": "conv", "x": x, "kernel": kernel, "padding": kernel[0] // 2, **options}


def depthwise(x: tuple[int, ...], size: int, **options: Any) -> dict[str, Any]:
    """Describe a depthwise convolution."""
    return conv(x, (size, size, 1, x[-1]), **options) | {"op": "depthwise", "groups": x[-1]}


def transposed(x: tuple[int, ...], kernel: tuple[int, ...], **options: Any) -> dict[str, Any]:
    """Describe a transposed convolution."""
    return {"op": "conv_transpose", "x": x, "kernel": kernel, "strides": 2, **options}


CASES = {
    "max_pool 2x2 [128,28,28,32]": {"op": "max_pool", "x": (128, 28, 28, 32), "window": 2, "strides": 2},
    "avg_pool 2x2 [128,28,28,32]": {"op": "avg_pool", "x": (128, 28, 28, 32), "window": 2, "strides": 2},
    "max_pool 3x3 s2 p1 [32,56,56,64]": {
        "op": "max_pool",
        "x": (32, 56, 56, 64),
        "window": 3,
        "strides": 2,
        "padding": 1,
    },  # fmt: skip
    "conv 3x3 1>32 [128,28,28]": conv((128, 28, 28, 1), (3, 3, 1, 32)),
    "conv 3x3 3>64 [64,32,32]": conv((64, 32, 32, 3), (3, 3, 3, 64)),
    "conv 3x3 64>64 [64,32,32]": conv((64, 32, 32, 64), (3, 3, 64, 64)),
    "conv 3x3 32>64 [128,14,14]": conv((128, 14, 14, 32), (3, 3, 32, 64)),
    "conv 3x3 128>128 [64,16,16]": conv((64, 16, 16, 128), (3, 3, 128, 128)),
    "conv 3x3 256>256 [64,8,8]": conv((64, 8, 8, 256), (3, 3, 256, 256)),
    "conv 3x3 512>512 [64,4,4]": conv((64, 4, 4, 512), (3, 3, 512, 512)),
    "conv 3x3 s2 64>128 [64,32,32]": conv((64, 32, 32, 64), (3, 3, 64, 128), strides=2),
    "conv 1x1 256>64 [32,28,28]": conv((32, 28, 28, 256), (1, 1, 256, 64)),
    "conv 7x7 s2 3>64 [8,224,224]": conv((8, 224, 224, 3), (7, 7, 3, 64), strides=2),
    "depthwise 3x3 C=32 [64,32,32]": depthwise((64, 32, 32, 32), 3),
    "depthwise 3x3 C=256 [32,14,14]": depthwise((32, 14, 14, 256), 3),
    "depthwise 3x3 s2 C=32 [64,32,32]": depthwise((64, 32, 32, 32), 3, strides=2),
    "depthwise 3x3 s2 C=256 [32,14,14]": depthwise((32, 14, 14, 256), 3, strides=2),
    "depthwise 7x7 C=96 [16,28,28]": depthwise((16, 28, 28, 96), 7),
    "grouped 3x3 32 groups of 4 [32,28,28,128]": conv((32, 28, 28, 128), (3, 3, 4, 128), groups=32),
    "conv_transpose 2x2 s2 64>32 [16,32,32]": transposed((16, 32, 32, 64), (2, 2, 64, 32)),
    "conv_transpose 4x4 s2 p1 64>32 [16,32,32]": transposed((16, 32, 32, 64), (4, 4, 64, 32), padding=1),
    "conv1d k5 128>128 [64,60]": conv((64, 60, 128), (5, 128, 128)),
    "conv3d 3x3x3 8>16 [8,16,28,28]": conv((8, 16, 28, 28, 8), (3, 3, 3, 8, 16)),
    "conv3d 3x3x3 16>32 [8,16,28,28]": conv((8, 16, 28, 28, 16), (3, 3, 3, 16, 32)),
}
SMOKE = {
    "max_pool 2x2 [2,8,8,4]": {"op": "max_pool", "x": (2, 8, 8, 4), "window": 2, "strides": 2},
    "conv 3x3 4>8 [2,8,8]": conv((2, 8, 8, 4), (3, 3, 4, 8)),
}


def measure(bench: harness.Bench) -> Iterator[list[report.Row]]:
    """Time the cases, and compare our results with the default lowering's and every subject's loss with the others'."""
    cases = bench.chosen(SMOKE if bench.config.smoke else CASES)

    def measured() -> Iterator[list[report.Row]]:
        work = harness.work("ops", cases)
        for name, case in cases.items():
            samples, facts = harness.in_turn(bench, "ops", name, case, bench.subjects, most=100)
            middle = statistics.median(found["value"] for found in facts.values()) if facts else 0.0
            for subject, found in facts.items():
                if abs(found.pop("value") - middle) > 1e-2 * abs(middle):
                    harness.say(f"warning: {name}: {subject} computes different values")
                found["gflop"] = work[name]["flop"] / 1e9
            milliseconds = {s: [1e3 * t for t in times] for s, times in samples.items()}
            floor = 1e3 * harness.floor_seconds(work[name], bench.rates)
            yield report.make_rows(name, "ms", milliseconds, facts, floor)

    return measured()


if __name__ == "__main__":
    harness.run("ops", Config, SUBJECTS, measure)
