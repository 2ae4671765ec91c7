"""The tutorial network as whole commands: what the benchmarks `mnist` and `startup` share."""

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
VALIDATION = (
    0.01  # share of the training rows that jaxcnn validates on: few, but enough to tell a good epoch from a bad one
)


class Training(NamedTuple):
    """One command that trained to its end.

    Attributes:
        watched: the process.
        epochs: for each `seconds`, `images`, and when it ended, `at`, counted from the start of the process.
        test_accuracy: of the whole test set.

    """

    watched: Watched
    epochs: list[dict[str, float]]
    test_accuracy: float


def train(bench: harness.Bench, subject: str, data: pathlib.Path, batch_size: int, epochs: int) -> Training:
    """Train and test with one subject, as its user would on the command line."""
    flags = ["--batch-size", str(batch_size), "--epochs", str(epochs)]
    with tempfile.TemporaryDirectory(prefix="jaxcnn-benchmark-") as workdir:
        watched = watch(command(bench, subject, data, workdir, *flags), caches(workdir))
        return trained(watched, subject, workdir)


def trained(watched: Watched, subject: str, workdir: str) -> Training:
    """Read what a command left: peers print it, jaxcnn has it in its run's folder in `workdir`."""
    if subject != "jaxcnn":
        return Training(watched, watched.events("epoch"), watched.events("end")[0]["test_accuracy"])
    lines = [json.loads(line) for line in next(pathlib.Path(workdir).glob("*/metrics.jsonl")).read_text().splitlines()]
    ends = [at for at, line in watched.lines if line.startswith("step ")]  # printed once an epoch
    rows = [line for line in lines if line["split"] == "train"]
    passes = [{"seconds": row["seconds"], "images": row["count"], "at": at} for row, at in zip(rows, ends, strict=True)]
    return Training(watched, passes, next(line["accuracy"] for line in lines if line["split"] == "test"))


def command(bench: harness.Bench, subject: str, data: pathlib.Path, workdir: str, *flags: str) -> list[str]:
    """Return the command that trains the tutorial network; jaxcnn's leaves its run and its compiled programs in `workdir`."""
    if subject != "jaxcnn":
        return [*start_of(bench.python(subject), "peers.mnist", own=False), subject, "--data", str(data), *flags]
    kept = [
        "--validation-fraction",
        str(VALIDATION),
        "--workdir",
        workdir,
        "--compilation-cache",
        f"{workdir}/programs",
    ]
    return [sys.executable, "-m", "experiments.mnist", "--tutorial", "--dataset", str(data), *kept, *flags]


def caches(folder: str) -> dict[str, str]:
    """Environment with which torch.compile, and JAX where the shell gives it a cache, keep compiled programs in `folder`."""
    names = [
        "TORCHINDUCTOR_CACHE_DIR",
        *(["JAX_COMPILATION_CACHE_DIR"] if "JAX_COMPILATION_CACHE_DIR" in os.environ else []),
    ]
    return {name: f"{folder}/programs" for name in names}


def in_turn(bench: harness.Bench, case: str, command: Callable[[str], Any], rounds: int) -> dict[str, list[Any]]:
    """Run a command for each subject, round after round; one that fails is left out."""
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
    """Put the data where all subjects read them."""
    with tempfile.TemporaryDirectory(prefix="jaxcnn-benchmark-") as folder:
        path = pathlib.Path(folder) / "data.npz"
        np.savez(path, **data)
        yield path


def load(source: str, limit: int = 0) -> dict[str, np.ndarray]:
    """Find the data: an `.npz` file, a folder of IDX files, MNIST where TFDS has it prepared, else the embedded digits, enlarged.

    Args:
        source: `--data`.
        limit: use at most so many rows of each part; 0 for all.

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
            source, arrays = (
                f"the embedded digits, because {reason} (give --data or set TFDS_DATA_DIR)",
                digits(limit=limit),
            )
    harness.say(f"data: {source}: {len(arrays['x_train'])} images to train on, {len(arrays['x_test'])} to test on")
    return arrays


def digits(size: int = 28, limit: int = 0) -> dict[str, np.ndarray]:
    """Return the embedded digits, enlarged."""
    from PIL import Image

    arrays = _arrays(jc.data.digits(validation_fraction=0.0), limit)

    def enlarged(image):
        return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))

    return {
        name: np.stack([enlarged(a) for a in array]) if name.startswith("x") else array
        for name, array in arrays.items()
    }


def _arrays(splits: jc.data.Splits, limit: int) -> dict[str, np.ndarray]:
    """Gray images `[N, H, W]` uint8 and labels `[N]` of both parts, as `x_train`, `y_train`, `x_test`, `y_test`."""
    parts = {"train": splits.train.arrays, "test": splits.test.arrays}

    def pick(a):
        return np.asarray(a)[: limit or None]

    return {f"x_{part}": pick(a["image"])[..., 0] for part, a in parts.items()} | {
        f"y_{part}": pick(a["label"]) for part, a in parts.items()
    }
