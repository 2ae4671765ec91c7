"""Where an export goes: its names, what may be replaced there, and moving files in all together or not at all."""

import contextlib
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.deploy.formats import ENDINGS, FOLDERS, files_of
from jaxcnn.deploy.program import why

MOST_BYTES = 2**24  # of the JSON file of an older export


def target(path: str | os.PathLike | None, run: pathlib.Path | None, to: str, int8: bool) -> tuple[pathlib.Path, str]:
    """Return the folder of an export, and the name of its program without the ending of the format.

    Args:
        path: as in `deploy.export`.
        run: folder of the run; only None if there is a path.
        to: the format.
        int8: whether the program computes in integers, which its usual name says.

    Raises:
        InputError: the path names no program, or has the ending of another format.

    """
    usual = "model_int8" if int8 else "model"
    place = (run or pathlib.Path()) / "exported" / usual if path is None else pathlib.Path(path)
    if path is not None and (os.fspath(path).endswith(("/", os.sep)) or to not in FOLDERS and place.is_dir()):
        place = place / usual
    suffix, own = place.suffix.lower(), ENDINGS.get(to, "")
    if others := [name for name, ending in ENDINGS.items() if ending == suffix != own]:
        raise InputError(
            f"path={visible(place)}: {suffix} is the ending of {others[0]}, not of {to}; give a name without it"
        )
    stem = place.name[: -len(own)] if own and suffix == own else place.name
    if not stem or stem in (".", ".."):
        raise InputError(f"path={visible(place)}: must end in a name for the program")
    return place.parent, f"{stem}_{to}" if to in FOLDERS and stem == usual else stem


def check(folder: pathlib.Path, to: str, stem: str) -> None:
    """Refuse to replace anything but an older export to the same format, as the JSON file beside it names it.

    Args:
        folder: of the export.
        to: the format.
        stem: name of the program without its ending.

    Raises:
        InputError: a file or a folder of one of the names is something else.

    """
    names = files_of(to, stem)
    report = f"{names[0]}.json"
    known = _named(folder / report, to)
    for name in (*names, report):
        place = folder / name
        if not os.path.lexists(place):
            continue
        is_folder = place.is_dir() and not place.is_symlink()
        if is_folder and (to not in FOLDERS or name == report):
            raise InputError(f"{visible(place)}: is a folder; give another path")
        found = [p for p in place.rglob("*") if p.is_symlink() or not p.is_dir()] if is_folder else [place]
        inside = {p.relative_to(folder).as_posix() for p in found}
        ours = known is not None and (name == report or inside <= known)
        if found and not ours:
            kind = "folder" if is_folder else "file"
            raise InputError(f"{visible(place)}: is a {kind} that was not written by an export to {to}; "
                             "give another path, or move it away")  # fmt: skip


def _named(report: pathlib.Path, to: str) -> set[str] | None:
    """Return the files that the JSON file of an export to this format names; None if it is none."""
    try:
        made: Any = files.read_json(report, MOST_BYTES)
        return set(made["sha256"]) if made["format"] == to and isinstance(made["sha256"], dict) else None
    except (InputError, OSError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def beside(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Make a hidden folder in a folder, and remove it in the end, with the folders above that are still empty."""
    part = folder / f".{secrets.token_hex(8)}.part"
    new = [p for p in (folder, *folder.parents) if not os.path.lexists(p)]
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{visible(folder)}: cannot be written ({why(error)}); give another path") from error
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
        with contextlib.suppress(OSError):
            for one in new:
                one.rmdir()


def put(part: pathlib.Path, folder: pathlib.Path, names: Sequence[str]) -> None:
    """Move files and folders to their places; if one cannot be moved, what was there before comes back.

    Args:
        part: folder that holds them, on the same disk.
        folder: where they go.
        names: their names; what a place holds is replaced.

    Raises:
        InputError: one of them cannot be moved.

    """
    aside, begun = folder / f".{secrets.token_hex(8)}.old", []
    try:
        aside.mkdir()
        for name in names:
            begun.append(name)
            if os.path.lexists(folder / name):
                os.replace(folder / name, aside / name)
            os.replace(part / name, folder / name)
    except BaseException as error:
        back = _restored(part, folder, aside, begun)
        if not isinstance(error, OSError):
            raise
        where = visible(folder / begun[-1] if begun else folder)
        kept = "" if back else f"; what was there before is in {visible(aside)}"
        raise InputError(f"{where}: cannot be written ({why(error)}); give another path{kept}") from error
    shutil.rmtree(aside, ignore_errors=True)


def _restored(part: pathlib.Path, folder: pathlib.Path, aside: pathlib.Path, names: Sequence[str]) -> bool:
    """Take new files away and move old ones back; return whether all are back."""
    back = True
    for name in reversed(names):
        try:
            if not os.path.lexists(part / name):  # it was moved
                os.replace(folder / name, part / name)
            if os.path.lexists(aside / name):
                os.replace(aside / name, folder / name)
        except OSError:
            back = False
    if back:
        shutil.rmtree(aside, ignore_errors=True)
    return back
