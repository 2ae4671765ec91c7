"""A run's folder: made or found again, locked while a process trains into it, and whole when it ends.

Messages begin with the path, so that a command can put the flag that named it in front.
"""

import contextlib
import datetime
import logging
import os
import pathlib
import shutil
import stat
from collections.abc import Mapping
from typing import Any

from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.runs.load import read_config

LOCK, PATIENCE = "run.lock", 1.0  # seconds: a process that was just killed may take a moment to end
SAVED = ("checkpoints", "damaged", "replaced")  # folders in a run's, which saving writes into
log = logging.getLogger("jaxcnn")
_locks: dict[pathlib.Path, Any] = {}


def new_folder(root: str | pathlib.Path) -> pathlib.Path:
    """Make a folder that was not there, named after the time.

    Raises:
        InputError: it cannot be made below `root`.

    """
    check_path(root)
    for attempt in range(1000):
        folder = pathlib.Path(root) / (
            datetime.datetime.now().strftime("%Y%m%d-%H%M%S") + (f"-{attempt}" if attempt else "")
        )
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise _unwritable(root, error) from error
    raise InputError(f"{visible(root)}: has a thousand runs of this second; give another")


def begin(folder: pathlib.Path, config: Mapping[str, Any], name: str | pathlib.Path = "") -> None:
    """Lock a folder that is new or empty, and write `config.json` into it; where that fails, the folder goes again.

    Args:
        folder: of the run.
        config: the content of `config.json`.
        name: of the folder in messages; by default its path.

    Raises:
        InputError: it cannot be written, or another process has it.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock(folder)
        files.write_json(folder / "config.json", dict(config))
    except OSError as error:
        release(folder)
        if set(os.listdir(folder) if folder.is_dir() else ()) <= {LOCK}:
            shutil.rmtree(folder, ignore_errors=True)
        raise _unwritable(name or folder, error) from error


def again(folder: pathlib.Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """Lock the folder of an unfinished run, and return its `config.json`.

    Args:
        folder: of the run.
        data: `"name"`, `"rows"` and `"sha256"` of what it is to go on with.

    Raises:
        InputError: it is finished, was trained on other data, has links where checkpoints go, or another process
            trains into it.

    """
    without_links(folder)
    lock(folder)
    try:
        if (folder / "summary.json").exists():  # since it was looked for
            raise InputError(f"{visible(folder)} is finished (it has summary.json)")
        config = read_config(folder)
        check_data(folder, config, data)
    except InputError:
        release(folder)
        raise
    return config


def check_data(folder: pathlib.Path, config: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Refuse to go on with a run on other data.

    Raises:
        InputError: names, numbers of rows or digests differ.

    """
    before = config["data"]
    if {key: before.get(key) for key in data} != dict(data):
        raise InputError(
            f"{visible(folder)} was trained on {visible(before.get('name'))} {before.get('rows')}, "
            f"and this is {visible(data['name'])} {data['rows']}: not the same data"
        )


def _unwritable(path: str | pathlib.Path, error: OSError) -> InputError:
    return InputError(f"{visible(path)}: cannot be written ({error.strerror or reason(error)}); give another")


def check_path(path: str | pathlib.Path) -> None:
    """Refuse a path that checkpoints cannot be written to: libraries below take names in UTF-8 alone.

    Raises:
        InputError: it is not.

    """
    full = os.path.abspath(path)
    try:
        full.encode()
    except UnicodeEncodeError:
        fix = "rename it, or give another"
        if os.fsencode(full).decode("utf-8", "ignore").encode() == os.fsencode(full):
            fix = "set PYTHONUTF8=1, because Python reads names as ASCII here"
        raise InputError(f"{visible(path)}: {visible(full)} is not UTF-8; {fix}") from None


def without_links(folder: pathlib.Path) -> None:
    """Refuse a run whose checkpoints lie behind a link: saving would change what is there.

    Raises:
        InputError: there is one.

    """
    for name in SAVED:
        below = (pathlib.Path(top) / one for top, *both in os.walk(folder / name) for one in (*both[0], *both[1]))
        for path in (folder / name, *below):
            if path.is_symlink():
                raise InputError(
                    f"{visible(path)} is a link, which is not followed; put what it stands for in its place"
                )


def lock(folder: pathlib.Path) -> None:
    """Take the folder for this process, until `release` or its end; warn where there are no locks.

    Raises:
        InputError: another process has it.

    """
    from filelock import FileLock, Timeout

    key, path = folder.absolute(), folder / LOCK
    if key in _locks:
        return
    held = FileLock(str(path), timeout=PATIENCE, thread_local=False)
    try:
        if path.is_symlink() or path.exists() and not stat.S_ISREG(path.stat().st_mode):
            path.unlink()
        held.acquire()
    except Timeout:
        raise InputError(
            f"{visible(folder)}: another process trains into it; wait until it has ended, or stop it"
        ) from None
    except (OSError, NotImplementedError) as error:
        log.warning("%s cannot be locked (%s): see that no other process trains into it", folder, reason(error))
        return
    _locks[key] = held


def release(folder: pathlib.Path) -> None:
    """Let other processes have the folder."""
    if held := _locks.pop(folder.absolute(), None):
        with contextlib.suppress(OSError):  # the folder is gone
            held.release()


def restore(folder: pathlib.Path, config: bytes) -> None:
    """Write `config.json` again if somebody deleted or moved the folder meanwhile: without it nothing loads the checkpoints.

    Raises:
        OSError: it cannot be written.

    """
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        files.write_bytes(folder / "config.json", config)
        log.warning("%s was deleted or moved while the run went on: config.json is written again", folder)


def check_saved(folder: pathlib.Path, step: int) -> None:
    """Refuse to end well without the weights that were tested.

    Raises:
        UnsavedError: there is no checkpoint of this step.

    """
    if not all((folder / "checkpoints" / str(step) / part).is_dir() for part in ("state", "loop")):
        raise UnsavedError(
            f"the weights are not saved: {folder} has no checkpoint of step {step}, which was tested; make room, and go on"
        )


class UnsavedError(OSError):
    """A run that ended without its weights on the disk."""
