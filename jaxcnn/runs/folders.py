"""The folder of a run: created or reopened, locked while a process trains into it, and checked for completeness.

Messages start with the path, so that a command can put the name of the flag in front of it.
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

LOCK, PATIENCE = "run.lock", 1.0  # seconds: a killed process may take a moment to end
SAVED = ("checkpoints", "damaged", "replaced")  # subfolders that saving writes into
log = logging.getLogger("jaxcnn")
_locks: dict[pathlib.Path, Any] = {}


def new_folder(root: str | pathlib.Path) -> pathlib.Path:
    """Create a new folder below `root`, named after the current time.

    Raises:
        InputError: The folder cannot be created.

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
    raise InputError(f"{visible(root)}: has 1,000 runs of this second; give another folder")


def begin(folder: pathlib.Path, config: Mapping[str, Any], name: str | pathlib.Path = "") -> None:
    """Lock a new or empty folder and write `config.json` into it; if that fails, remove the folder.

    Args:
        folder: folder of the run.
        config: content of `config.json`.
        name: name of the folder in messages; by default its path.

    Raises:
        InputError: The folder cannot be written, or another process has locked it.

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
        folder: folder of the run.
        data: `"name"`, `"rows"` and `"sha256"` of the data to continue with.

    Raises:
        InputError: The run is finished, was trained on other data, has links among its checkpoints, or another process
            trains into it.

    """
    without_links(folder)
    lock(folder)
    try:
        if (folder / "summary.json").exists():  # written after the caller looked for it
            raise InputError(f"{visible(folder)} is finished (it has summary.json)")
        config = read_config(folder)
        check_data(folder, config, data)
    except InputError:
        release(folder)
        raise
    return config


def check_data(folder: pathlib.Path, config: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Refuse to continue a run on other data.

    Args:
        folder: folder of the run, for the message.
        config: content of its `config.json`.
        data: `"name"`, `"rows"` and `"sha256"` of the present data.

    Raises:
        InputError: The names, the numbers of rows or the digests differ.

    """
    before = config["data"]
    if {key: before.get(key) for key in data} != dict(data):
        raise InputError(
            f"{visible(folder)} was trained on {visible(before.get('name'))} {before.get('rows')}, "
            f"and this is {visible(data['name'])} {data['rows']}: not the same data"
        )


def _unwritable(path: str | pathlib.Path, error: OSError) -> InputError:
    return InputError(f"{visible(path)}: cannot be written ({error.strerror or reason(error)}); give another folder")


def check_path(path: str | pathlib.Path) -> None:
    """Refuse a path that is not UTF-8: the checkpoint library accepts no other names.

    Raises:
        InputError: The path is not UTF-8.

    """
    full = os.path.abspath(path)
    try:
        full.encode()
    except UnicodeEncodeError:
        fix = "rename it, or give another path"
        if os.fsencode(full).decode("utf-8", "ignore").encode() == os.fsencode(full):
            fix = "set PYTHONUTF8=1, because Python reads names as ASCII here"
        raise InputError(f"{visible(path)}: {visible(full)} is not UTF-8; {fix}") from None


def without_links(folder: pathlib.Path) -> None:
    """Refuse a run with links among its checkpoints: saving would change the files that they point to.

    Raises:
        InputError: There is a link.

    """
    for name in SAVED:
        below = (pathlib.Path(top) / one for top, *both in os.walk(folder / name) for one in (*both[0], *both[1]))
        for path in (folder / name, *below):
            if path.is_symlink():
                raise InputError(
                    f"{visible(path)} is a link, which is not followed; replace it with the file or folder it points to"
                )


def lock(folder: pathlib.Path) -> None:
    """Lock the folder for this process until `release`; log a warning if the file system has no locks.

    Raises:
        InputError: Another process has locked it.

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
        log.warning("%s cannot be locked (%s): make sure that no other process trains into it", folder, reason(error))
        return
    _locks[key] = held


def release(folder: pathlib.Path) -> None:
    """Unlock the folder."""
    if held := _locks.pop(folder.absolute(), None):
        with contextlib.suppress(OSError):  # the folder is gone
            held.release()


def restore(folder: pathlib.Path, config: bytes) -> None:
    """Write `config.json` again if the folder was deleted or moved during training: checkpoints need it to load.

    Args:
        folder: folder of the run.
        config: bytes of its `config.json`.

    Raises:
        OSError: The file cannot be written.

    """
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        files.write_bytes(folder / "config.json", config)
        log.warning("%s was deleted or moved during training: config.json is written again", folder)


def check_saved(folder: pathlib.Path, step: int) -> None:
    """Make sure that the tested weights are on disk.

    Args:
        folder: folder of the run.
        step: training step of the weights.

    Raises:
        UnsavedError: There is no checkpoint of this step.

    """
    if not all((folder / "checkpoints" / str(step) / part).is_dir() for part in ("state", "loop")):
        raise UnsavedError(
            f"the weights are not saved: {folder} has no checkpoint of step {step}, which was tested; "
            "free disk space, and resume the run"
        )


class UnsavedError(OSError):
    """The tested weights of a run are not on disk."""
