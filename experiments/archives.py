"""Unpacks the files that an experiment needs from an archive, once."""

import pathlib
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jaxcnn as jc
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import reason

LARGEST = 2**26  # bytes of a file in an archive
Place = Callable[[str], str | None]  # name in an archive -> path below the folder, or None to leave it out
PHOTOS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10 = re.compile(rf"(?:.*/)?((train|test)/({'|'.join(PHOTOS)})/(\d{{4}})\.(?:jpg|png))")
BROKEN = (OSError, zipfile.BadZipFile, tarfile.TarError, RuntimeError, EOFError)


class Photo(NamedTuple):
    """An image of CIFAR-10's archive: its place `train/cat/0042.jpg`, and the parts of that."""

    place: str
    part: str
    kind: str
    number: str


def photo(name: str) -> Photo | None:
    """Return what a name in the archive of CIFAR-10 says, or None if it is not that of an image."""
    found = CIFAR10.fullmatch(name)
    return Photo(*found.groups()) if found else None


def folder_of(name: str, config: Any, place: Place) -> pathlib.Path:
    """Return the folder of an experiment's data, unpacked where an archive is given.

    Args:
        name: of the experiment.
        config: its flags, with `data` and `unpacked`.
        place: see `unpack`.

    """
    if not config.data:
        raise jc.InputError(f"DATA: give the archive or the folder, as in python -m experiments.{name} DATA")
    given = files.expanded(config.data)
    return given if given.is_dir() else unpack(given, config.unpacked or f"checkpoints/data/{name}", place)


def unpack(archive: str | pathlib.Path, folder: str | pathlib.Path, place: Place) -> pathlib.Path:
    """Unpack the files of an archive that have a place, if they are not there already.

    Args:
        archive: a `.zip` or `.tar` file, compressed or not.
        folder: where the files go.
        place: name in the archive to the path below the folder, or None to leave a file out.

    Raises:
        InputError: the archive cannot be read, or has no such files.

    """
    folder, count = pathlib.Path(folder), 0
    if not pathlib.Path(archive).is_file():
        raise jc.InputError(f"{visible(archive)}: cannot be unpacked (no such file); give the archive")
    try:
        for name, size, read in _members(archive):
            if (to := place(name)) is None:
                continue
            count, path = count + 1, folder / to
            if size > LARGEST:
                raise jc.InputError(f"{visible(archive)}: {visible(name)} has {size:,} bytes; get the archive again")
            if not path.is_file() or path.stat().st_size != size:
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write_bytes(path, read())
    except BROKEN as error:
        raise jc.InputError(f"{visible(archive)}: cannot be unpacked ({reason(error)}); get it again") from error
    if not count:
        raise jc.InputError(f"{visible(archive)}: has none of the files of this experiment; give its archive")
    return folder


def _members(archive: str | pathlib.Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """Yield the name of each file, its bytes, and a function that reads it."""
    if not tarfile.is_tarfile(archive):
        with zipfile.ZipFile(archive) as found:
            for info in found.infolist():
                yield info.filename, info.file_size, lambda info=info: found.read(info)
        return
    with tarfile.open(archive) as found:
        for member in found:
            if member.isfile() and (inside := found.extractfile(member)):
                yield member.name, member.size, inside.read
