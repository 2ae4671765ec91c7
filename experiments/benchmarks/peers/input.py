"""Reading batches: jaxcnn's input paths, tf.data, PyTorch's DataLoader and Grain, over the same files.

A case is a dict: `kind` (resident, jpeg, photos, array_record or tfrecord), `path` of the data, `batch`, and `images`
per call.
All subjects shuffle and give float32 in 0..1; jaxcnn puts the images on the device and reads them in a compiled step.
"""

import glob
import itertools
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from experiments.benchmarks.peers import Prepared

Case = dict[str, Any]
SIDE, SCALE, RATIO = 224, (0.08, 1.0), (3 / 4, 4 / 3)  # of random crops
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
    elif case["kind"] == "photos":
        how = {"size": SIDE, "resize": "crop", "crop_ratio": 0.875, "random_crop": SCALE, "channels": 3}
        data = jc.data.folder(case["path"], **how, validation_fraction=0.0, test_fraction=0.02).train
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

    def photo(path: Any) -> tuple[Any, Any]:  # as in the reference models of TensorFlow
        encoded, label = tf.io.read_file(path), tf.strings.to_number(tf.strings.split(path, "/")[-2], tf.int32)
        start, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(encoded), tf.constant([[[0.0, 0.0, 1.0, 1.0]]]), area_range=SCALE,
            aspect_ratio_range=RATIO, max_attempts=10, use_image_if_no_bounding_boxes=True,
        )  # fmt: skip
        box = tf.stack([start[0], start[1], size[0], size[1]])
        image = tf.image.decode_and_crop_jpeg(encoded, box, channels=3)
        return tf.image.resize(image, (SIDE, SIDE)) / 255, label

    def record(row: Any) -> tuple[Any, Any]:
        features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
        row = tf.io.parse_single_example(row, features)
        return scaled(tf.io.decode_png(row["image"], channels=1), row["label"])

    if case["kind"] == "resident":
        image, label = _npz(case["path"])
        data = tf.data.Dataset.from_tensor_slices((image, label)).shuffle(len(image)).repeat().batch(case["batch"])
        data = data.map(scaled, num_parallel_calls=tf.data.AUTOTUNE)
    else:
        if case["kind"] in ("jpeg", "photos"):
            files, read = _jpegs(case["path"]), photo if case["kind"] == "photos" else jpeg
            data = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files))
        else:
            files = glob.glob(f"{case['path']}/{NAME}/*/*-train.tfrecord*")
            data, read = tf.data.TFRecordDataset(files).shuffle(10_000), record
        data = data.repeat().map(read, num_parallel_calls=tf.data.AUTOTUNE).batch(case["batch"])
    data = data.take(case["images"] // case["batch"]).prefetch(tf.data.AUTOTUNE)
    return _taking(case, lambda n: data)


def torch(case: Case) -> Prepared:
    """Read with PyTorch's DataLoader: whole batches by index from memory, one process per core for files."""
    import os

    import torch
    from PIL import Image
    from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset

    if case["kind"] == "resident":
        image, label = map(torch.from_numpy, _npz(case["path"]))
        data = TensorDataset(image, label)
        batches = DataLoader(
            data, sampler=BatchSampler(RandomSampler(data), case["batch"], drop_last=True), batch_size=None
        )
        return _taking(case, lambda n: ((image.float() / 255, label) for image, label in batches))

    if case["kind"] == "photos":
        from torchvision.transforms import v2

        crop = v2.RandomResizedCrop(SIDE, SCALE, RATIO, antialias=True)

    class Rows(Dataset):
        def __init__(self) -> None:
            self.rows = _source(case["path"]) if case["kind"] == "array_record" else _jpegs(case["path"])

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            if case["kind"] == "photos":
                with Image.open(self.rows[index]) as image:
                    row = np.asarray(crop(image.convert("RGB"))), int(pathlib.Path(self.rows[index]).parent.name)
            else:
                row = _row(self.rows[index])
            image, label = row
            return torch.from_numpy(image).float() / 255, label

    batches = DataLoader(
        Rows(), case["batch"], shuffle=True, num_workers=os.cpu_count() or 1, drop_last=True, persistent_workers=True
    )
    return _taking(case, lambda n: batches)


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

    def epoch(n: int) -> Any:
        data = grain.MapDataset.source(rows).shuffle(seed=n)
        data = data.random_map(_crop, seed=n) if case["kind"] == "photos" else data.map(read)
        return data.batch(case["batch"])[: case["images"] // case["batch"]].to_iter_dataset()

    return _taking(case, epoch)


def floor(case: Case) -> Prepared:
    """Count the bytes of a pixel, which is read once as a byte and written once as a float."""
    return Prepared(lambda: None, facts=lambda: {"flop": 0.0, "bytes": case["pixels"] * 5})


def _taking(case: Case, epoch: Callable[[int], Iterable[Any]]) -> Prepared:
    """Time whole epochs: nothing was read ahead before one, and nothing goes on afterwards, in the turn of another."""
    steps, numbers = case["images"] // case["batch"], itertools.count()

    def call() -> None:
        for _ in itertools.islice(epoch(next(numbers)), steps):
            pass

    return Prepared(call, steps * case["batch"])


def _npz(path: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as file:
        return file["x_train"][..., None], file["y_train"]


def _jpegs(path: str) -> list[str]:
    return [str(p) for p in sorted(pathlib.Path(path).glob("*/*.jpg"))]


def _crop(path: str, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Read a random crop as torchvision draws it, with Pillow; Grain has no image operations of its own."""
    from PIL import Image

    with Image.open(path) as image:
        for _ in range(10):
            area = image.width * image.height * rng.uniform(*SCALE)
            aspect = np.exp(rng.uniform(*np.log(RATIO)))
            wide, high = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if 0 < wide <= image.width and 0 < high <= image.height:
                break
        else:
            wide, high = image.size
        left, top = rng.integers(image.width - wide + 1), rng.integers(image.height - high + 1)
        box = (left, top, left + wide, top + high)
        pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box))
    return pixels.astype(np.float32) / 255, int(pathlib.Path(path).parent.name)


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
