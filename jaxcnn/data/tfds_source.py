"""TensorFlow Datasets (TFDS): any image-classification set by name, with the reader that its format needs."""

import contextlib
import difflib
import functools
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import socket
import threading
import urllib.parse
import urllib.request
from typing import Any, cast

import numpy as np

from jaxcnn.core.files import expanded
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.data.array_record import quiet, records
from jaxcnn.data.cache import load, store
from jaxcnn.data.checking import labelled
from jaxcnn.data.core import OnBad, Resident, Splits, sides
from jaxcnn.data.crops import Training, check_ratio, training
from jaxcnn.data.image import Resize
from jaxcnn.data.reader import Form
from jaxcnn.data.shards import refuse_unstated, sound
from jaxcnn.data.splitting import cut
from jaxcnn.data.tfds_folder import HOMELESS, NAME, check, check_features, check_rows, find, prepared_names
from jaxcnn.data.tfrecord import Stream, tensorflow

AS_RECORDS = "prepare it as array_record (tfds convert_format --out_file_format array_record)"
NEEDS_TENSORFLOW = "needs TensorFlow: pip install -e '.[tfds]' in the clone of jaxcnn"


@quiet()
def tfds(
    name: str,
    *,
    data_dir: str | pathlib.Path | None = None,
    size: int | tuple[int, int] | None = None,
    seed: int = 0,
    validation_fraction: float = 0.1,
    resident_bytes: int = 2**30,
    download: bool = True,
    cache: str | pathlib.Path | None = None,
    on_bad: OnBad | None = None,
    resize: Resize = "squash",
    crop_ratio: float = 1.0,
    random_crop: tuple[float, float] | None = None,
    train_size: int | tuple[int, int] | None = None,
) -> Splits:
    """Read a prepared set, or download and prepare it if its host answers within two seconds.

    `array_record` data are read without TensorFlow; `tfrecord` data need it.

    Args:
        name: name of the set, such as `"mnist"` or `"cifar10"`, which a configuration and a version may follow, such as
            `"emnist/letters"`. Prepared sets of your own are found by their files.
        data_dir: folder with prepared sets; by default `TFDS_DATA_DIR`, otherwise TFDS's own folder.
        size: height and width, or one number for both, to which every image is resized; required if sizes differ.
        seed: seed of the validation split.
        validation_fraction: share of the training rows to validate on, if the set has no validation split.
        resident_bytes: sets with more decoded bytes are read as needed instead of being held in memory.
        download: whether a set that is not prepared may be downloaded.
        cache: folder for decoded rows, which load much faster as long as the prepared files do not change; None for no
            cache.
        on_bad: called with a message and a count for each unreadable shard or record; None to raise. The rows of a
            truncated shard are left out; an unreadable record becomes a row with `row_mask = 0`.
        resize: how images are resized, `"squash"`, `"crop"` or `"pad"`, see `jaxcnn.data.image.decode`. This and the
            following options need `array_record` data.
        crop_ratio: with `resize="crop"`, the share of the sides of the largest central rectangle that is shown.
        random_crop: smallest and largest share of an image's area, such as `(0.08, 1)`; see `folder`.
        train_size: height and width of random crops, or one number for both; by default `size`.

    Raises:
        InputError: The name is unknown, the data are not there and cannot be downloaded, the set does not consist of
            images with one label, or something is unreadable and `on_bad` is None.

    """
    form, drawn = Form(sides(size), resize, crop_ratio), training(sides(size), sides(train_size), random_crop)
    check_ratio(crop_ratio, resize)
    key = functools.partial(_key, name, data_dir, form, resident_bytes)
    cache = None if drawn else cache
    held = _unpacked(load(cache, key())) if cache and key() else None
    if held is None:
        held = _held(name, data_dir, form, resident_bytes, download, on_bad, drawn)
        if cache and on_bad is None and key() and all(isinstance(part, Resident) for part in held.values()):
            store(cache, key(), _packed(held))
    train, valid = held["train"], held.get("valid")
    if valid is None and isinstance(train, Stream):
        train, valid = train.divide(validation_fraction)
    elif valid is None:
        # the labels of a large set are not known before reading, so its split is random, not stratified
        known = train.arrays["label"] if isinstance(train, Resident) else np.zeros(train.size, np.int32)
        train, valid, _ = cut(train, known, validation_fraction, seed)
    return Splits(train, valid, held["test"])


def _held(
    name: str, data_dir: Any, form: Form, resident_bytes: int, download: bool, on_bad: OnBad | None,
    drawn: Training | None,
) -> dict[str, Any]:  # fmt: skip
    """Return the parts, each in memory if it fits."""
    builder = builder_of(name, data_dir)
    image, label = _features(builder, name)
    sizes = form.size
    if sizes is None and None in image.shape:
        raise InputError(f"{name}: images of several sizes; give an image size to resize them to, such as 64")
    by_number = prepare(builder, name, download)
    if not by_number and importlib.util.find_spec("tensorflow") is None:
        raise InputError(f"{name}: prepared in {builder.data_path} as tfrecord, which {NEEDS_TENSORFLOW}")
    if not by_number and (drawn or form.resize != "squash"):
        raise InputError(
            f"{name}: prepared in {builder.data_path} as tfrecord, which is only resized by squashing; {AS_RECORDS}"
        )
    shape = (*(sizes or image.shape[:2]), image.shape[-1] or 3)
    classes, held = tuple(label.names), {}
    for part, split in splits_of(builder, name).items():
        check_rows(builder.info.splits[split.partition("[")[0]], split.partition("[")[0], str(builder.data_path))
        if on_bad is None:
            refuse_unstated(builder, split)
        else:
            split = sound(builder, split, on_bad)
        if by_number:
            data = records(builder, split, shape, classes, on_bad, form, drawn if part == "train" else None)
        else:
            data = Stream(builder, split, shape, classes, on_bad=on_bad, resized=sizes is not None)
        if not data.size:
            raise InputError(f"{name}: split {split} in {builder.data_path} has no examples; prepare it again")
        if data.size * int(np.prod(shape)) <= resident_bytes and not (drawn and part == "train"):
            rows = data.everything() if isinstance(data, Stream) else data.read(np.arange(data.size))
            rows = {key: x[rows.get("row_mask", np.ones(data.size)) > 0] for key, x in rows.items()}
            data = labelled(rows["image"], rows["label"], classes, f"{name}, split {split}")
        held[part] = data
    return held


def _key(name: str, data_dir: Any, form: Form, resident_bytes: int) -> Any:
    """Cache key: the prepared files and the options that affect decoding; None if there are no local files."""
    root = expanded(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets", HOMELESS)
    if not NAME.fullmatch(name):
        return None
    stats = [(str(p), p.stat()) for p in sorted((root / re.split("[/:]", name)[0]).rglob("*")) if p.is_file()]
    files = [[path, s.st_size, s.st_mtime_ns] for path, s in stats]
    how = [form.size, *([] if form.resize == "squash" else [form.resize, form.crop_ratio])]
    return [name, *how, resident_bytes, importlib.metadata.version("tensorflow-datasets"), files] if files else None


def _packed(held: dict[str, Resident]) -> dict[str, np.ndarray]:
    rows = {f"{part} {column}": x for part, data in held.items() for column, x in data.arrays.items()}
    return rows | {"classes": np.array(held["train"].classes)}


def _unpacked(found: dict[str, np.ndarray] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    classes, parts = tuple(found.pop("classes").tolist()), {key.split()[0] for key in found}
    return {part: Resident({c: found[f"{part} {c}"] for c in ("image", "label")}, classes) for part in parts}


def builder_of(name: str, data_dir: Any) -> Any:
    """Return the builder of a set that TFDS has code for, or that only has prepared files."""
    import tensorflow_datasets as library

    base = name.split("/")[0].split(":")[0]
    known = library.list_builders(with_community_datasets=False)
    if base in known and not NAME.fullmatch(name):
        raise InputError(
            f"dataset {name!r}: must be {base}, {base}/configuration or {base}:1.2.3; nothing else is read from a name"
        )
    try:
        folder = None if base in known else _prepared(library, name, data_dir, known)
        for other in find(library, name, data_dir, every=True) if folder is None else [folder]:
            check(library, other)
    except InputError as error:
        raise InputError(f"dataset {name!r}: {error}") from None
    try:  # for an unknown name TFDS would print its whole catalogue; `_prepared` has refused it
        return library.builder_from_directory(folder) if folder else library.builder(name, data_dir=data_dir)
    except Exception as error:  # for a wrong configuration or version, the code of the set raises errors of any type
        why = visible(re.sub(r'^Failed to construct dataset .*?\}": ', "", " ".join(str(error).split())))
        if why.startswith("BuilderConfig"):
            configurations = ", ".join(library.builder_cls(base).builder_configs) or "none"
            raise InputError(f"dataset {name!r}: no such configuration; it has {configurations[:200]}") from error
        raise InputError(
            f"dataset {name!r}: {why[:200] or type(error).__name__}; correct the name, or prepare it again"
        ) from error


def _prepared(library: Any, name: str, data_dir: Any, known: list[str]) -> pathlib.Path:
    """Return the folder of a set that TFDS has no code for; TFDS then reads only this folder."""
    found = [folder for folder in find(library, name, data_dir) if (folder / "features.json").exists()]
    if len(found) > 1:
        places = ", ".join(visible(folder) for folder in found[:5])
        raise InputError(f"may be any of {places}; give its configuration as name/configuration, or a data_dir")
    if found:
        return found[0]
    if beside := prepared_names(library, name, data_dir):
        raise InputError(f"not prepared in this version or configuration; there are {visible(', '.join(beside))[:200]}")
    near = difflib.get_close_matches(re.split("[/:]", name)[0].lower(), known, 1)
    fix = f"did you mean {near[0]!r}?" if near else "the names are on https://www.tensorflow.org/datasets/catalog"
    raise InputError(f"unknown to TFDS, and not prepared in its folder; {fix}")


def prepare(builder: Any, name: str, download: bool) -> bool:
    """Prepare a set unless it is prepared; return whether its rows are read by number, as `array_record`.

    Args:
        builder: the set.
        name: its name, for messages.
        download: whether it may be downloaded.

    Raises:
        InputError: It is not prepared and cannot be, or is prepared in another format.

    """
    if not builder.is_prepared():
        _prepare(builder, name, download)
    kind = builder.info.file_format.value
    if kind not in ("array_record", "tfrecord"):
        raise InputError(f"{name}: prepared in {builder.data_path} as {kind}; prepare it as array_record or tfrecord")
    return kind == "array_record"


def _prepare(builder: Any, name: str, download: bool) -> None:
    """Download and prepare a set if its host answers within two seconds; TFDS itself would retry for over 3 minutes."""
    where = f"{name} is not prepared in {builder.data_path}"
    elsewhere = "a data_dir where TFDS has prepared it"
    if not download:
        raise InputError(f"{where}; give {elsewhere}, or allow the download")
    if importlib.util.find_spec("tensorflow") is None:
        raise InputError(f"{where}, and preparing it {NEEDS_TENSORFLOW}")
    host, port = _address(builder)
    if not _answers(host, port):
        raise InputError(f"{where}, and {host} does not answer; go online, or give {elsewhere}")
    try:
        tensorflow()
        builder.download_and_prepare()
    except Exception as error:
        raise InputError(f"{where}, and preparing it failed: {reason(error)}; give {elsewhere}") from error


def _address(builder: Any) -> tuple[str, int]:
    """Host and port that a download first connects to: the proxy, if there is one."""
    url = urllib.parse.urlsplit(next(iter(getattr(builder, "url_infos", None) or {}), ""))
    if not url.hostname:
        url = urllib.parse.urlsplit("https://storage.googleapis.com")
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy and not urllib.request.proxy_bypass(url.hostname or ""):
        url = urllib.parse.urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    return url.hostname or "", url.port or (80 if url.scheme == "http" else 443)


def _answers(host: str, port: int, seconds: float = 2.0) -> bool:
    """Whether a connection to the host opens in time, including the name lookup, which a socket timeout excludes."""
    opened = threading.Event()

    def probe() -> None:
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), timeout=seconds).close()
            opened.set()

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(seconds)
    return opened.is_set()


def _features(builder: Any, name: str) -> tuple[Any, Any]:
    """Return TFDS's image and label features, which are known before a download."""
    import tensorflow_datasets as library

    features = dict(builder.info.features.items()) if hasattr(builder.info.features, "items") else {}
    image, label = features.get("image"), features.get("label")
    if not isinstance(image, library.features.Image) or not isinstance(label, library.features.ClassLabel):
        has = ", ".join(features) or "no named features"
        raise InputError(f"dataset {name!r}: has {has}; needs an 'image' with one class 'label'")
    check_features(image, label, f"dataset {name!r}")
    if image.np_dtype != np.uint8:
        raise InputError(f"dataset {name!r}: images of dtype {np.dtype(cast(Any, image.np_dtype))}; must be uint8")
    return image, label


def splits_of(builder: Any, name: str) -> dict[str, str]:
    """Return a dict from part to TFDS split; without a split to test on, a fifth of the training rows is used."""
    splits = builder.info.splits
    if "train" not in splits:
        raise InputError(f"dataset {name!r}: has the splits {', '.join(splits)}; needs 'train'")
    test = next((s for s in ("test", "validation") if s in splits), None)
    if test is None:
        fifth = splits["train"].num_examples // 5
        return {"train": f"train[{fifth}:]", "test": f"train[:{fifth}]"}
    valid = {"valid": "validation"} if test == "test" and "validation" in splits else {}
    return {"train": "train", "test": test} | valid
