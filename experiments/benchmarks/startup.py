"""Seconds from command to first finished training step: `python -m experiments.benchmarks.startup`, cold and warm caches.

Cold: the caches of compiled programs that a subject has (jaxcnn's, torch.compile's) are empty. Warm: the same command again.
The files of the libraries themselves are read once before, so that no subject waits for the disk.
"""

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Iterator

from experiments.benchmarks import harness, report, tutorial
from experiments.benchmarks.subprocess_worker import watch
from jaxcnn import InputError


@dataclasses.dataclass(frozen=True)
class Config(harness.Settings):
    """Time how long a user waits for the first training step."""

    repeats: int = 3
    """Rounds in which every subject has its turn."""
    batch_size: int = 128
    """Rows in the step."""
    data: str = ""
    """An .npz file or a folder of IDX files; by default MNIST where TFDS has it prepared, else the embedded digits."""


def measure(bench: harness.Bench) -> Iterator[list[report.Row]]:
    """Run every subject's command up to its first step, twice a round: with empty caches and again."""
    config = bench.config
    if config.batch_size < 1:
        raise InputError(f"--batch-size {config.batch_size}: must be at least 1")
    cases = bench.chosen({"tutorial, cold": 0, "tutorial, warm": 1})
    data = tutorial.load(config.data, 256 if config.smoke else 0)
    if config.batch_size > len(data["x_train"]) // 2:
        raise InputError(
            f"--batch-size {config.batch_size}: more than half of the {len(data['x_train'])} training rows"
        )

    def measured() -> Iterator[list[report.Row]]:
        (work,) = harness.work("mnist", {"step": config.batch_size}).values()
        with tutorial.as_npz(data) as path:

            def command(subject):
                return cold_and_warm(bench, subject, path)

            if not config.smoke:
                tutorial.in_turn(bench, "tutorial", command, rounds=1)
            found = tutorial.in_turn(bench, "tutorial", command, config.repeats)
        for name, part in cases.items():
            samples = {s: [run[part][0] for run in runs] for s, runs in found.items()}
            extra = {
                s: {"peak_memory_mb": max(run[part][1] for run in runs), "gflop": work["flop"] / 1e9}
                for s, runs in found.items()
            }
            yield report.make_rows(name, "s", samples, extra, harness.floor_seconds(work, bench.rates))

    return measured()


def cold_and_warm(bench: harness.Bench, subject: str, data: pathlib.Path) -> list[tuple[float, float]]:
    """Start a subject twice with caches that are empty at first: seconds to the first step and peak memory in MB of each."""
    with tempfile.TemporaryDirectory(prefix="jaxcnn-benchmark-") as folder:
        return [first_step(bench, subject, data, folder) for _ in range(2)]


def first_step(bench: harness.Bench, subject: str, data: pathlib.Path, folder: str) -> tuple[float, float]:
    """Start a subject's command: seconds to its first finished step, and the peak of its memory up to then."""
    flags = [
        "--batch-size",
        str(bench.config.batch_size),
        *(["--max-steps", "1"] if subject == "jaxcnn" else ["--first-step"]),
    ]

    def said(line):
        return line.startswith('{"event": "first step"')

    watched = watch(tutorial.command(bench, subject, data, folder, *flags), tutorial.caches(folder), until=said)
    if subject == "jaxcnn":  # goes on to validate and test; its summary tells when the step was done
        newest = max(pathlib.Path(folder).glob("*/summary.json"), key=lambda path: path.stat().st_mtime)
        at = json.loads(newest.read_text())["first_step_at"] - watched.began
    else:
        at = watched.lines[-1][0]
    return at, watched.peak_memory_mb(at)


if __name__ == "__main__":
    harness.run("startup", Config, tutorial.SUBJECTS, measure)
