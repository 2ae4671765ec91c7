"""The folder of an experiment's run, and what its `config.json` says of flags and program."""

import dataclasses
import pathlib
import shlex
import sys
from typing import Any

import jaxcnn as jc
from experiments.settings import Settings
from jaxcnn.cli import folders
from jaxcnn.cli.folders import check_path, named
from jaxcnn.runs import Plan
from jaxcnn.runs.ready import describe

__all__ = ["check_path", "described", "named", "open_folder"]


def open_folder(name: str, config: Settings, plan: Plan, splits: jc.data.Splits, sha256: str | None) -> pathlib.Path:
    """Make the run's folder, or check the one to resume; lock it for this process.

    Args:
        name: of the experiment.
        config: its flags.
        plan: what to train.
        splits: the rows.
        sha256: of the training rows, if they are in memory.

    Raises:
        InputError: it cannot be written, is another run's, is finished, or another process trains into it.

    """
    return folders.open_folder(described(name, config, plan, splits, sha256), config.workdir, config.resume)


def described(name: str, config: Settings, plan: Plan, splits: jc.data.Splits, sha256: str | None) -> dict[str, Any]:
    """Return the content of `config.json`."""
    command = shlex.join(["python", "-m", _program(name), *sys.argv[1:]])
    return describe(plan, splits, sha256) | {
        "experiment": name,
        "settings": dataclasses.asdict(config),
        "command": command,
    }


def _program(name: str) -> str:
    """The module that was started: a study, say, of whose many runs this is one."""
    started = getattr(sys.modules["__main__"].__spec__, "name", "")
    return started if started.startswith("experiments.") else f"experiments.{name}"
