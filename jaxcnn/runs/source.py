"""The source of a run's data: the description in `config.json`, whether its paths are trusted, and reading by it.

A description names a function of `jaxcnn.data.SOURCES` and its options.
"""

import contextlib
import hashlib
import hmac
import json
import os
import pathlib
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from jaxcnn.core.files import expanded
from jaxcnn.core.paths import cache_folder
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import SOURCES, Splits, classes_format, dense_format, is_idx_folder, table_format
from jaxcnn.data.formats import is_series
from jaxcnn.runs.options import check_options

FILES = (  # sources that may leave files out
    "coco", "coco_masks", "csv", "folder", "masks", "sounds", "texts", "videos", "voc", "volumes",
    "yolo",
)  # fmt: skip
LOCAL = (*FILES, "forecast", "idx", "npz", "series")  # sources with a path
PLACES = ("path", "data_dir")  # options that locate the data
RESERVED = ("cache", "on_bad", "download", "resident_bytes", "vocabulary")  # options that a file must not set
LARGEST_SIDE = 2**14  # pixels
NAME = re.compile(r"\w+(/[\w.=-]+)?(:[\d.*]+)?")  # name of a TFDS set
ASK = "say where the data are: place= (--data in jaxcnn.report, --dataset or --data-dir with --evaluate)"
OnBad = Callable[[str, int], None]


def source(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Describe how data are read, for `config.json`.

    The description is signed with a key in this user's cache folder. Paths in the folder of a run that another user or
    machine made are not followed.

    Args:
        name: name of a function in `jaxcnn.data.SOURCES`.
        options: dict from the name of an option to its JSON value; paths are made absolute.

    """
    places = {k: str(expanded(options[k]).absolute()) for k in PLACES if options.get(k)}
    described = {"name": name, "options": {**options, **places}}
    mark = None if name == "digits" else _mark(described, make=True)
    return described | ({"made_here": mark} if mark else {})


def made_here(described: Mapping[str, Any]) -> bool:
    """Whether the description has this user's signature."""
    given, mark = described.get("made_here"), _mark(described)
    if mark is None or not isinstance(given, str):
        return False
    return hmac.compare_digest(given.encode("utf-8", "replace"), mark.encode())


def _mark(described: Mapping[str, Any], make: bool = False) -> str | None:
    """HMAC of a description under this user's key; None if there is no key and none can be created."""
    try:
        path = cache_folder("runs") / "key"
        if make and not path.exists():
            _make_key(path)
        key = path.read_bytes() if path.is_file() else b""
    except (OSError, RuntimeError):  # no home folder, or it cannot be written
        return None
    text = json.dumps([described["name"], described["options"]], sort_keys=True)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest() if len(key) == 32 else None


def _make_key(path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600), "wb") as file:
        file.write(secrets.token_bytes(32))
    try:
        with contextlib.suppress(FileExistsError):
            os.link(part, path)  # a rename would replace the key that another process has just written
    finally:
        os.unlink(part)


def find(dataset: str, data_dir: str | None = None) -> tuple[str, dict[str, Any]]:
    """Find the function of `SOURCES` that reads a data set, and its options.

    Args:
        dataset: `digits`, the name of a TFDS set, or a path: an image folder, a folder of images and masks or boxes,
            a folder of sounds, a JSON file of COCO, an `.npz` file, a CSV file, a folder of IDX files, or one IDX file.
        data_dir: folder with prepared TFDS sets.

    Returns:
        `(name, options)`.

    Raises:
        InputError: The path does not exist or is not a data set.

    """
    path = expanded(dataset)
    here = {"path": str(path)}
    if dataset == "digits":
        return "digits", {}
    if path.suffix == ".npz":
        return "npz", here
    if is_series(path):
        return "series", here
    if path.suffix.lower() == ".csv" and path.is_file():
        return table_format(path), here
    if path.is_dir():
        idx = is_idx_folder(path) or any(map(_like_idx, path.iterdir()))
        return "idx" if idx else dense_format(path) or classes_format(path), here
    if path.is_file() and dense_format(path):
        return dense_format(path) or "", here
    if _like_idx(path):
        return "idx", here
    if path.exists():
        raise InputError(
            f"{visible(dataset)}: not a data set; give a folder of images, a CSV file, an .npz file, or a folder of "
            "IDX files"
        )
    if dataset.startswith(("/", "./", "../", "~")) or not NAME.fullmatch(dataset):
        raise InputError(f"{visible(dataset)}: no such file or folder, and not the name of a TFDS set")
    return "tfds", {"name": dataset} | ({"data_dir": data_dir} if data_dir else {})


def _like_idx(path: pathlib.Path) -> bool:
    """Whether the name of a file is like MNIST's, such as `emnist-digits-train-images-idx3-ubyte.gz`."""
    return bool(re.search(r"ubyte|idx[1-4]|\.idx\b", path.name.lower())) and path.is_file()


def described(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the description of a run's data; for older runs it is derived from the settings. None if it is unknown."""
    if config.get("source") is not None:
        return dict(config["source"])
    settings, name = config["settings"], config["data"]["name"]
    if "validation_fraction" not in settings or config["build"] is None:
        return None
    options = {"validation_fraction": settings["validation_fraction"]}
    size = list(config["build"]["image"]["shape"][:2])
    if settings.get("folder"):
        more = {"path": settings["folder"], "classes": settings.get("classes") or None, "size": size}
        return {"name": "folder", "options": options | more}
    if name == "digits":
        return {"name": "digits", "options": options}
    if name.endswith(".npz"):
        return {"name": "npz", "options": options | {"path": name}}
    return {"name": "tfds", "options": options | {"name": name, "size": size}} if NAME.fullmatch(name) else None


def read_described(
    described: Mapping[str, Any], place: str | None = None, on_bad: OnBad | None = None,
    more: Mapping[str, Any] | None = None,
) -> Splits:  # fmt: skip
    """Read data by their description.

    Args:
        described: the description, from `described`.
        place: present location of the data, from the user; None to follow the path in the description, which is only
            possible if this user made the run.
        on_bad: called with a message and a count for each unreadable item, which is then left out; None to raise.
        more: options that the caller has from elsewhere, such as the run's vocabulary.

    Raises:
        InputError: The description is invalid, its path is not trusted, or the data are not there.

    """
    name, options = described["name"], dict(described["options"])
    if name not in SOURCES:
        raise InputError(
            f"its config.json names {visible(name)[:80]!r} as the source of the data, which this version does not "
            "have; update jaxcnn"
        )
    try:
        check_options(SOURCES[name], options, "source.options", leave=RESERVED)
        _check(name, options)
    except InputError as error:
        raise InputError(f"its config.json has a source that this version cannot read ({error})") from error
    options |= more or {}
    where, ours = next((options[k] for k in PLACES if options.get(k)), None), made_here(described)
    if place is not None:
        options["data_dir" if name == "tfds" else "path"] = place
    elif where is None and name in LOCAL:
        raise InputError(f"its config.json does not say where the data are; {ASK}")
    elif where is not None and not ours:
        raise InputError(
            f"the run was not made here, so the path in its config.json, {visible(where)[:200]}, is not followed; {ASK}"
        )
    return read(name, options, on_bad, download=ours)


def read(name: str, options: Mapping[str, Any], on_bad: OnBad | None = None, download: bool = True) -> Splits:
    """Call a function of `SOURCES`.

    Args:
        name: its name.
        options: its options.
        on_bad: called with a message and a count for each unreadable item, if the function supports it.
        download: whether a TFDS set may be downloaded.

    """
    more: dict[str, Any] = {"cache": cache_folder("data"), "download": download} if name == "tfds" else {}
    if on_bad and name in (*FILES, "tfds"):
        more["on_bad"] = on_bad
    return SOURCES[name](**options, **more)


def _check(name: str, options: Mapping[str, Any]) -> None:
    """Refuse values that have the right type, but that no run writes."""
    size = options.get("size")
    sides = [1] if size is None else size if isinstance(size, list) else [size]
    axes = 3 if name == "volumes" else 2
    if len(sides) not in (1, axes) or not all(1 <= side <= LARGEST_SIDE for side in sides):
        raise InputError(f"source.options: size: {size}: must be 1 to {LARGEST_SIDE:,} pixels per side")
    if isinstance(size, list) and len(size) != axes:
        raise InputError(f"source.options: size: {size}: must be one number, or one for each of {axes} sides")
    if options.get("seed", 0) < 0:
        raise InputError(f"source.options: seed: {options['seed']}: must be at least 0")
    if name == "tfds" and not NAME.fullmatch(options.get("name", "")):
        raise InputError(
            f"source.options: name: {visible(options.get('name'))[:80]!r}: must be the name of a TFDS set, "
            "such as 'mnist'"
        )
