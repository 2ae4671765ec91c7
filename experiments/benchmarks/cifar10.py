"""Times the speed network on CIFAR-10 against PyTorch: `python -m experiments.benchmarks.cifar10 --data FOLDER`.

Both are whole commands that train the same network with the recipe of `experiments.cifar10`, once for each seed.
Seconds are scaled to all training images, because jaxcnn leaves out its validation rows. The first epoch is timed from
the start of the command.
"""

import dataclasses
import itertools
import json
import pathlib
import sys
import tempfile
from collections.abc import Iterator

import numpy as np

import jaxcnn as jc
from experiments import cifar10, mnist
from experiments.benchmarks import harness, report, tutorial
from experiments.benchmarks.mnist import compare
from experiments.benchmarks.subprocess_worker import start_of, watch

SUBJECTS = ("jaxcnn", "torch")
RECIPE = (
    "widths", "learning_rate", "momentum", "muon", "weight_decay", "bias_rate", "label_smoothing", "ema", "flip",
    "shift",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(harness.Settings):
    """Train the speed network on CIFAR-10, as whole commands."""

    repeats: int = 3
    """Number of rounds; every subject runs once per round, with the seeds 0, 1, ..."""
    epochs: int = 5
    """Passes over the training rows, at least two."""
    widths: tuple[int, ...] = ()
    """Channels of each stage; by default the network's own."""
    data: str = "cifar10"
    """Like --dataset of experiments.cifar10: an image folder, an .npz file, or any TFDS name."""


def measure(bench: harness.Bench) -> Iterator[list[report.Row]]:
    """Time the epochs after the first, the first epoch, and the whole command."""
    config, flags = bench.config, cifar10.Config(dataset=bench.config.data, widths=bench.config.widths)
    if config.smoke:
        config = dataclasses.replace(config, epochs=2)
        flags = dataclasses.replace(flags, widths=(8, 8, 8), batch_size=64)
    if config.epochs < 2:
        raise jc.InputError(f"--epochs {config.epochs}: must be at least 2; the first is timed separately")
    flags = dataclasses.replace(flags, widths=flags.widths or tuple(jc.models.speednet().widths))
    data = load(flags, 256 if config.smoke else 0)
    rows, seeds = len(data["x_train"]), {subject: itertools.count() for subject in bench.subjects}
    name = f"speednet {'/'.join(map(str, flags.widths))}, batch {flags.batch_size}, {config.epochs} epochs"
    (case,) = bench.chosen({name: None})

    def measured() -> Iterator[list[report.Row]]:
        work = harness.work("cifar10", {case: {"widths": flags.widths, "batch": flags.batch_size}})[case]
        with tutorial.as_npz(data) as path:

            def once(subject):
                return train(bench, subject, path, flags, config.epochs, next(seeds[subject]))

            found = tutorial.in_turn(bench, case, once, config.repeats)
        floor = harness.floor_seconds(work, bench.rates) * rows / flags.batch_size
        yield from compare(case, rows, found, work["flop"] * rows / flags.batch_size, floor)

    return measured()


def train(
    bench: harness.Bench, subject: str, data: pathlib.Path, flags: cifar10.Config, epochs: int, seed: int
) -> tutorial.Training:
    """Train and test with one subject, as its user would on the command line.

    Args:
        bench: the benchmark.
        subject: the subject.
        data: file of the data.
        flags: network and recipe.
        epochs: passes over the training rows.
        seed: seed of the training.

    """
    shared = ["--epochs", str(epochs), "--batch-size", str(flags.batch_size), "--seed", str(seed)]
    with tempfile.TemporaryDirectory(prefix="jaxcnn-benchmark-") as workdir:
        if subject == "jaxcnn":
            own = ["--widths", *map(str, flags.widths), "--workdir", workdir]
            own += ["--compilation-cache", f"{workdir}/programs"]
            command = [sys.executable, "-m", "experiments.cifar10", "--dataset", str(data), *own, *shared]
        else:
            recipe = json.dumps({name: getattr(flags, name) for name in RECIPE})
            start = start_of(bench.python(subject), "peers.cifar10", own=False)
            command = [*start, "--data", str(data), "--recipe", recipe, *shared]
        found = tutorial.trained(watch(command, tutorial.caches(workdir)), subject, workdir)
    seconds = sum(epoch["seconds"] for epoch in found.epochs)
    harness.say(f"{subject}, seed {seed}: test accuracy {found.test_accuracy:.4f}, {seconds:.1f} s of training")
    return found


def load(flags: cifar10.Config, limit: int) -> dict[str, np.ndarray]:
    """Read the training and test rows in a random order, as `x_train`, `y_train`, `x_test`, `y_test`.

    Args:
        flags: `dataset` and the flags for reading it.
        limit: largest number of rows of each split; 0 for all.

    Raises:
        InputError: the data cannot be read, or do not fit in memory.

    """
    splits, found = mnist.load(flags)[1], {}
    for part, several in (("train", splits[:2]), ("test", splits[2:])):
        if not all(isinstance(one, jc.data.Resident) for one in several):
            raise jc.InputError(f"--data {flags.dataset}: too large to be held in memory; give a smaller set")
        order = np.random.default_rng(0).permutation(sum(one.size for one in several))[: limit or None]
        for letter, name in (("x", "image"), ("y", "label")):
            found[f"{letter}_{part}"] = np.concatenate([np.asarray(one.arrays[name]) for one in several])[order]
    return found


if __name__ == "__main__":
    harness.run("cifar10", Config, SUBJECTS, measure)
