"""The command line that every experiment shares: flags, presets, resume, signals, and exit codes instead of tracebacks."""

import atexit
import contextlib
import dataclasses
import functools
import gc
import logging
import os
import pathlib
import shlex
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, get_type_hints

import jax
import tyro
from typing_extensions import TypedDict

import jaxcnn as jc
from experiments import distributed, early, folders, process, terminal
from experiments.settings import MAY_CHANGE, PLACE, check
from jaxcnn import runs
from jaxcnn.core.schema import fitted
from jaxcnn.core.text import visible
from jaxcnn.runs.signals import Signals

log = logging.getLogger("jaxcnn")


def run(
    main: Callable[[Any, Signals, list[pathlib.Path]], Any], config_type: type, name: str, presets: dict[str, dict[str, Any]] | None = None
) -> None:
    """Parse flags, run `main`, and turn what went wrong into one line and an exit code (see README)."""
    terminal.prepare()
    process.find_home()
    sys.unraisablehook = _without_late_callbacks
    atexit.register(gc.freeze)  # else half a second goes, at exit, to looking for garbage in what goes anyway
    folder: list[pathlib.Path] = []
    stopped = functools.partial(_stopped, name, folder)
    signals: Signals | None = None
    code, config = 0, None
    try:
        config = _parse(config_type, name, presets or {})
        process.prepare(config.gpu_memory_fraction, config.deterministic)
        lost = lambda line: early.end(1 if folder else 2, visible(_failed(name, folder, line)))  # noqa: E731
        distributed.start(config.coordinator, config.processes, config.process_id, lost)
        # after the start of JAX's own, which takes SIGTERM
        signals = Signals(lambda code: early.end(*stopped(code, "outside training")), lambda: _done(folder))
        if config.reuse_memory:
            process.reuse_memory()
        process.keep_programs(config.compilation_cache)
        main(config, signals, folder)
        signals.ignore()
        code = _delivered(name, config)
    except jc.StoppedError as error:
        distributed.finish()
        # at once: a thread may be compiling; a signal to another process stops this one as well
        early.end(*stopped(signals.code or 143, f"after step {error.step}"))
    except Exception as error:
        code = _said(error, name, config, folder)
    finally:
        early.over(code)
        if signals:
            signals.ignore()
            signals.close()
    if _abandoned() or code and jax.process_count() > 1:
        early.end(code, "")  # of several processes the others see that this one is gone; a proper goodbye would wait for them
    if code:
        sys.exit(code)
    distributed.finish()


def _said(error: Exception, name: str, config: Any, folder: list[pathlib.Path]) -> int:
    """Say what went wrong and what is kept, in a line where that explains it, and return the exit code."""
    line = process.too_little(error, config)
    code = 1 if line or folder else 2
    if line is None and not isinstance(error, jc.InputError | jc.DivergedError | OSError | jax.errors.JaxRuntimeError):
        traceback.print_exception(error)
        line, code = f"by an error in the program ({type(error).__name__})", 1
    distributed.grieve()
    terminal.say(_failed(name, folder, line or what(error)) if folder else f"{name}: {line or what(error)}")
    return code


def what(error: BaseException) -> str:
    """Say in a line what went wrong."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _failed(name: str, folder: list[pathlib.Path], line: str) -> str:
    return f"{name}: stopped: {line}; {_kept(folder)}{_continue(name, folder)}"


def _delivered(name: str, config: Any) -> int:
    """Return the exit code of what went well: 1 if its only result is what it prints, and that did not arrive."""
    if (config.evaluate or config.predict) and terminal.lost():
        terminal.say(f"{name}: the result is not printed: standard output cannot be written ({terminal.lost()})")
        return 1
    return 0


def _abandoned() -> bool:
    """Whether there are threads of a save that failed, which wait for minutes for what will not come."""
    return any(type(thread).__name__ == "_SignalingThread" for thread in threading.enumerate())


def _done(folder: list[pathlib.Path]) -> bool:
    """Whether the run has its result."""
    return bool(folder) and (folder[0] / "summary.json").exists()


def _stopped(name: str, folder: list[pathlib.Path], code: int, where: str) -> tuple[int, str]:
    """Return exit code and line of a program that a signal ends."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    if _done(folder):
        return 0, visible(f"{name}: the run was finished when the signal came, {folder[0]}")
    line = f"stopped {where}; {_kept(folder)}{_continue(name, folder)}" if folder else f"{name}: stopped {where}, nothing was begun"
    return code, visible(line)


def _continue(name: str, folder: list[pathlib.Path]) -> str:
    """Say how to go on, if that is possible."""
    going = bool(folder) and not _done(folder) and (folder[0] / "config.json").exists()
    return f"; continue with: python -m experiments.{name} --resume --workdir {quoted(folder[0])}" if going else ""


def quoted(path: pathlib.Path) -> str:
    """Write a path as a shell reads it, in characters that every terminal shows."""
    if visible(path) == str(path):
        return shlex.quote(str(path))
    shown = (chr(b) if 32 <= b < 127 and chr(b) not in "\\'" else f"\\x{b:02x}" for b in os.fsencode(path))
    return f"$'{''.join(shown)}'"


def _without_late_callbacks(event: Any) -> None:
    """After a save that failed, TensorStore's remaining threads report a loop that is closed by then; the failure itself was said."""
    if str(event.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(event)


def _kept(folder: list[pathlib.Path]) -> str:
    if not folder:
        return "nothing was begun"
    steps = sorted(int(p.name) for p in (folder[0] / "checkpoints").glob("[0-9]*") if p.name.isdigit())
    where = folder[0]
    return f"checkpoints are kept in {where}, the newest of step {steps[-1]}" if steps else f"no checkpoint was written yet in {where}"


def _parse(config_type: type, name: str, presets: dict[str, dict[str, Any]]) -> Any:
    """Flags over the defaults; a preset's flag (`--tutorial`), or the run to resume, changes what the defaults are."""
    argv = sys.argv[1:]
    chosen: dict[str, Any] = {}
    for flag, values in presets.items():
        chosen |= values if f"--{flag}" in argv else {}
    parse = lambda default: tyro.cli(config_type, prog=f"python -m experiments.{name}", default=default, args=argv)  # noqa: E731
    config = parse(config_type(**{"workdir": f"checkpoints/{name}"} | chosen))
    check(config)
    folders.check_path("--checkpoint", config.checkpoint)
    if not (config.evaluate or config.predict):
        folders.check_path("--workdir", config.workdir)
    return _resumed(config, parse, name) if config.resume else config


def _resumed(config: Any, parse: Callable[[Any], Any], name: str) -> Any:
    """Return the settings of the run to resume, with what the flags beside --resume may change."""
    folder = find_unfinished(pathlib.Path(config.workdir))
    saved = runs.read_config(folder)
    if saved["experiment"] != name:
        raise jc.InputError(f"{folder}: a run of experiments.{saved['experiment']}, not of {name}")
    kinds = {k: v for k, v in get_type_hints(type(config)).items() if k not in PLACE}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in saved["settings"].items() if k in kinds}
    before = type(config)(**fitted(TypedDict("Settings", kinds, total=False), values, str(folder / "config.json: settings")))
    config = parse(dataclasses.replace(before, resume=True, workdir=str(folder)))
    check(config)
    for field in sorted({f.name for f in dataclasses.fields(config)} - MAY_CHANGE):
        old, new = getattr(before, field), getattr(config, field)
        if old != new:
            flag = field.replace("_", "-")
            raise jc.InputError(f"--resume: --{flag} was {old} and is now {new}; resume without it, or start a new run")
    return dataclasses.replace(config, workdir=str(folder))


def find_unfinished(root: pathlib.Path) -> pathlib.Path:
    """Return the run to resume: the folder itself, or the newest one in it that has no summary."""
    if (root / "config.json").exists():
        if (root / "summary.json").exists():
            raise jc.InputError(f"--resume: {root} is finished (it has summary.json)")
        return root
    found = sorted(p.parent for p in root.glob("*/config.json") if not (p.parent / "summary.json").exists())
    if not found:
        raise jc.InputError(f"--resume: no unfinished run under {root}")
    return found[-1]
