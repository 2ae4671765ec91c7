"""Times the way from the command to the first training step: `python -m experiments.benchmarks.startup`.

In the cold case, the caches of compiled programs (those of jaxcnn and torch.compile) are empty. In the warm case, the
same command runs again. The files of the libraries are read once in advance, so that no subject waits for the disk.
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
    """Number of rounds; every subject runs once per round."""
    batch_size: int = 128
    """Rows per step."""
    data: str = ""
    """An .npz file or a folder of IDX files; by default MNIST if TFDS has prepared it, otherwise the embedded
    digits."""


def measure(bench: harness.Bench) -> Iterator[list[report.Row]]:
    """Run every subject's command up to its first step, twice per round: with empty caches, then with full ones."""
    config = bench.config
    if config.batch_size < 1:
        raise InputError(f"--batch-size {config.batch_size}: must be at least 1")
    cases = bench.chosen({"tutorial, cold": 0, "tutorial, warm": 1})
    data = tutorial.load(config.data, 256 if config.smoke else 0)
    rows = len(data["x_train"])
    if config.batch_size > rows // 2:
        raise InputError(f"--batch-size {config.batch_size}: more than half of the {rows} training rows")

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
    """Start a subject twice, with caches that are empty at first.

    Args:
        bench: the benchmark.
        subject: the subject.
        data: file of the data.

    Returns:
        Seconds to the first step and peak memory in MB, of each start.

    """
    with tempfile.TemporaryDirectory(prefix="jaxcnn-benchmark-") as folder:
        return [first_step(bench, subject, data, folder) for _ in range(2)]


def first_step(bench: harness.Bench, subject: str, data: pathlib.Path, folder: str) -> tuple[float, float]:
    """Start a subject's command.

    Args:
        bench: the benchmark.
        subject: the subject.
        data: file of the data.
        folder: folder of its run and its caches.

    Returns:
        Seconds to its first finished step, and its peak memory in MB until then.

    """
    once = ["--max-steps", "1"] if subject == "jaxcnn" else ["--first-step"]
    flags = ["--batch-size", str(bench.config.batch_size), *once]

    def said(line):
        return line.startswith('{"event": "first step"')

    watched = watch(tutorial.command(bench, subject, data, folder, *flags), tutorial.caches(folder), until=said)
    if subject == "jaxcnn":  # validates and tests as well; its summary has the time of the step
        newest = max(pathlib.Path(folder).glob("*/summary.json"), key=lambda path: path.stat().st_mtime)
        at = json.loads(newest.read_text())["first_step_at"] - watched.began
    else:
        at = watched.lines[-1][0]
    return at, watched.peak_memory_mb(at)


if __name__ == "__main__":
    harness.run("startup", Config, tutorial.SUBJECTS, measure)
