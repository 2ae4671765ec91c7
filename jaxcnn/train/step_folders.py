"""The folders `<folder>/<step>` of checkpoints: list them, move them away, and put them back."""

import logging
import pathlib
import re
import shutil
import stat

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.train.stored import LARGEST

STEP = re.compile("0|[1-9][0-9]{0,9}", re.ASCII)
log = logging.getLogger("jaxcnn")


def listed(folder: pathlib.Path) -> list[int]:
    """Return the steps that a folder has checkpoints of, the newest first.

    Raises:
        InputError: the folder may not be read.

    """
    try:
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    except PermissionError as error:
        raise InputError(f"{visible(folder)}: may not be read ({error.strerror})") from error
    return sorted((int(name) for name in names if _is_step(name)), reverse=True)


def _is_step(name: str) -> bool:
    return bool(STEP.fullmatch(name)) and int(name) < LARGEST


def move_away(folder: pathlib.Path, name: str) -> None:
    """Move a damaged checkpoint to `damaged/<name>`; log a warning if that fails."""
    try:
        move(folder / name, folder / "damaged" / name)
    except OSError as error:
        log.warning("checkpoint %s stays where it is (%s)", visible(name), error.strerror)


def clear_odd_names(folder: pathlib.Path) -> None:
    """Move away names that Orbax reads as steps but that are none: it would save no lower step."""
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        if path.name.isdecimal() and not _is_step(path.name):
            log.warning("checkpoint %s is damaged (there is no such step): it is moved away", visible(path.name))
            move_away(folder, path.name)


def recover(folder: pathlib.Path, set_aside: pathlib.Path) -> None:
    """Put back checkpoints that were set aside and have no replacement, and delete the others.

    Args:
        folder: the folder of the checkpoints.
        set_aside: the folder of those that were to be replaced.

    Raises:
        OSError: a checkpoint cannot be renamed.

    """
    if set_aside.is_symlink():
        set_aside.unlink()
    for old in set_aside.glob("*"):
        new = folder / old.name
        if STEP.fullmatch(old.name) and not new.exists():
            old.rename(new)
    shutil.rmtree(set_aside, ignore_errors=True)


def move(source: pathlib.Path, target: pathlib.Path) -> None:
    """Rename `source` to `target`, which is replaced. A link is renamed or removed itself; its target stays.

    Raises:
        OSError: it cannot be renamed.

    """
    for path in (target.parent, target):
        if path.is_symlink() or path.exists() and not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
    if source.exists() or source.is_symlink():
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        source.rename(target)
