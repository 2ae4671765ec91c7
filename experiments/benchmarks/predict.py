"""Times prediction against PyTorch, ONNX Runtime and OpenVINO: `python -m experiments.benchmarks.predict`.

Every subject has the same network with the same weights: torchvision's, randomly initialised, exported once by
`torch.onnx.export` and as a `.safetensors` file. All compute in float32. Rows also have the 50th and 95th percentile of
the latency, the seconds from the first import to the first answer, and the largest difference from PyTorch's logits,
relative to the largest logit.
"""

import contextlib
import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from experiments.benchmarks import harness, report
from experiments.benchmarks.subprocess_worker import FailedError, Worker
from jaxcnn import InputError

SUBJECTS = ("jaxcnn", "torch", "torch-compile", "onnxruntime", "openvino", "flax")
NETWORKS = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "convnext_tiny")
TOLERANCE = 1e-3  # of the largest logit; float32 networks of fifty layers differ by about 1e-6


@dataclasses.dataclass(frozen=True)
class Config(harness.Settings):
    """Time the prediction of networks for 224 x 224 images."""

    batch_sizes: tuple[int, ...] = (1, 16)
    """Images per call."""
    image_size: int = 224
    """Side of the images."""
    seconds: float = 2.0
    """Length of a turn; a turn has at least one call."""


def measure(bench: harness.Bench) -> Iterator[list[report.Row]]:
    """Export each network, then time the subjects in turn."""
    config = bench.config
    if config.image_size < 64 or any(n < 1 for n in config.batch_sizes):
        raise InputError(
            f"--image-size {config.image_size} --batch-sizes {config.batch_sizes}: at least 64, and 1 each"
        )
    networks, size = (NETWORKS[:1], 64) if config.smoke else (NETWORKS, config.image_size)
    cases = bench.chosen({
        f"{name} {size} batch {batch}": {"network": name, "batch": batch, "size": size}
        for name in networks for batch in config.batch_sizes
    })  # fmt: skip

    def measured() -> Iterator[list[report.Row]]:
        work = harness.work("predict", cases)
        with tempfile.TemporaryDirectory(prefix="jaxcnn-benchmark-") as folder:
            for name, case in cases.items():
                case |= {"path": str(pathlib.Path(folder) / case["network"])}
                try:
                    export(bench.config.peer_python or sys.executable, case)
                except FailedError as error:
                    bench.give_up(name, "every subject", error)
                    continue
                samples, facts = harness.in_turn(
                    bench, "predict", name, case, bench.subjects, seconds=config.seconds, most=200
                )
                for subject, found in facts.items():
                    found["gflop"] = work[name]["flop"] / 1e9
                    if not found["difference"] < TOLERANCE:
                        harness.say(f"warning: {name}: {subject} differs by {found['difference']:.2g}")
                milliseconds = {s: [1e3 * t for t in times] for s, times in samples.items()}
                floor = 1e3 * harness.floor_seconds(work[name], bench.rates)
                yield report.make_rows(name, "ms", milliseconds, facts, floor)

    return measured()


def export(python: str, case: dict[str, Any]) -> None:
    """Write a network, its images and PyTorch's logits beside `case["path"]`, in a process of its own."""
    with contextlib.closing(Worker(python, "predict", "export")) as worker:
        worker.ask("prepare", case=case)


if __name__ == "__main__":
    harness.run("predict", Config, SUBJECTS, measure)
