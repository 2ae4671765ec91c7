"""One row from a file or a text, or the rows of a sound or of a table, in the form of a run's training rows."""

import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxcnn.core.files import Memory
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import centred, read_sound, read_volume, table_format, windows, words
from jaxcnn.data.folder import read_image
from jaxcnn.data.formats import first_line
from jaxcnn.data.series import SUFFIXES, unlabelled
from jaxcnn.data.series_table import ENDS
from jaxcnn.data.sound_file import check_rate
from jaxcnn.data.table import read as read_table
from jaxcnn.data.texts import columns, read_text
from jaxcnn.runs.described import reading

Row = dict[str, np.ndarray]
AT_ONCE = 32  # windows of a sound that are in memory


Bad = Callable[[InputError], None]  # called with the error of a table row, which is then skipped


def rows_of(
    config: Mapping[str, Any], path: pathlib.Path, label: str = "", on_bad: Bad | None = None
) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a file with their names; only a table of texts or of series has more than one.

    Args:
        config: content of a run's `config.json`.
        path: the file.
        label: column of labels of series, as for `series_rows`.
        on_bad: called with the error of each unusable table row, which is then skipped; None to raise.

    Raises:
        InputError: The file cannot be read, or is of another kind than the run's rows.

    """
    if "text" in config["build"].get("inputs", {}):
        for name, text in read_texts(config, path, on_bad):
            yield name, text_row(config, text)
    elif "series" in config["build"].get("inputs", {}):
        yield from series_rows(config, path, label, on_bad)
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


def rate_of(config: Mapping[str, Any]) -> int:
    """Return the samples per second of a run's sounds.

    Raises:
        InputError: Nothing says them.

    """
    rate = _options(config).get("rate") or config["build"]["model"]["options"].get("rate")
    if rate is None:
        raise InputError("config.json: does not say how many samples per second the sounds have; train with rate=")
    check_rate(rate)
    return rate


def sound_rows(config: Mapping[str, Any], path: pathlib.Path | Memory) -> Iterator[tuple[tuple[float, float], Row]]:
    """Yield the rows of a sound of any length: windows that overlap by half, with the seconds of their start and end.

    Raises:
        InputError: The file cannot be read.

    """
    rate, (size,) = rate_of(config), config["build"]["inputs"]["audio"]["shape"]
    audio, hop = read_sound(path, rate), max(size // 2, 1)
    for first in range(0, max(len(audio) - size, 0) + hop, AT_ONCE * hop):
        rows, lengths = windows(audio[first : first + (AT_ONCE - 1) * hop + size], size, hop)
        for k, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            start = first + k * hop
            yield (start / rate, (start + int(length)) / rate), {"audio": row, "length": np.array(length, np.int32)}
        if first + (AT_ONCE - 1) * hop + size >= len(audio):
            return


def series_rows(
    config: Mapping[str, Any], path: pathlib.Path, label: str = "", on_bad: Bad | None = None
) -> Iterator[tuple[str, Row]]:
    """Yield the series of a file with their lines.

    Args:
        config: content of a run's `config.json`.
        path: the file.
        label: column of labels, which is left out: `"first"`, `"last"` or a name in the header; `"none"` if rows have
            values only. By default they have values only, unless the header has the name that the run's labels had.
        on_bad: as in `rows_of`.

    Raises:
        InputError: The file cannot be read, a series is longer than those of the run or has other channels, or it is
            not clear whether a column has labels.

    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{visible(path)}: the run is on series; give a file {', '.join(SUFFIXES)}")
    how, (steps, channels) = _options(config), config["build"]["inputs"]["series"]["shape"]
    known, said, label = how.get("label", "first"), bool(label), "" if label == "none" else label
    if not said and isinstance(known, str) and known not in ENDS and path.suffix.lower() != ".ts":
        label = known if known in first_line(path) else ""
    found, lines = unlabelled(path, label=label, standardise=bool(how.get("standardise")))
    if found["series"].shape[2] != channels:
        have = found["series"].shape[2]
        raise InputError(f"{visible(path)}: series of {have} channels, and the run's have {channels}; give such series")
    if not said and known in ENDS and path.suffix.lower() != ".ts" and found["length"].max() < steps:
        _check_ends(config, unlabelled(path)[0], known, path)
    for x, length, line in zip(found["series"], found["length"], lines, strict=True):
        if length > steps:
            fix = "shorten it" + (", or name the column of labels with --label-column" if not label else "")
            values = f"{length} values, and the run's series have {steps}"
            _left_out(InputError(f"{visible(path)}: line {line}: {values}; {fix}"), on_bad)
            continue
        row = np.zeros((steps, channels), np.float32)
        row[:length] = x[:length]
        yield f"{path}:{line}", {"series": row, "length": np.array(length, np.int32)}


def _check_ends(config: Mapping[str, Any], found: Mapping[str, np.ndarray], end: str, path: pathlib.Path) -> None:
    """Refuse series whose first or last values are all class names: they may be labels."""
    numbers = {np.float32(name) for name in config["classes"] if re.fullmatch(r"[+-]?\d+", name)}
    at = np.zeros_like(found["length"]) if end == "first" else found["length"] - 1
    if set(found["series"][np.arange(len(at)), at, 0]) <= numbers:
        raise InputError(
            f"{visible(path)}: the {end} value of every series is a class name, so it may be a label; give "
            f"--label-column {end}, or none if it is a value"
        )


def text_row(config: Mapping[str, Any], text: str) -> Row:
    """Return the row of a text.

    Raises:
        InputError: The text is empty, or the run is not one on texts.

    """
    if "text" not in config["build"].get("inputs", {}):
        raise InputError(f"{visible(text)[:40]!r}: the run is not on texts; give files")
    if not (text := text.strip()):
        raise InputError("a text without a character; give one with words")
    how = text_options(config)
    return {"text": words.encode_row(text, how["unit"], how["vocabulary"], how["length"])}


def text_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a run's texts become numbers: `unit`, `vocabulary` and `length`."""
    vocabulary = config["words"].split(" ") if config.get("words") else []
    length = config["build"]["inputs"]["text"]["shape"][0]
    return {"unit": _options(config).get("unit", "words"), "vocabulary": vocabulary, "length": length}


def _left_out(error: InputError, on_bad: Bad | None) -> None:
    if on_bad is None:
        raise error
    on_bad(error)


def read_texts(config: Mapping[str, Any], path: pathlib.Path, on_bad: Bad | None = None) -> Iterator[tuple[str, str]]:
    """Yield the texts of a file with a name for each: one of a text file, all of a CSV file; see `rows_of`.

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
            _left_out(InputError(f"{visible(path)}: line {line}: no text; add it, or remove the line"), on_bad)
            continue
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
    image = read_image(path, shape[-1], tuple(shape[:2]), *reading(config))
    dtype = np.dtype(config["build"]["image"]["dtype"])
    return image if dtype == np.uint8 else (image / 255).astype(dtype)


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with which the run's data were read."""
    return (config.get("source") or {}).get("options", {})
