"""The folder of an experiment's run: which flag named it, and what its `config.json` says of flags and program."""

import contextlib
import dataclasses
import pathlib
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import jaxcnn as jc
from experiments.settings import Settings
from jaxcnn.runs import Plan, folders
from jaxcnn.runs.ready import describe


@contextlib.contextmanager
def named(flag: str) -> Iterator[None]:
    """Put a flag in front of what the library says of a path."""
    try:
        yield
    except jc.InputError as error:
        raise jc.InputError(f"{flag} {error}") from error


def open_folder(name: str, config: Settings, plan: Plan, splits: jc.data.Splits, sha256: str | None) -> pathlib.Path:
    """Make the run's folder with `config.json` in it, or check that the one to resume is of the same run; lock it for this process.

    Args:
        name: of the experiment.
        config: its flags.
        plan: what to train.
        splits: the rows.
        sha256: of the training rows, if they are in memory.

    Raises:
        InputError: it cannot be written, is another run's, is finished, or another process trains into it.

    """
    content = described(name, config, plan, splits, sha256)
    check_path("--workdir", config.workdir)
    if config.resume:
        with named("--resume:"):
            folders.again(pathlib.Path(config.workdir), content["data"])
        return pathlib.Path(config.workdir)
    with named("--workdir"):
        folder = folders.new_folder(config.workdir)
        folders.begin(folder, content, config.workdir)
    return folder


def check_path(flag: str, path: str) -> None:
    """Refuse a path that checkpoints cannot be written to.

    Raises:
        InputError: it is not UTF-8; the message names the flag.

    """
    with named(flag):
        folders.check_path(path)


def described(name: str, config: Settings, plan: Plan, splits: jc.data.Splits, sha256: str | None) -> dict[str, Any]:
    """Return the content of `config.json`."""
    command = shlex.join(["python", "-m", _program(name), *sys.argv[1:]])
    return describe(plan, splits, sha256) | {"experiment": name, "settings": dataclasses.asdict(config), "command": command}


def _program(name: str) -> str:
    """The module that was started: a study, say, of whose many runs this is one."""
    started = getattr(sys.modules["__main__"].__spec__, "name", "")
    return started if started.startswith("experiments.") else f"experiments.{name}"
