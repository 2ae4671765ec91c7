"""Times input paths against tf.data, PyTorch's DataLoader and Grain: `python -m experiments.benchmarks.input`.

The data are the digits that scikit-learn contains, enlarged and written to a temporary folder in each format, and
invented photos of the size of ImageNet's, of which training reads random crops.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from experiments.benchmarks import harness, report, tutorial
from experiments.benchmarks.peers.input import NAME
from experiments.benchmarks.subprocess_worker import FailedError
from jaxcnn import InputError

SUBJECTS = ("jaxcnn", "tf.data", "torch", "grain")
# dict from format to the subjects that can read it and the modules that they need
READERS = {
    "resident": {"jaxcnn": (), "tf.data": (), "torch": (), "grain": ()},
    "jpeg": {"jaxcnn": (), "tf.data": (), "torch": ("PIL",), "grain": ("PIL",)},
    "array_record": {"jaxcnn": (), "torch": ("tensorflow_datasets",), "grain": ("tensorflow_datasets",)},
    "tfrecord": {"jaxcnn": (), "tf.data": ()},
    "photos": {"jaxcnn": (), "tf.data": (), "torch": ("torchvision",), "grain": ("PIL",)},
}

PHOTOS = (1024, 64)  # number of photos, and in a smoke run


@dataclasses.dataclass(frozen=True)
class Config(harness.Settings):
    """Measure the images per second of each input path."""

    batch_size: int = 64
    """Images per batch."""
    image_size: int = 64
    """Side that the digits are enlarged to."""


def measure(bench: harness.Bench) -> Iterator[list[report.Row]]:
    """Write the data in every format, then time the subjects in turn."""
    config = bench.config
    for name, least in (("batch_size", 1), ("image_size", 8)):
        if getattr(config, name) < least:
            raise InputError(f"--{name.replace('_', '-')} {getattr(config, name)}: must be at least {least}")
    size = config.image_size
    cases = bench.chosen({
        f"resident gather {size}x{size}": "resident", f"folder of JPEG {size}x{size}": "jpeg",
        f"TFDS array_record into memory {size}x{size}": "array_record",
        f"TFDS tfrecord streamed {size}x{size}": "tfrecord",
        "JPEG 500x375, random crops 224x224": "photos",
    })  # fmt: skip
    images = 256 if config.smoke else 8192
    digits = tutorial.digits(size).items()
    arrays = {name: np.resize(a, (images, *a.shape[1:])) for name, a in digits}  # each digit several times

    def measured() -> Iterator[list[report.Row]]:
        with tempfile.TemporaryDirectory(prefix="jaxcnn-benchmark-") as folder:
            for name, kind in cases.items():
                try:
                    path = WRITERS[kind](pathlib.Path(folder) / kind, arrays)
                except FailedError as error:
                    bench.give_up(name, "every subject", error)
                    continue
                rows = PHOTOS[config.smoke] if kind == "photos" else len(arrays["x_train"])
                case = {
                    "kind": kind,
                    "path": str(path),
                    "batch": config.batch_size,
                    "images": rows,
                    "pixels": 3 * 224**2 if kind == "photos" else size**2,
                }
                (work,) = harness.work("input", {name: case}).values()
                lacking = bench.lacking({s: READERS[kind][s] for s in bench.subjects if s in READERS[kind]})
                for subject, reason in lacking.items():
                    bench.give_up(name, subject, FailedError(reason))
                able = [s for s in bench.subjects if s in READERS[kind] and s not in lacking]
                samples, facts = harness.in_turn(bench, "input", name, case, able, seconds=1.0)
                rates = {s: [1 / t for t in times] for s, times in samples.items()}
                yield report.make_rows(name, "images/s", rates, facts, 1 / harness.floor_seconds(work, bench.rates))

    return measured()


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> pathlib.Path:
    """Write one `.npz` file."""
    np.savez(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz")


def write_jpegs(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> pathlib.Path:
    """Write one folder per class."""
    from PIL import Image

    for i, (image, label) in enumerate(zip(arrays["x_train"], arrays["y_train"], strict=True)):
        (path / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path / str(label) / f"{i}.jpg", quality=90)
    return path


def write_photos(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> pathlib.Path:
    """Write colour files of the size and about the bytes of ImageNet's, one folder per class."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(PHOTOS[len(arrays["x_train"]) < 1000]):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        fine = np.asarray(coarse, np.int16) + rng.integers(-18, 19, (375, 500, 1))
        (path / str(i % 10)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(fine.clip(0, 255).astype(np.uint8)).save(path / str(i % 10) / f"{i}.jpg", quality=90)
    return path


def write_tfds(kind: str, path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> pathlib.Path:
    """Prepare a set with TFDS.

    Args:
        kind: format of TFDS.
        path: folder for the set.
        arrays: `x_train`, `y_train`, `x_test`, `y_test`.

    Raises:
        FailedError: TensorFlow is not installed.

    """
    if importlib.util.find_spec("tensorflow") is None:
        raise FailedError("preparing the data needs TensorFlow: pip install -e '.[tfds]' in the clone")
    import tensorflow_datasets as tfds

    class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """The digits, as PNG."""

        VERSION, name = tfds.core.Version("1.0.0"), NAME

        def _info(self) -> Any:
            shape = (*arrays["x_train"].shape[1:], 1)
            features = {"image": tfds.features.Image(shape=shape), "label": tfds.features.ClassLabel(num_classes=10)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager: Any) -> dict[str, Any]:
            return {part: self._generate_examples(part) for part in ("train", "test")}

        def _generate_examples(self, part: str) -> Iterator[tuple[int, dict[str, Any]]]:
            for i, (image, label) in enumerate(zip(arrays[f"x_{part}"], arrays[f"y_{part}"], strict=True)):
                yield i, {"image": image[..., None], "label": int(label)}

    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(num_shards=4)
    with contextlib.redirect_stdout(None):
        Digits(data_dir=path, file_format=kind).download_and_prepare(download_config=config)
    return path


WRITERS = {
    "resident": write_arrays, "jpeg": write_jpegs,
    "array_record": functools.partial(write_tfds, "array_record"),
    "tfrecord": functools.partial(write_tfds, "tfrecord"),
    "photos": write_photos,
}  # fmt: skip


if __name__ == "__main__":
    harness.run("input", Config, SUBJECTS, measure)
