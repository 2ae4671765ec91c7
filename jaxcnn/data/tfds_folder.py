"""Prepared TFDS folders: finding them, and checking their metadata before TFDS reads it.

TFDS imports the module of any class named in `features.json`, and trusts the paths and counts in the metadata.
"""

import functools
import math
import os
import pathlib
import re
import stat
from collections.abc import Iterator
from typing import Any

from jaxcnn.core.files import Path, expanded, parse_json, read_json
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason

BYTES = 2**24  # most bytes of a metadata file
ENTRIES = 200_000  # most files in a prepared folder
SHARDS = 100_000  # most shards of a split
CLASSES = 10**6
VALUES = 2**28  # most values of an image
HOMELESS = "set TFDS_DATA_DIR, or give a data_dir"  # the fix if the user has no home folder
NAME = re.compile(r"(?P<set>[A-Za-z]\w*)(?:/(?P<config>[\w+.-]+))?(?::(?P<version>(?:\d+|\*)(?:\.(?:\d+|\*)){2}))?")
VERSION = re.compile(r"(?:(?:0|[1-9]\d{0,8})(?:\.|$)){3}(?<!\.)")
TEMPLATE = re.compile(r"(?:\{(?:DATASET|SPLIT|FILEFORMAT|SHARD_INDEX|NUM_SHARDS|SHARD_X_OF_Y)\}|[\w.%-]|(?<=.)/)+")
CLASS_NAMES = ("pythonClassName", "python_class_name", "type")  # keys for class names in all versions of TFDS so far


def find(library: Any, name: str, data_dir: Path | None, every: bool = False) -> list[pathlib.Path]:
    """Return the version folders that match the name of a set.

    Args:
        library: the module `tensorflow_datasets`.
        name: `set`, `set/configuration` or `set:version`, as in TFDS.
        data_dir: folder with prepared sets; by default TFDS's own folders.
        every: return all matching versions and configurations, not only the latest version of each configuration in
            each folder.

    """
    if not (parsed := NAME.fullmatch(name)):
        return []
    config, wanted = parsed["config"], re.escape(parsed["version"] or "*.*.*").replace(r"\*", r"\d+")
    found = []
    for base in _bases(library, parsed["set"], data_dir):
        for place in _configs(base, config, every):
            versions = [p for p in _folders(place) if VERSION.fullmatch(p.name) and re.fullmatch(wanted, p.name)]
            versions.sort(key=lambda p: tuple(map(int, p.name.split("."))))
            found += versions if every else versions[-1:]
    return found


def prepared_names(library: Any, name: str, data_dir: Path | None) -> list[str]:
    """Return the names of the prepared versions and configurations of a set.

    Args:
        library: the module `tensorflow_datasets`.
        name: name of the set, see `find`.
        data_dir: folder with prepared sets; by default TFDS's own folders.

    """
    parsed = NAME.fullmatch(name)
    bases = _bases(library, parsed["set"], data_dir) if parsed else []
    return sorted({p.name for base in bases for p in _folders(base) if not p.name.startswith(".")})


def _bases(library: Any, name: str, data_dir: Path | None) -> list[pathlib.Path]:
    snake = library.core.naming.camelcase_to_snakecase(name)
    default = library.core.constants.DATA_DIR if data_dir is None else data_dir
    expanded(default, HOMELESS)  # without a home folder, TFDS would raise an error with no advice
    return [expanded(root, HOMELESS) / snake for root in library.core.utils.file_utils.list_data_dirs(data_dir)]


def _configs(base: pathlib.Path, config: str | None, every: bool) -> list[pathlib.Path]:
    """Folders of a set that may have versions: of the given or the default configuration, of no one, or of all."""
    if config:
        return [base / config] if config.strip(".") else []
    stated, folders = base / ".config" / "metadata.json", _folders(base)
    default = read_json(stated, BYTES) if os.path.lexists(stated) else None
    default = default.get("default_config_name") if isinstance(default, dict) else None
    if every:
        return [base, *folders]
    if isinstance(default, str) and base / default in folders:
        return [base / default]
    if any(VERSION.fullmatch(p.name) for p in folders):
        return [base]
    return [p for p in folders if not p.name.startswith(".")]


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
    try:
        return sorted(p for p in path.iterdir() if p.is_dir())
    except OSError:
        return []


def check(library: Any, folder: pathlib.Path) -> None:
    """Refuse a version folder whose metadata would make TFDS import code, hang, or read files outside the folder.

    Args:
        library: the module `tensorflow_datasets`.
        folder: the version folder, such as `.../mnist/3.0.1`.

    Raises:
        InputError: A value is refused; the message names the file and the value.

    """
    try:
        _check(library, folder)
    except InputError as error:
        raise InputError(f"{error}; delete the folder and prepare the set again") from None


def _check(library: Any, folder: pathlib.Path) -> None:
    from tensorflow_datasets.core.proto import feature_pb2

    _refuse_special_files(folder)
    allowed = _allowed(library)
    for file in ("features.json", "dataset_info.json"):
        if not (folder / file).exists():
            continue
        value, where = read_json(folder / file, BYTES), visible(folder / file)
        if not isinstance(value, dict):
            raise InputError(f"{where}: must be a JSON object")
        # the rest of dataset_info.json names no classes, and uses the key "type" for other values
        _refuse_classes(value if file == "features.json" else value.get("features"), allowed, where)
        if file == "dataset_info.json":
            _check_info(value, where)
        elif "type" not in value:  # only TFDS 4.0 and 4.1 wrote this key
            kind = feature_pb2.Feature  # pyright: ignore[reportAttributeAccessIssue] (made at import)
            _message(value, kind(), where)


def _refuse_special_files(folder: pathlib.Path) -> None:
    """Refuse pipes and devices, which would make TFDS hang, and too many files; links to regular files are allowed."""
    count = 0
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            count += 1
            if count > ENTRIES:
                raise InputError(f"{visible(folder)}: more than {ENTRIES:,} files")
            try:
                found = os.stat(path)
            except OSError:  # a broken link counts as a missing file
                continue
            if not stat.S_ISREG(found.st_mode):
                raise InputError(f"{visible(path)}: not a regular file")
            if name.endswith((".json", ".txt")) and found.st_size > BYTES:
                raise InputError(
                    f"{visible(path)}: {found.st_size:,} bytes, more than the limit of {BYTES:,} for such a file"
                )


@functools.cache
def _allowed(library: Any) -> frozenset[str]:
    """Full names of the feature classes of TFDS, including those of earlier versions."""
    classes = [x for x in vars(library.features).values() if isinstance(x, type)]
    kinds = [x for x in classes if issubclass(x, library.features.FeatureConnector)]
    return frozenset(name for x in kinds for name in (f"{x.__module__}.{x.__name__}", *vars(x).get("ALIASES", ())))


def _refuse_classes(value: Any, allowed: frozenset[str], where: str) -> None:
    """Refuse foreign classes and file names in nested metadata, including JSON within strings."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
            try:
                left.append(parse_json(value, where))
            except InputError as error:
                if "nested" in str(error):
                    raise
        elif isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            for key, inner in value.items():
                if key in CLASS_NAMES and isinstance(inner, str) and inner not in allowed:
                    raise InputError(
                        f"{where}: the feature class {visible(inner)!r} is not one of TFDS's own, and is not imported"
                    )
                if key in ("names_file", "labels", "encoder", "encoder_config") and isinstance(inner, str):
                    raise InputError(
                        f"{where}: {key}: {visible(inner)[:80]!r}: a file or encoder elsewhere is not read"
                    )
                if "\0" in key or ".." in re.split(r"[/\\]", key) or key.startswith("/"):
                    raise InputError(f"{where}: the feature name {visible(key)[:80]!r} is a path")
                left.append(inner)


def _message(value: dict[str, Any], into: Any, where: str) -> Any:
    """Check the types of all fields against TFDS's own schema."""
    from google.protobuf import json_format

    try:
        return json_format.ParseDict(value, into)
    except (json_format.ParseError, RecursionError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: {visible(reason(error)).rstrip('.')}") from None


def _check_info(value: dict[str, Any], where: str) -> None:
    """Check the names and splits in `dataset_info.json`."""
    from tensorflow_datasets.core.proto import dataset_info_pb2

    kind = dataset_info_pb2.DatasetInfo  # pyright: ignore[reportAttributeAccessIssue] (made at import)
    info = _message(value, kind(), where)
    if not re.fullmatch(r"[A-Za-z]\w*", info.name) or not VERSION.fullmatch(info.version):
        raise InputError(
            f"{where}: name {visible(info.name)[:80]!r}, version {visible(info.version)[:80]!r}: must be those of a set"
        )
    if info.file_format not in ("", "tfrecord", "array_record"):
        raise InputError(f"{where}: fileFormat {visible(info.file_format)[:80]!r}: must be tfrecord or array_record")
    for split in info.splits:
        stated = f"{where}: split {visible(split.name)[:80]!r}"
        if not re.fullmatch(r"[\w-]{1,100}", split.name) or not split.name.strip("_-"):
            raise InputError(f"{stated}: must be a plain name")
        template = split.filepath_template
        if template and (len(template) > 200 or ".." in template or not TEMPLATE.fullmatch(template)):
            raise InputError(f"{stated}: filepathTemplate {visible(template)[:80]!r}: must be a plain file name")
        if len(split.shard_lengths) > SHARDS:
            raise InputError(f"{stated}: {len(split.shard_lengths):,} shards, more than {SHARDS:,}")
        if any(n < 0 for n in split.shard_lengths):
            raise InputError(f"{stated}: shardLengths has {min(split.shard_lengths)}")


def check_features(image: Any, label: Any, where: str) -> None:
    """Refuse images and labels of implausible sizes.

    Args:
        image: TFDS's image feature.
        label: TFDS's label feature.
        where: name of the set, for messages.

    Raises:
        InputError: The image shape or the number of classes is out of range.

    """
    check_image(image, where)
    if not isinstance(label.num_classes, int) or not 1 <= label.num_classes <= CLASSES:
        raise InputError(f"{where}: {label.num_classes} classes; must be 1 to {CLASSES:,}")


def check_image(image: Any, where: str) -> None:
    """Refuse images of an implausible size, see `check_features`."""
    shape = image.shape
    sides = [1 if n is None else n for n in shape]
    whole = len(shape) == 3 and all(isinstance(n, int) and n >= 1 for n in sides)
    if not whole or math.prod(sides) > VALUES or sides[2] > 4:
        raise InputError(
            f"{where}: images of shape {visible(shape)}; "
            f"must be [H, W, C] with 1 to 4 channels and at most {VALUES:,} values"
        )


def check_rows(info: Any, name: str, where: str) -> None:
    """Refuse a split that states more rows than its files can have: each row takes at least one byte.

    Args:
        info: TFDS's information about the whole split.
        name: name of the split.
        where: the folder, for the message.

    Raises:
        InputError: The split states too many rows.

    """
    size = sum(_sizes(info.filepaths))
    if info.num_examples > 10_000 + size:
        stated = f"{info.num_examples:,} rows of split {name}, and their files have {size:,} bytes"
        raise InputError(f"{where}: dataset_info.json states {stated}; delete the folder and prepare it again")


def _sizes(paths: Any) -> Iterator[int]:
    for path in paths:
        try:
            yield os.stat(path).st_size
        except OSError:
            yield 0
