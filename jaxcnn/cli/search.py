"""`jaxcnn search RUN FILES --index FILE`: find the most similar images of an index, make one, or find duplicates."""

import dataclasses
import logging
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

from jaxcnn import deploy, runs
from jaxcnn.cli import command, flags, options, runtime
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError

log = logging.getLogger("jaxcnn")
NAME = "search"


@dataclasses.dataclass(frozen=True)
class Search:
    """Print the most similar images of an index for each image as one line of JSON; make and extend the index."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")] = ""
    """Folder of a run. An embedding run gives its vectors, any other the pooled features before its head."""
    files: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILES")] = ()
    """Images to search for, or folders of them."""
    index: str = ""
    """The index, a .safetensors file."""
    add: tuple[str, ...] = ()
    """Folders whose images are added to the index, which is made if it is missing. The name of an image is the folder
    that it is in, or its own name."""
    k: int = 5
    """How many images of the index to print for each image."""
    least_score: float = -1.0
    """Lowest cosine that is printed, in -1..1."""
    duplicates: float = 0.0
    """Print all pairs whose cosine is at least this, such as 0.98: of the index, or without --index of FILES."""
    on_bad_example: str = "stop"
    """What to do when an image cannot be read: stop, or skip it with a warning."""
    compilation_cache: str = ""
    """Folder for compiled programs; by default the user's cache folder, off for none."""


def main(arguments: Sequence[str]) -> int:
    """Search, and return the exit code."""
    return command.run(lambda: find(options.parse(Search, NAME, arguments)), f"jaxcnn {NAME}", options.WIDTH)


def find(config: Search) -> list[dict[str, Any]]:
    """Extend the index, print what is similar, and return it, one dict per image or pair."""
    _check(config)
    runtime.keep_programs(config.compilation_cache)
    try:
        use = deploy.embedder(runs.load_run(config.run))
    except InputError as error:
        named = str(error).startswith(visible(config.run))
        raise InputError(str(error) if named else f"{visible(config.run)}: {error}") from error
    unreadable = _skipped if config.on_bad_example == "skip" else None
    index = _index(config, use, unreadable) if config.index else None
    if config.duplicates:
        return _duplicates(config, use, index, unreadable)
    if not config.files or index is None:
        return []
    if config.k > len(index.names):
        raise InputError(f"--k {config.k}: must be at most {len(index.names)}, the images of {visible(config.index)}")
    vectors, names = deploy.embed_files(use, _images(config.files), unreadable=unreadable)
    found = []
    for name, matches in zip(names, deploy.search(index, vectors, config.k), strict=True):
        near = [one for one in matches if one.score >= config.least_score]
        found.append({"file": name, "nearest": [_shown(one) for one in near]})
        print(files.to_json(found[-1]), flush=True)
    return found


def _check(config: Search) -> None:
    if not config.run:
        raise InputError("RUN: give the folder of a run, as in jaxcnn search RUN photo.jpg --index photos.safetensors")
    if not (config.index or config.duplicates and config.files):
        raise InputError("--index: give a file, such as photos.safetensors; --add FOLDER makes it")
    if config.index and not (config.files or config.add or config.duplicates):
        raise InputError("FILES: give images to search for, --add FOLDER to extend the index, or --duplicates 0.98")
    if config.k < 1:
        raise InputError(f"--k {config.k}: must be at least 1")
    if not -1 <= config.least_score <= 1:
        raise InputError(f"--least-score {config.least_score}: a cosine, must be in -1..1")
    if not 0 <= config.duplicates <= 1:
        raise InputError(f"--duplicates {config.duplicates}: a cosine, must be in 0..1, such as 0.98")
    if config.duplicates and config.index and config.files:
        raise InputError(
            "--duplicates: compares the images of --index, or FILES without --index; leave one of them out"
        )
    flags.one_of("--on-bad-example", config.on_bad_example, flags.ON_BAD_EXAMPLE)


def _index(config: Search, use: deploy.Embedder, unreadable: Callable[[str], None] | None) -> deploy.Index:
    """Read the index, and add the images of the folders to it."""
    index = None
    if not config.add or pathlib.Path(config.index).exists():
        index = deploy.load_index(config.index)
        try:
            deploy.enrol(index, index.vectors, index.names, run=use.run)
        except InputError as error:
            raise InputError(f"--index {visible(config.index)}: {error}") from error
    before = 0 if index is None else len(index.names)
    written = pathlib.Path(config.index).stat().st_mtime if index is not None and config.add else math.inf
    fresh = 0
    for folder in map(pathlib.Path, config.add):
        there = set() if index is None else {os.path.abspath(name) for name in index.files if name}
        given = [pathlib.Path(os.path.abspath(path)) for path in deploy.images_in(folder)]
        paths = [path for path in given if str(path) not in there or path.stat().st_ctime >= written]
        if paths:
            vectors, found = deploy.embed_files(use, paths, unreadable=unreadable)
            names = [_name(pathlib.Path(name).relative_to(os.path.abspath(folder))) for name in found]
            index = deploy.enrol(_without(index, found), vectors, names, files=found, run=use.run)
            fresh += len(found)
    if index is None:
        raise InputError("--add: no images")
    if fresh:
        deploy.save_index(index, config.index)
    if config.add:
        new = len(index.names) - before
        log.warning(
            "%s: %d images, %d of them new, %d read again", visible(config.index), len(index.names), new, fresh - new
        )
    return index


def _without(index: deploy.Index | None, paths: Sequence[str]) -> deploy.Index | None:
    """Return an index without the images at these paths, whose files have changed; None if none is left."""
    if index is None:
        return None
    gone = set(paths)
    kept = [i for i, name in enumerate(index.files) if not name or os.path.abspath(name) not in gone]
    if not kept:
        return None
    names, places = (tuple(values[i] for i in kept) for values in (index.names, index.files))
    return index._replace(vectors=index.vectors[kept], names=names, files=places)


def _duplicates(
    config: Search, use: deploy.Embedder, index: deploy.Index | None, unreadable: Callable[[str], None] | None
) -> list[dict[str, Any]]:
    """Print the pairs of an index, or of the images that are given, that are almost equal."""
    if index is None:
        vectors, names = deploy.embed_files(use, _images(config.files), unreadable=unreadable)
        index = deploy.enrol(None, vectors, [pathlib.Path(name).name for name in names], files=names, run=use.run)
    found = []
    for one, other in deploy.near_duplicates(index, config.duplicates):
        found.append({"files": [one.file, other.file], "score": round(one.score, 6)})
        print(files.to_json(found[-1]), flush=True)
    log.warning("%d pairs of %d images", len(found), len(index.names))
    return found


def _images(given: Sequence[str]) -> list[pathlib.Path]:
    """Return files and the images in folders, in order."""
    found: list[pathlib.Path] = []
    for path in map(pathlib.Path, given):
        if not path.exists():
            raise InputError(f"{visible(path)}: no such file or folder")
        found += deploy.images_in(path) if path.is_dir() else [path]
    return found


def _name(path: pathlib.Path) -> str:
    return path.parts[0] if len(path.parts) > 1 else path.stem


def _shown(match: deploy.Match) -> dict[str, Any]:
    return {"file": match.file, "name": match.name, "score": round(match.score, 6)}


def _skipped(line: str) -> None:
    log.warning("left out: %s", line)
