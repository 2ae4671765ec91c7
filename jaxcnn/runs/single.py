"""One row from a file or a text, in the form in which a run read its training rows."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxcnn.core.files import Memory
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import centred, read_volume, table_format, words
from jaxcnn.data.folder import read_image
from jaxcnn.data.table import read as read_table
from jaxcnn.data.texts import columns, read_text

Row = dict[str, np.ndarray]


def rows_of(config: Mapping[str, Any], path: pathlib.Path) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a file with their names; only a CSV file of texts has more than one.

    Args:
        config: content of a run's `config.json`.
        path: the file.

    Raises:
        InputError: The file cannot be read, or is of another kind than the run's rows.

    """
    if "text" in config["build"].get("inputs", {}):
        for name, text in read_texts(config, path):
            yield name, text_row(config, text)
    else:
        yield str(path), row_of(config, path)


def row_of(config: Mapping[str, Any], path: pathlib.Path | Memory) -> Row:
    """Return the row of a file, an array for each entry that the network gets.

    Raises:
        InputError: The file cannot be read, or is of another kind than the run's rows.

    """
    if "image" in config["build"]:
        return {"image": pixels(config, path)}
    raise InputError(f"{visible(path)}: rows with {', '.join(config['build']['inputs'])} are read in Python only")


def text_row(config: Mapping[str, Any], text: str) -> Row:
    """Return the row of a text.

    Raises:
        InputError: The text is empty, or the run is not one on texts.

    """
    if "text" not in config["build"].get("inputs", {}):
        raise InputError(f"{visible(text)[:40]!r}: the run is not on texts; give files")
    if not text.strip():
        raise InputError("a text without a character; give one with words")
    how = text_options(config)
    return {"text": words.encode_row(text, how["unit"], how["vocabulary"], how["length"])}


def text_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a run's texts become numbers: `unit`, `vocabulary` and `length`."""
    vocabulary = config["words"].split(" ") if config.get("words") else []
    length = config["build"]["inputs"]["text"]["shape"][0]
    return {"unit": _options(config).get("unit", "words"), "vocabulary": vocabulary, "length": length}


def read_texts(config: Mapping[str, Any], path: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Yield the texts of a file with a name for each: one of a text file, all of a CSV file.

    Raises:
        InputError: The file cannot be read, or a row has no text.

    """
    if path.suffix.lower() != ".csv":
        yield str(path), read_text(path)
        return
    column = _options(config).get("column")
    found = read_table(path, None)
    if column not in found.header:
        table_format(path)
        column = columns(found, path)[0]
    for line, text in zip(found.lines, found.column(column), strict=True):
        if not text:
            raise InputError(f"{visible(path)}: line {line}: no text; add it, or remove the line")
        yield f"{path}:{line}", text


def pixels(config: Mapping[str, Any], path: pathlib.Path | Memory) -> np.ndarray:
    """Read an image or a volume."""
    shape, how = config["build"]["image"]["shape"], _options(config)
    if len(shape) == 4:
        if isinstance(path, Memory):
            raise InputError(f"{visible(path)}: volumes are read from files; use jaxcnn predict")
        low, high = how.get("percentiles") or (0.5, 99.5)
        voxels = read_volume(path, percentiles=(low, high))
        return centred(voxels, tuple(max(n, m) for n, m in zip(shape, voxels.shape, strict=True)))  # nothing is cut
    image = read_image(path, shape[-1], tuple(shape[:2]), how.get("resize", "squash"), how.get("crop_ratio", 1.0))
    dtype = np.dtype(config["build"]["image"]["dtype"])
    return image if dtype == np.uint8 else (image / 255).astype(dtype)


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with which the run's data were read."""
    return (config.get("source") or {}).get("options", {})
