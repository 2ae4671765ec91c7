"""How data are read, as a run's `config.json` says it: a function of `jaxcnn.data` by name and options, and whether to follow its paths."""

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
from jaxcnn.data import SOURCES, Splits, is_idx_folder
from jaxcnn.runs.options import check_options

PLACES = ("path", "data_dir")  # options of a source that say where it is
RESERVED = ("cache", "on_bad", "download", "resident_bytes")  # options that no file gives
LARGEST_SIDE = 2**14
NAME = re.compile(r"\w+(/[\w.=-]+)?(:[\d.*]+)?")  # of a TFDS set
ASK = "say where the data are: place= (--data in jaxcnn.report, --dataset or --data-dir with --evaluate)"
OnBad = Callable[[str, int], None]


def source(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Describe how data are read, for `config.json`.

    The description carries a mark that only this user's cache folder can make: paths in the folder of a run that was made elsewhere
    are not followed.

    Args:
        name: of a function of `jaxcnn.data`, as in `SOURCES`.
        options: its plain options; paths are made absolute.

    """
    places = {k: str(expanded(options[k]).absolute()) for k in PLACES if options.get(k)}
    described = {"name": name, "options": {**options, **places}}
    mark = None if name == "digits" else _mark(described, make=True)
    return described | ({"made_here": mark} if mark else {})


def made_here(described: Mapping[str, Any]) -> bool:
    """Whether this user's own training described data so."""
    said, mark = described.get("made_here"), _mark(described)
    return (
        mark is not None
        and isinstance(said, str)
        and hmac.compare_digest(said.encode("utf-8", "replace"), mark.encode())
    )


def _mark(described: Mapping[str, Any], make: bool = False) -> str | None:
    """HMAC of a description under this user's key; None where there is no key, and none can be made."""
    try:
        path = cache_folder("runs") / "key"
        if make and not path.exists():
            _make_key(path)
        key = path.read_bytes() if path.is_file() else b""
    except (OSError, RuntimeError):  # no home, or no room in it
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
            os.link(part, path)  # a rename would take the place of the key of a process that was faster
    finally:
        os.unlink(part)


def find(dataset: str, data_dir: str | None = None) -> tuple[str, dict[str, Any]]:
    """Say which function of `SOURCES` reads what a user names, and with which options.

    Args:
        dataset: `digits`, the name of a TFDS set, or a path: an image folder, an `.npz`, a CSV file, a folder of IDX files or one of
            them.
        data_dir: where TFDS sets are prepared.

    Raises:
        InputError: a path that leads to nothing that can be read.

    """
    path = expanded(dataset)
    here = {"path": str(path)}
    if dataset == "digits":
        return "digits", {}
    if path.suffix == ".npz":
        return "npz", here
    if path.suffix.lower() == ".csv" and path.is_file():
        return "csv", here
    if path.is_dir():
        return ("idx" if is_idx_folder(path) or any(map(_like_idx, path.iterdir())) else "folder"), here
    if _like_idx(path):
        return "idx", here
    if path.exists():
        raise InputError(
            f"{visible(dataset)}: not a data set; give a folder of images, a CSV file, an .npz file, or a folder of IDX files"
        )
    if dataset.startswith(("/", "./", "../", "~")) or not NAME.fullmatch(dataset):
        raise InputError(f"{visible(dataset)}: no such file or folder, and no name of a TFDS set")
    return "tfds", {"name": dataset} | ({"data_dir": data_dir} if data_dir else {})


def _like_idx(path: pathlib.Path) -> bool:
    """Whether a file has a name like MNIST's, such as `emnist-digits-train-images-idx3-ubyte.gz`."""
    return bool(re.search(r"ubyte|idx[1-4]|\.idx\b", path.name.lower())) and path.is_file()


def described(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Say how a run's data were read; of a run older than that record, what its settings tell; None where they do not."""
    if config.get("source") is not None:
        return dict(config["source"])
    settings, name = config["settings"], config["data"]["name"]
    if "validation_fraction" not in settings:
        return None
    if config["build"] is None:
        return None
    options, size = (
        {"validation_fraction": settings["validation_fraction"]},
        list(config["build"]["image"]["shape"][:2]),
    )
    if settings.get("folder"):
        more = {"path": settings["folder"], "classes": settings.get("classes") or None, "size": size}
        return {"name": "folder", "options": options | more}
    if name == "digits" or name.endswith(".npz"):
        return (
            {"name": "digits", "options": options}
            if name == "digits"
            else {"name": "npz", "options": options | {"path": name}}
        )
    return {"name": "tfds", "options": options | {"name": name, "size": size}} if NAME.fullmatch(name) else None


def read_described(described: Mapping[str, Any], place: str | None = None, on_bad: OnBad | None = None) -> Splits:
    """Read data as a run did: from where the user says they are, or else from where the run did if it was made here.

    Raises:
        InputError: what the file says cannot be done, its path is not to be followed, or the data are not there.

    """
    name, options = described["name"], dict(described["options"])
    if name not in SOURCES:
        raise InputError(
            f"its config.json says that {visible(name)[:80]!r} read the data, which this version does not know; update it"
        )
    try:
        check_options(SOURCES[name], options, "source.options", leave=RESERVED)
        _check(name, options)
    except InputError as error:
        raise InputError(
            f"its config.json says how the data were read in a way that this version does not know ({error})"
        ) from error
    where, ours = next((options[k] for k in PLACES if options.get(k)), None), made_here(described)
    if place is not None:
        options["data_dir" if name == "tfds" else "path"] = place
    elif where is None and name in ("csv", "folder", "npz", "idx"):
        raise InputError(f"its config.json does not say where the data are; {ASK}")
    elif where is not None and not ours:
        raise InputError(
            f"the run was not made here, so the path in its config.json, {visible(where)[:200]}, is not followed; {ASK}"
        )
    return read(name, options, on_bad, download=ours)


def read(name: str, options: Mapping[str, Any], on_bad: OnBad | None = None, download: bool = True) -> Splits:
    """Call a function of `SOURCES` with what it takes besides the options of a file."""
    more: dict[str, Any] = {"cache": cache_folder("data"), "download": download} if name == "tfds" else {}
    if on_bad and name in ("csv", "folder", "tfds"):
        more["on_bad"] = on_bad
    return SOURCES[name](**options, **more)


def _check(name: str, options: Mapping[str, Any]) -> None:
    """Refuse values that have the right type, but that no run writes."""
    size = options.get("size")
    sides = [1] if size is None else size if isinstance(size, list) else [size]
    if (
        len(sides) not in (1, 2)
        or not all(1 <= side <= LARGEST_SIDE for side in sides)
        or size is not None
        and sides == []
    ):
        raise InputError(f"source.options: size: {size}: must be 1 to {LARGEST_SIDE:,} pixels a side")
    if isinstance(size, list) and len(size) != 2:
        raise InputError(f"source.options: size: {size}: must be one number, or height and width")
    if options.get("seed", 0) < 0:
        raise InputError(f"source.options: seed: {options['seed']}: must be at least 0")
    if name == "tfds" and not NAME.fullmatch(options.get("name", "")):
        raise InputError(
            f"source.options: name: {visible(options.get('name'))[:80]!r}: must be the name of a TFDS set, such as 'mnist'"
        )
