"""Reading batches: jaxcnn's input paths, tf.data, PyTorch's DataLoader and Grain, over the same files.

A case is a dict: `kind` (resident, jpeg, array_record or tfrecord), `path` of the data, `batch`, and `images` per call.
All
subjects shuffle and give float32 in 0..1; jaxcnn puts the images on the device and reads them in a compiled step.
"""

import glob
import itertools
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from experiments.benchmarks.peers import Prepared

Case = dict[str, Any]
NAME = "jc_bench_digits"  # name of the TFDS set


def jaxcnn(case: Case) -> Prepared:
    """Read with `jaxcnn.data`, through a compiled step that only adds the pixels."""
    import jax
    import jax.numpy as jnp

    import jaxcnn as jc

    if case["kind"] == "array_record":  # decoded into memory once; the step copies to the device
        return Prepared(lambda: jc.data.tfds(NAME, data_dir=case["path"], validation_fraction=0.0), case["images"])
    if case["kind"] == "resident":
        data = jc.data.npz(case["path"], validation_fraction=0.0).train
    elif case["kind"] == "jpeg":
        data = jc.data.folder(case["path"], resident_bytes=0, validation_fraction=0.0, test_fraction=0.02).train
    else:
        data = jc.data.tfds(NAME, data_dir=case["path"], validation_fraction=0.0, resident_bytes=0).train

    def step(total, batch):
        return (total + jc.tasks.prepare(batch["image"]).mean(), {})

    run = jc.compile_step(step, "jit", donate=False)
    data, at = data.put(run.replicate), 0
    steps, room = case["images"] // case["batch"], min(data.capacity, case["images"] // case["batch"])

    def call() -> None:
        nonlocal at
        total, end = jnp.zeros(()), at + steps
        while at < end:
            count = min(room, end - at)
            total, _ = run.call(total, data.chunk(case["batch"], at, count, room))
            at += count
        jax.block_until_ready(total)

    return Prepared(call, steps * case["batch"])


def tf_data(case: Case) -> Prepared:
    """Read with tf.data, with its parallel map and prefetching."""
    import tensorflow as tf

    def scaled(image: Any, label: Any) -> tuple[Any, Any]:
        return tf.cast(image, tf.float32) / 255, label

    def jpeg(path: Any) -> tuple[Any, Any]:
        label = tf.strings.to_number(tf.strings.split(path, "/")[-2], tf.int32)
        return scaled(tf.io.decode_jpeg(tf.io.read_file(path), channels=1), label)

    def record(row: Any) -> tuple[Any, Any]:
        features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
        row = tf.io.parse_single_example(row, features)
        return scaled(tf.io.decode_png(row["image"], channels=1), row["label"])

    if case["kind"] == "resident":
        image, label = _npz(case["path"])
        data = tf.data.Dataset.from_tensor_slices((image, label)).shuffle(len(image)).repeat().batch(case["batch"])
        data = data.map(scaled, num_parallel_calls=tf.data.AUTOTUNE)
    else:
        if case["kind"] == "jpeg":
            files = _jpegs(case["path"])
            data, read = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)), jpeg
        else:
            files = glob.glob(f"{case['path']}/{NAME}/*/*-train.tfrecord*")
            data, read = tf.data.TFRecordDataset(files).shuffle(10_000), record
        data = data.repeat().map(read, num_parallel_calls=tf.data.AUTOTUNE).batch(case["batch"])
    return _taking(case, iter(data.prefetch(tf.data.AUTOTUNE)))


def torch(case: Case) -> Prepared:
    """Read with PyTorch's DataLoader: whole batches by index from memory, one process per core for files."""
    import os

    import torch
    from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset

    if case["kind"] == "resident":
        image, label = map(torch.from_numpy, _npz(case["path"]))
        data = TensorDataset(image, label)
        batches = DataLoader(
            data, sampler=BatchSampler(RandomSampler(data), case["batch"], drop_last=True), batch_size=None
        )
        return _taking(case, ((image.float() / 255, label) for image, label in _endless(batches)))

    class Rows(Dataset):
        def __init__(self) -> None:
            self.rows = _source(case["path"]) if case["kind"] == "array_record" else _jpegs(case["path"])

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            image, label = _row(self.rows[index])
            return torch.from_numpy(image).float() / 255, label

    batches = DataLoader(
        Rows(), case["batch"], shuffle=True, num_workers=os.cpu_count() or 1, drop_last=True, persistent_workers=True
    )
    return _taking(case, _endless(batches))


def grain(case: Case) -> Prepared:
    """Read with Grain and its threads."""
    import grain

    if case["kind"] == "resident":
        image, label = _npz(case["path"])
        rows: Any = [(image[i], label[i]) for i in range(len(image))]

        def read(row):
            return (row[0].astype(np.float32) / 255, row[1])
    else:
        rows = _source(case["path"]) if case["kind"] == "array_record" else _jpegs(case["path"])

        def read(row):
            return (lambda image, label: (image.astype(np.float32) / 255, label))(*_row(row))

    data = grain.MapDataset.source(rows).shuffle(seed=0).repeat().map(read).batch(case["batch"])
    return _taking(case, iter(data.to_iter_dataset()))


def floor(case: Case) -> Prepared:
    """Count the bytes of a pixel, which is read once as a byte and written once as a float."""
    return Prepared(lambda: None, facts=lambda: {"flop": 0.0, "bytes": case["pixels"] * 5})


def _taking(case: Case, batches: Iterator[Any]) -> Prepared:
    steps = case["images"] // case["batch"]

    def call() -> None:
        for _ in itertools.islice(batches, steps):
            pass

    return Prepared(call, steps * case["batch"])


def _endless(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from batches


def _npz(path: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as file:
        return file["x_train"][..., None], file["y_train"]


def _jpegs(path: str) -> list[str]:
    return [str(p) for p in sorted(pathlib.Path(path).glob("*/*.jpg"))]


def _source(path: str) -> Any:
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(str(next(pathlib.Path(path).glob(f"{NAME}/*")))).as_data_source(split="train")


def _row(row: Any) -> tuple[np.ndarray, int]:
    """Decode a row: the path of a file, or a record of TFDS."""
    if isinstance(row, str):
        from PIL import Image

        with Image.open(row) as image:
            return np.asarray(image)[..., None], int(pathlib.Path(row).parent.name)
    return row["image"], int(row["label"])
