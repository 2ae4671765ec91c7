"""Times the tutorial network on MNIST against Keras, PyTorch and Flax: `python -m experiments.benchmarks.mnist`.

Each subject is a whole command. Seconds are scaled to all training images (60,000 of MNIST), because jaxcnn leaves out
its validation rows, and PyTorch and Flax leave out an incomplete last batch. The first epoch is timed from the start of
the command, including imports and compilation.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from experiments.benchmarks import harness, report, tutorial
from jaxcnn import InputError


@dataclasses.dataclass(frozen=True)
class Config(harness.Settings):
    """Train the tutorial network on MNIST, as whole commands."""

    repeats: int = 3
    """Number of rounds; every subject runs once per round."""
    batch_sizes: tuple[int, ...] = (32, 128, 512)
    """Batch sizes; each is a group of cases."""
    epochs: int = 5
    """Passes over the training rows, at least two."""
    data: str = ""
    """An .npz file or a folder of IDX files; by default MNIST if TFDS has prepared it, otherwise the embedded
    digits."""


def measure(bench: harness.Bench) -> Iterator[list[report.Row]]:
    """Time the epochs after the first, the first epoch, and the whole command, at each batch size."""
    if bench.config.smoke:
        bench.config = dataclasses.replace(bench.config, epochs=2, batch_sizes=(32,))
    config = bench.config
    if config.epochs < 2:
        raise InputError(f"--epochs {config.epochs}: must be at least 2; the first is timed separately")
    if min(config.batch_sizes, default=0) < 1:
        raise InputError(f"--batch-sizes {config.batch_sizes}: must be at least 1 each")
    cases = bench.chosen({f"tutorial, batch {b}": b for b in config.batch_sizes})
    data = tutorial.load(config.data, 256 if config.smoke else 0)
    rows = len(data["x_train"])
    if max(cases.values()) > rows // 2:
        raise InputError(f"--batch-sizes {max(cases.values())}: more than half of the {rows} training rows")

    def measured() -> Iterator[list[report.Row]]:
        work = harness.work("mnist", cases)
        with tutorial.as_npz(data) as path:
            for name, batch in cases.items():

                def train(subject, batch=batch):
                    return tutorial.train(bench, subject, path, batch, config.epochs)

                found = tutorial.in_turn(bench, name, train, config.repeats)
                floor = harness.floor_seconds(work[name], bench.rates) * rows / batch
                yield from compare(name, rows, found, work[name]["flop"] * rows / batch, floor)

    return measured()


def compare(
    case: str, rows: int, found: dict[str, Sequence[tutorial.Training]], flop: float, floor: float
) -> Iterator[list[report.Row]]:
    """Make the rows of a batch size.

    Args:
        case: name of the case.
        rows: number of training images.
        found: dict from subject to its trainings.
        flop: work of one epoch.
        floor: least time of one epoch, in seconds.

    """

    def full(epoch):
        return epoch["seconds"] * rows / epoch["images"]

    about = {
        subject: {
            "peak_memory_mb": max(t.watched.peak_memory_mb() for t in trainings),
            "test_accuracy": sum(t.test_accuracy for t in trainings) / len(trainings),
        }
        for subject, trainings in found.items()
    }
    passes = len(next(iter(found.values()))[0].epochs) if found else 0
    for part, n, values in (
        ("", 1, lambda t: [full(epoch) for epoch in t.epochs[1:]]),
        (", first epoch", 1, lambda t: [t.epochs[0]["at"]]),
        (", whole command", passes, lambda t: [t.watched.seconds + sum(full(e) - e["seconds"] for e in t.epochs)]),
    ):
        samples = {subject: [value for t in trainings for value in values(t)] for subject, trainings in found.items()}
        extra = {subject: facts | {"gflop": n * flop / 1e9} for subject, facts in about.items()}
        yield report.make_rows(case + part, "s", samples, extra, n * floor)


if __name__ == "__main__":
    harness.run("mnist", Config, tutorial.SUBJECTS, measure)
