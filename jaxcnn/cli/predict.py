"""`jaxcnn predict RUN FILES`: predict the class of each file, text or series, of pixels, or of objects in an image."""

import csv
import dataclasses
import io
import itertools
import logging
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import tyro

from jaxcnn import runs
from jaxcnn.cli import command, flags, options, pictures, predict_sounds, runtime
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.folder import ENDINGS
from jaxcnn.data.nifti import ENDINGS as VOLUMES
from jaxcnn.data.series import SUFFIXES
from jaxcnn.data.sound_file import ENDINGS as SOUNDS
from jaxcnn.deploy import outputs
from jaxcnn.deploy.answers import LEAST_SCORE, described
from jaxcnn.runs import single

log = logging.getLogger("jaxcnn")
NAME = "predict"
TEXTS = (".txt", ".csv")


@dataclasses.dataclass(frozen=True)
class Predict:
    """Print the prediction for each file as one line of JSON: probabilities, shares of the pixels, or boxes."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")] = ""
    """Folder of a run."""
    files: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILES")] = ()
    """Images or sounds, or folders of them; for a run on texts, .txt files, or a .csv with a column of texts; for a run
    on series, a table with a series in each row."""
    text: tuple[str, ...] = ()
    """Texts to predict, for a run on texts."""
    label_column: str = ""
    """Column of labels in tables of series, which is left out: first, last, its name, or none; by default there is
    none."""
    csv: str = ""
    """Write a table to this file instead: file, class, probability, and a column per class."""
    out: str = ""
    """Folder for pictures of segmentation and detection; by default predictions/ in the run's folder."""
    least_score: float = LEAST_SCORE
    """Lowest score of a box, in 0..1."""
    together: bool = False
    """Compute the files of a batch together: up to three times as fast, but digits at the end then depend on it."""
    on_bad_example: str = "stop"
    """What to do when an image cannot be read: stop, or skip it with a warning."""
    compilation_cache: str = ""
    """Folder for compiled programs; by default the user's cache folder, off for none."""


def main(arguments: Sequence[str]) -> int:
    """Predict, and return the exit code."""
    return command.run(lambda: predict(options.parse(Predict, NAME, arguments)), f"jaxcnn {NAME}", options.WIDTH)


def predict(config: Predict) -> list[dict[str, Any]]:
    """Print or write the predictions for images, and return them, one dict per image."""
    if not config.run or not (config.files or config.text):
        raise InputError("RUN and FILES: give the folder of a run and files, as in jaxcnn predict RUN photo.jpg")
    if not 0 <= config.least_score <= 1:
        raise InputError(f"--least-score {config.least_score}: must be in 0..1")
    flags.one_of("--on-bad-example", config.on_bad_example, flags.ON_BAD_EXAMPLE)
    runtime.keep_programs(config.compilation_cache)
    loaded = runs.load_run(config.run)
    if loaded.config["build"] is None:
        raise InputError(
            f"{visible(config.run)}: its model is your own; predict with jaxcnn.load_run(RUN, task=...) in Python"
        )
    paths, found = input_files(config.files, endings(loaded.config)), []
    if config.csv and os.path.realpath(config.csv) in {os.path.realpath(path) for path in paths}:
        raise InputError(f"--csv {visible(config.csv)}: would replace an input; give another file")
    folder = config.out or os.path.join(config.run, "predictions")
    draw = pictures.drawer(loaded, folder, paths, config.least_score)
    if config.out and draw is None:
        raise InputError(f"--out {visible(config.out)}: only segmentation and detection draw pictures; leave it out")
    if config.least_score != LEAST_SCORE and loaded.config["build"]["task"]["name"] != "detection":
        raise InputError(f"--least-score {config.least_score}: only applies to detection; leave it out")
    for one in _predictions(config, loaded, paths, draw):
        found.append(one)
        if not config.csv:
            print(files.to_json(found[-1]), flush=True)
    if config.csv:
        write(config.csv, found)
        print(f"{visible(config.csv)}: {len(found):,} rows", flush=True)
    return found


def _predictions(
    config: Predict, loaded: Any, paths: Sequence[pathlib.Path], draw: Callable[[str, Any], dict[str, Any]] | None
) -> Iterator[dict[str, Any]]:
    """Yield the prediction for each row, or for each file of sound."""
    skip, inputs = config.on_bad_example == "skip", loaded.config["build"].get("inputs", {})
    if config.label_column and "series" not in inputs:
        line = "the run is not on series; leave it out"
        raise InputError(f"--label-column {visible(config.label_column)}: {line}")
    if "audio" in inputs and not config.text:
        windows = predict_sounds.windows(loaded, paths, skip)
        yield from predict_sounds.averaged(loaded, predicted(loaded, windows, config.together))
        return
    given = rows(loaded, paths, config.text, skip, config.label_column)
    for file, one in predicted(loaded, given, config.together):
        yield described(loaded, file, one) if draw is None else draw(file, one)


def endings(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return how the names of files end that a run predicts."""
    if "image" in config["build"]:
        return (*ENDINGS, *VOLUMES)
    inputs = config["build"]["inputs"]
    return (*SOUNDS,) if "audio" in inputs else SUFFIXES if "series" in inputs else TEXTS


def input_files(given: Sequence[str], ends: tuple[str, ...]) -> list[pathlib.Path]:
    """Return files, and those in folders whose names have one of the endings, in order.

    Raises:
        InputError: a path does not exist, or a folder has no such file.

    """
    found: list[pathlib.Path] = []
    if "" in given:
        raise InputError("FILES: an empty name was given; give a file or a folder")
    for path in map(pathlib.Path, given):
        if not path.exists():
            raise InputError(f"{visible(path)}: no such file or folder")
        inside = [path]
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.name.lower().endswith(ends) and p.is_file())
        if not inside:
            what = "images" if ".png" in ends else f"files ({' '.join(sorted(ends))})"
            raise InputError(f"{visible(path)}: no {what} in this folder; give a different folder, or files")
        found += inside
    return found


def rows(
    loaded: Any, paths: Sequence[pathlib.Path], texts: Sequence[str], skip: bool = False, label: str = ""
) -> Iterator[tuple[str, single.Row]]:
    """Yield the rows of files and of texts, with their names.

    Args:
        loaded: the run.
        paths: the files.
        texts: the texts.
        skip: whether a file that cannot be read is left out with a warning.
        label: column of labels in tables of series.

    Raises:
        InputError: a file cannot be read, or is of another kind than the run's rows.

    """

    def left_out(error: InputError) -> None:
        log.warning("left out: %s", error)

    for path in paths:
        try:
            yield from single.rows_of(loaded.config, path, label, left_out if skip else None)
        except InputError as error:
            if not skip:
                raise InputError(f"{error}; leave it out, or give --on-bad-example skip") from error
            left_out(error)
    for text in texts:
        if os.path.isfile(text):
            raise InputError(f"--text {visible(text)[:80]}: is a file; give it before --text")
        yield text, single.text_row(loaded.config, text)


def predicted(loaded: Any, found: Iterator[tuple[Any, single.Row]], together: bool) -> Iterator[tuple[Any, Any]]:
    """Yield the name of each row with its prediction; rows are read a few at a time."""
    run = outputs.outputs(loaded, together)
    most, width = 1 if len(loaded.config["build"].get("image", {}).get("shape", ())) == 4 else outputs.AT_ONCE, 0
    while some := list(itertools.islice(found, most)):
        width = most if width else len(some)  # one compiled program serves all batches
        yield from zip((name for name, _ in some), run([row for _, row in some], width), strict=True)


def write(path: str, found: Sequence[dict[str, Any]]) -> None:
    """Write predictions as a CSV file, completely or not at all.

    Raises:
        InputError: the file cannot be written.

    """
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    if found and "objects" in found[0]:  # a row for each object
        rows.writerow(("file", "class", "score", "left", "top", "right", "bottom"))
        for one in found:
            for thing in one["objects"]:
                rows.writerow((visible(one["file"]), visible(thing["class"]), thing["score"], *thing["box"]))
        found = ()
    for number, one in enumerate(found):
        each = one.get("probabilities") or one.get("shares") or one.get("millilitres") or {}
        rest = {k: v for k, v in one.items() if k not in ("probabilities", "shares", "millilitres", "windows")}
        plain = {k: ";".join(map(str, v)) if isinstance(v, list) else v for k, v in rest.items()}
        if not number:  # a class could have the name of a column
            clash = set(plain) & set(each)
            rows.writerow([*plain, *(f"class {visible(name)}" if clash else visible(name) for name in each)])
        rows.writerow([visible(x) if isinstance(x, str) else x for x in [*plain.values(), *each.values()]])
    try:
        files.write_text(pathlib.Path(path), text.getvalue())
    except OSError as error:
        raise InputError(f"--csv {visible(path)}: cannot be written ({error.strerror}); give another file") from error
