"""A run's folder: made or found again, locked while a process trains into it, and whole when it ends."""

import contextlib
import dataclasses
import datetime
import logging
import os
import pathlib
import platform
import shlex
import shutil
import stat
import sys
from importlib import metadata
from typing import Any

import jaxcnn as jc
from experiments.settings import Settings
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import reason

LOCK, PATIENCE = "run.lock", 1.0  # seconds: a process that was just killed may take a moment to end
SAVED = ("checkpoints", "damaged", "replaced")  # folders in a run's, which saving writes into
log = logging.getLogger("jaxcnn")
_locks: dict[pathlib.Path, Any] = {}


def open_folder(name: str, config: Settings, plan: Any, splits: jc.data.Splits, sha256: str | None) -> pathlib.Path:
    """Make the run's folder with `config.json` in it, or check that the one to resume is of the same run; lock it for this process.

    Args:
        name: of the experiment.
        config: its flags.
        plan: what to train, a `common.Plan`.
        splits: the rows.
        sha256: of the training rows, if they are in memory.

    Raises:
        InputError: it cannot be written, is another run's, is finished, or another process trains into it.

    """
    data = {"name": plan.dataset, "rows": [part.size for part in splits], "sha256": sha256}
    check_path("--workdir", config.workdir)
    if config.resume:
        return _again(pathlib.Path(config.workdir), data)
    folder = _made(pathlib.Path(config.workdir))
    try:
        lock(folder)
        files.write_json(folder / "config.json", described(name, config, plan, splits, data))
    except OSError as error:
        release(folder)
        shutil.rmtree(folder, ignore_errors=True)  # it was made here
        raise _unwritable(config.workdir, error) from error
    return folder


def _again(folder: pathlib.Path, data: dict[str, Any]) -> pathlib.Path:
    """Return the folder of an unfinished run, locked."""
    without_links(folder)
    lock(folder)
    if (folder / "summary.json").exists():  # since it was looked for
        release(folder)
        raise jc.InputError(f"--resume: {visible(folder)} is finished (it has summary.json)")
    before = runs.read_config(folder)["data"]
    if {key: before.get(key) for key in data} != data:
        release(folder)
        raise jc.InputError(
            f"--resume: {visible(folder)} was trained on {visible(before.get('name'))} {before.get('rows')}, "
            f"and this is {visible(data['name'])} {data['rows']}: not the same data"
        )
    return folder


def _made(root: pathlib.Path) -> pathlib.Path:
    """Make a folder that was not there, named after the time."""
    for attempt in range(1000):
        folder = root / (datetime.datetime.now().strftime("%Y%m%d-%H%M%S") + (f"-{attempt}" if attempt else ""))
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise _unwritable(root, error) from error
    raise jc.InputError(f"--workdir {visible(root)}: has a thousand runs of this second; give another")


def _unwritable(root: str | pathlib.Path, error: OSError) -> jc.InputError:
    return jc.InputError(f"--workdir {visible(root)}: cannot be written ({error.strerror or reason(error)}); give another")


def described(name: str, config: Settings, plan: Any, splits: jc.data.Splits, data: dict[str, Any]) -> dict[str, Any]:
    """Return the content of `config.json`."""
    versions = {package: metadata.version(package) for package in ("jax", "flax", "optax", "orbax-checkpoint", "numpy")}
    return {
        "experiment": name, "settings": dataclasses.asdict(config),
        "command": shlex.join(["python", "-m", _program(name), *sys.argv[1:]]),
        "versions": versions | {"jaxcnn": jc.__version__, "python": platform.python_version()}, "classes": list(splits.train.classes),
        "data": data, "source": plan.source, "build": plan.build,
    }  # fmt: skip


def _program(name: str) -> str:
    """The module that was started: a study, say, of whose many runs this is one."""
    started = getattr(sys.modules["__main__"].__spec__, "name", "")
    return started if started.startswith("experiments.") else f"experiments.{name}"


def check_path(flag: str, path: str) -> None:
    """Refuse a path that checkpoints cannot be written to: libraries below take names in UTF-8 alone.

    Raises:
        InputError: it is not; the message names the flag.

    """
    full = os.path.abspath(path)
    try:
        full.encode()
    except UnicodeEncodeError:
        fix = "rename it, or give another"
        if os.fsencode(full).decode("utf-8", "ignore").encode() == os.fsencode(full):
            fix = "set PYTHONUTF8=1, because Python reads names as ASCII here"
        raise jc.InputError(f"{flag} {visible(path)}: {visible(full)} is not UTF-8; {fix}") from None


def without_links(folder: pathlib.Path) -> None:
    """Refuse a run whose checkpoints lie behind a link: saving would change what is there.

    Raises:
        InputError: there is one.

    """
    for name in SAVED:
        below = (pathlib.Path(top) / one for top, *both in os.walk(folder / name) for one in (*both[0], *both[1]))
        for path in (folder / name, *below):
            if path.is_symlink():
                raise jc.InputError(f"--resume: {visible(path)} is a link, which is not followed; put what it stands for in its place")


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
        raise jc.InputError(f"--resume: another process trains into {visible(folder)}; wait until it has ended, or stop it") from None
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
        raise UnsavedError(f"the weights are not saved: {folder} has no checkpoint of step {step}, which was tested; make room, and go on")


class UnsavedError(OSError):
    """A run that ended without its weights on the disk."""
