"""Whole commands that train the tutorial network, for the benchmarks `mnist` and `startup`."""

import contextlib
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

import jaxcnn as jc
from experiments.benchmarks import harness
from experiments.benchmarks.subprocess_worker import FailedError, Watched, start_of, watch

SUBJECTS = ("jaxcnn", "keras-tensorflow", "keras-jax", "torch", "torch-compile", "flax")
VALIDATION = 0.01  # share of jaxcnn's validation rows: small, but enough to tell a good epoch from a bad one


class Training(NamedTuple):
    """One command that completed its training.

    Attributes:
        watched: the process.
        epochs: `seconds`, `images` and end (`at`, in seconds since the start of the process) of each epoch.
        test_accuracy: accuracy on the whole test set.

    """

    watched: Watched
    epochs: list[dict[str, float]]
    test_accuracy: float


def train(bench: harness.Bench, subject: str, data: pathlib.Path, batch_size: int, epochs: int) -> Training:
    """Train and test with one subject, as its user would on the command line.

    Args:
        bench: the benchmark.
        subject: the subject.
        data: file of the data.
        batch_size: rows per step.
        epochs: passes over the training rows.

    """
    flags = ["--batch-size", str(batch_size), "--epochs", str(epochs)]
    with tempfile.TemporaryDirectory(prefix="jaxcnn-benchmark-") as workdir:
        watched = watch(command(bench, subject, data, workdir, *flags), caches(workdir))
        return trained(watched, subject, workdir)


def trained(watched: Watched, subject: str, workdir: str) -> Training:
    """Read the results of a command: from its output, or for jaxcnn from its run.

    Args:
        watched: the command.
        subject: the subject.
        workdir: folder that holds the folder of jaxcnn's run.

    """
    if subject != "jaxcnn":
        return Training(watched, watched.events("epoch"), watched.events("end")[0]["test_accuracy"])
    lines = [json.loads(line) for line in next(pathlib.Path(workdir).glob("*/metrics.jsonl")).read_text().splitlines()]
    ends = [at for at, line in watched.lines if line.startswith("step ")]  # printed once per epoch
    rows = [line for line in lines if line["split"] == "train"]
    passes = [{"seconds": row["seconds"], "images": row["count"], "at": at} for row, at in zip(rows, ends, strict=True)]
    return Training(watched, passes, next(line["accuracy"] for line in lines if line["split"] == "test"))


def command(bench: harness.Bench, subject: str, data: pathlib.Path, workdir: str, *flags: str) -> list[str]:
    """Return the command that trains the tutorial network.

    Args:
        bench: the benchmark.
        subject: the subject.
        data: file of the data.
        workdir: folder for jaxcnn's run and compiled programs.
        flags: further flags.

    """
    if subject != "jaxcnn":
        return [*start_of(bench.python(subject), "peers.mnist", own=False), subject, "--data", str(data), *flags]
    kept = ["--validation-fraction", str(VALIDATION), "--workdir", workdir]
    kept += ["--compilation-cache", f"{workdir}/programs"]
    return [sys.executable, "-m", "experiments.mnist", "--tutorial", "--dataset", str(data), *kept, *flags]


def caches(folder: str) -> dict[str, str]:
    """Return the environment in which torch.compile, and JAX if it caches, keep compiled programs in `folder`."""
    found = {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/programs"}
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        found["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/programs"
    return found


def in_turn(bench: harness.Bench, case: str, command: Callable[[str], Any], rounds: int) -> dict[str, list[Any]]:
    """Run a command for each subject in each round; a subject that fails is left out.

    Args:
        bench: the benchmark.
        case: name of the case.
        command: runs the command of a subject and returns its result.
        rounds: number of rounds.

    Returns:
        Dict from subject to its results.

    """
    found: dict[str, list[Any]] = {subject: [] for subject in bench.subjects}
    for _ in range(rounds):
        for subject in list(found):
            try:
                found[subject].append(command(subject))
            except FailedError as error:
                bench.give_up(case, subject, error)
                del found[subject]
    return found


@contextlib.contextmanager
def as_npz(data: Mapping[str, np.ndarray]) -> Iterator[pathlib.Path]:
    """Write the data to a file that all subjects read."""
    with tempfile.TemporaryDirectory(prefix="jaxcnn-benchmark-") as folder:
        path = pathlib.Path(folder) / "data.npz"
        np.savez(path, **data)
        yield path


def load(source: str, limit: int = 0) -> dict[str, np.ndarray]:
    """Read an `.npz` file or a folder of IDX files, or MNIST if TFDS has prepared it, or the embedded digits, enlarged.

    Args:
        source: `--data`.
        limit: largest number of rows of each split; 0 for all.

    Raises:
        InputError: there is no such file or folder, or it cannot be read.

    """
    options: dict[str, Any] = {"validation_fraction": 0.0}
    path = pathlib.Path(source)
    if source and not path.exists():
        raise jc.InputError(f"--data {source}: no such file or folder")
    if source:
        arrays = _arrays(jc.data.npz(path, **options) if path.suffix == ".npz" else jc.data.idx(path, **options), limit)
    else:
        try:
            source, arrays = "MNIST", _arrays(jc.data.tfds("mnist", download=False, **options), limit)
        except jc.InputError as error:
            reason = str(error).partition(";")[0]
            source = f"the embedded digits, because {reason} (give --data or set TFDS_DATA_DIR)"
            arrays = digits(limit=limit)
    harness.say(f"data: {source}: {len(arrays['x_train'])} images to train on, {len(arrays['x_test'])} to test on")
    return arrays


def digits(size: int = 28, limit: int = 0) -> dict[str, np.ndarray]:
    """Return the embedded digits, enlarged."""
    from PIL import Image

    arrays = _arrays(jc.data.digits(validation_fraction=0.0), limit)

    def enlarged(image):
        return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))

    return {k: np.stack([enlarged(a) for a in array]) if k.startswith("x") else array for k, array in arrays.items()}


def _arrays(splits: jc.data.Splits, limit: int) -> dict[str, np.ndarray]:
    """Return gray images `[N, H, W]` uint8 and labels `[N]`, as `x_train`, `y_train`, `x_test`, `y_test`."""
    parts = {"train": splits.train.arrays, "test": splits.test.arrays}

    def pick(a):
        return np.asarray(a)[: limit or None]

    images = {f"x_{part}": pick(a["image"])[..., 0] for part, a in parts.items()}
    return images | {f"y_{part}": pick(a["label"]) for part, a in parts.items()}
