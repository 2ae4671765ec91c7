"""The folder of an experiment's run, and the flags and the program in its `config.json`."""

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
    """Make the run's folder, or check the one to resume, and lock it for this process.

    Args:
        name: name of the experiment.
        config: its flags.
        plan: what to train.
        splits: the rows.
        sha256: digest of the training rows, if they are in memory.

    Raises:
        InputError: the folder cannot be written, belongs to a different run, is finished, or is in use by a process.

    """
    return folders.open_folder(described(name, config, plan, splits, sha256), config.workdir, config.resume)


def described(name: str, config: Settings, plan: Plan, splits: jc.data.Splits, sha256: str | None) -> dict[str, Any]:
    """Return the content of `config.json`.

    Args:
        name: name of the experiment.
        config: its flags.
        plan: what to train.
        splits: the rows.
        sha256: digest of the training rows, if they are in memory.

    """
    command = shlex.join(["python", "-m", _program(name), *sys.argv[1:]])
    return describe(plan, splits, sha256) | {
        "experiment": name,
        "settings": dataclasses.asdict(config),
        "command": command,
    }


def _program(name: str) -> str:
    """Return the module that was started, such as a study that this run is a part of."""
    started = getattr(sys.modules["__main__"].__spec__, "name", "")
    return started if started.startswith("experiments.") else f"experiments.{name}"
