"""Any TensorFlow Datasets image-classification set by name, through whichever reader its prepared format needs."""

import difflib
import importlib.util
import pathlib
import socket
import threading
import urllib.parse
from typing import Any

import numpy as np

from jaxcnn.data.core import Indexed, Resident, Splits, cut_validation, labelled
from jaxcnn.types import InputError

NEEDS_TENSORFLOW = "needs TensorFlow: pip install 'jaxcnn[tfds]'"


def tfds(
    name: str,
    *,
    data_dir: str | pathlib.Path | None = None,
    size: int | tuple[int, int] | None = None,
    seed: int = 0,
    validation_fraction: float = 0.1,
    resident_bytes: int = 2**30,
    download: bool = True,
) -> Splits:
    """Read a prepared set, or download and prepare it when its host answers within two seconds.

    `array_record` data is read by `tfds.data_source`, without TensorFlow; `tfrecord` data by `tfds.load`, with it.

    Args:
        name: such as `"mnist"` or `"cifar10"`; a configuration and version may follow, `"emnist/letters"`.
        data_dir: where sets are prepared; by default `TFDS_DATA_DIR`, else TFDS's own folder.
        size: resize every image on reading; needed where sizes differ.
        seed: of the validation split.
        validation_fraction: share of the training rows to validate on, where the set has no such part.
        resident_bytes: decoded sets larger than this are streamed.
        download: whether an unprepared set may be fetched.

    Raises:
        InputError: an unknown name, no data and no way to get them, or a set that is not images with one label.

    """
    builder = _builder(name, data_dir)
    if not builder.is_prepared():
        _prepare(builder, name, download)
    image, label = _features(builder, name)
    records = "array_record" in str(builder.info.file_format).lower()
    if not records and importlib.util.find_spec("tensorflow") is None:
        raise InputError(f"{name}: prepared in {builder.data_path} as {builder.info.file_format.value}, which {NEEDS_TENSORFLOW}")
    sizes = (size, size) if isinstance(size, int) else size
    if sizes is None and None in image.shape:
        raise InputError(f"{name}: images of several sizes need --image-size (size= in Python)")
    shape = (*(sizes or image.shape[:2]), image.shape[-1] or 3)
    classes = tuple(label.names)
    read = _read_records if records else _read_tfrecord
    parts = _parts(builder, name)
    held = {part: read(builder, split, shape, classes, seed, resident_bytes, name) for part, split in parts.items()}
    train, valid = held["train"], held.get("valid")
    if valid is None and isinstance(train, Resident | Indexed):
        known = (
            train.arrays["label"] if isinstance(train, Resident) else np.zeros(train.size, np.int32)
        )  # labels of a large set are not read ahead
        train, valid = cut_validation(train, known, validation_fraction, seed)
    elif valid is None:
        train, valid = train.divide(validation_fraction)
    return Splits(train, valid, held["test"])


def _builder(name: str, data_dir: Any) -> Any:
    import tensorflow_datasets as library

    base = name.split("/")[0].split(":")[0]
    known = library.list_builders(with_community_datasets=False)
    if base not in known:
        near = difflib.get_close_matches(base, known, 1)
        raise InputError(f"dataset {name!r}: unknown to TFDS{f'; did you mean {near[0]!r}?' if near else ''}")
    try:
        return library.builder(name, data_dir=data_dir)
    except Exception as error:  # a bad configuration or version raises whatever the set's own code raises
        raise InputError(f"dataset {name!r}: {str(error).splitlines()[0][:200]}") from error


def _prepare(builder: Any, name: str, download: bool) -> None:
    """Download and prepare, having made sure in two seconds that this can work; TFDS itself retries for over three minutes."""
    where = f"{name} is not prepared in {builder.data_path}"
    if not download:
        raise InputError(where)
    if importlib.util.find_spec("tensorflow") is None:
        raise InputError(f"{where}, and preparing it {NEEDS_TENSORFLOW}")
    host = _host(builder)
    if not _answers(host):
        raise InputError(f"{where}, and {host} does not answer")
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise InputError(f"{where}, and preparing it failed: {str(error).splitlines()[0][:200]}") from error


def _host(builder: Any) -> str:
    urls = getattr(builder, "url_infos", None) or {}
    return urllib.parse.urlparse(next(iter(urls), "")).hostname or "storage.googleapis.com"


def _answers(host: str, seconds: float = 2.0) -> bool:
    """Whether a connection to the host opens in time; looking up its name counts, which a socket's timeout leaves out."""
    opened = threading.Event()

    def probe() -> None:
        try:
            socket.create_connection((host, 443), timeout=seconds).close()
            opened.set()
        except OSError:
            pass

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(seconds)
    return opened.is_set()


def _features(builder: Any, name: str) -> tuple[Any, Any]:
    import tensorflow_datasets as library

    features = builder.info.features
    image, label = (features.get(key) if hasattr(features, "get") else None for key in ("image", "label"))
    if not isinstance(image, library.features.Image) or not isinstance(label, library.features.ClassLabel):
        raise InputError(f"dataset {name!r}: not images with one label; it has {', '.join(features)}")
    return image, label


def _parts(builder: Any, name: str) -> dict[str, str]:
    splits = builder.info.splits
    if "train" not in splits:
        raise InputError(f"dataset {name!r}: no 'train' split; it has {', '.join(splits)}")
    test = next((s for s in ("test", "validation") if s in splits), None)
    if test is None:
        return {"train": "train[20%:]", "test": "train[:20%]"}
    valid = {"valid": "validation"} if test == "test" and "validation" in splits else {}
    return {"train": "train", "test": test} | valid


def _fits(n: int, shape: tuple[int, ...], resident_bytes: int) -> bool:
    return n * int(np.prod(shape)) <= resident_bytes


def _resize(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if image.shape == shape:
        return image
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(picture.resize((shape[1], shape[0]), resample=2), np.uint8).reshape(shape)


def _read_records(
    builder: Any, split: str, shape: tuple[int, ...], classes: tuple[str, ...], seed: int, resident_bytes: int, name: str
) -> Any:
    source = builder.as_data_source(split=split)

    def read(index: np.ndarray) -> dict[str, np.ndarray]:
        rows = source.__getitems__([int(i) for i in index])
        return {"image": np.stack([_resize(r["image"], shape) for r in rows]), "label": np.array([r["label"] for r in rows], np.int32)}

    if not _fits(len(source), shape, resident_bytes):
        return Indexed(read, len(source), classes)
    try:
        rows = read(np.arange(len(source)))
    except Exception as error:  # a cut shard raises the reader's own kinds
        raise InputError(f"{builder.data_path}: split {split} is not readable ({str(error).splitlines()[0][:200]})") from error
    return labelled(rows["image"], rows["label"], classes, f"{name}, split {split}")


def _read_tfrecord(
    builder: Any, split: str, shape: tuple[int, ...], classes: tuple[str, ...], seed: int, resident_bytes: int, name: str
) -> Any:
    from jaxcnn.data import tfrecord

    stream = tfrecord.Stream(builder, split, shape, classes, seed)
    if not _fits(stream.size, shape, resident_bytes):
        return stream
    try:
        rows = stream.everything()
    except Exception as error:
        raise InputError(f"{builder.data_path}: split {split} is not readable ({str(error).splitlines()[0][:200]})") from error
    return labelled(rows["image"], rows["label"], classes, f"{name}, split {split}")
