"""The command line of every experiment: presets, resume, and the signals and exit codes of the library."""

import atexit
import functools
import gc
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import tyro

import jaxcnn as jc
from experiments import early
from experiments.settings import check
from jaxcnn import runs
from jaxcnn.cli import command, folders
from jaxcnn.cli.command import quoted, what
from jaxcnn.runs.signals import Signals

__all__ = ["program", "quoted", "run", "what"]


def run(
    main: Callable[[Any, Signals, list[pathlib.Path]], Any],
    config_type: type,
    name: str,
    presets: dict[str, dict[str, Any]] | None = None,
) -> None:
    """Parse the flags, run `main`, and turn errors into one line and an exit code (see README.md).

    Args:
        main: function of the flags, the signals, and a list that receives the run's folder.
        config_type: dataclass of the flags.
        name: name of the experiment.
        presets: dict from a flag to the defaults that it changes.

    """
    sys.unraisablehook = _without_late_callbacks
    atexit.register(gc.freeze)  # otherwise, garbage collection at exit takes half a second
    code = command.run_training(program(name), functools.partial(_parse, config_type, name, presets or {}), main)
    if code:
        sys.exit(code)


def program(name: str) -> command.Program:
    """Describe an experiment: its name, the command that resumes it, and the functions that end it."""
    return command.Program(name, f"python -m experiments.{name} --resume --workdir", early.end, early.over)


def _without_late_callbacks(event: Any) -> None:
    """Suppress "Event loop is closed" from threads of TensorStore after a failed save, which was already reported."""
    if str(event.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(event)


def _parse(config_type: type, name: str, presets: dict[str, dict[str, Any]]) -> Any:
    """Parse the flags; a preset's flag (`--tutorial`) or the run to resume changes the defaults."""
    argv = sys.argv[1:]
    chosen: dict[str, Any] = {}
    for flag, values in presets.items():
        chosen |= values if f"--{flag}" in argv else {}

    def parse(default: Any) -> Any:
        config = tyro.cli(config_type, prog=f"python -m experiments.{name}", default=default, args=argv)
        check(config)
        return config

    config = parse(config_type(**{"workdir": f"checkpoints/{name}"} | chosen))
    folders.check_path("--checkpoint", config.checkpoint)
    if not (config.evaluate or config.predict):
        folders.check_path("--workdir", config.workdir)
    return _resumed(config, parse, name) if config.resume else config


def _resumed(config: Any, parse: Callable[[Any], Any], name: str) -> Any:
    """Return the settings of the run to resume, with the changes that flags beside --resume may make."""
    folder = folders.find_unfinished(pathlib.Path(config.workdir))
    saved = runs.read_config(folder)
    if saved["experiment"] != name:
        raise jc.InputError(f"{folder}: a run of experiments.{saved['experiment']}, not of {name}")
    return folders.resumed(folder, type(config), parse, resume=True, workdir=str(folder))
