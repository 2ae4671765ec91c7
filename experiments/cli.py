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
from collections.abc import Callable
from typing import Any

import jax
import tyro

import jaxcnn as jc
from experiments import distributed, process
from experiments.settings import MAY_CHANGE, PLACE, check
from experiments.signals import Signals
from jaxcnn import runs

log = logging.getLogger("jaxcnn")


def run(
    main: Callable[[Any, Signals, list[pathlib.Path]], Any], config_type: type, name: str, presets: dict[str, dict[str, Any]] | None = None
) -> None:
    """Parse flags, run `main`, and turn what went wrong into one line and an exit code (see README)."""
    log.handlers[:], log.propagate = [logging.StreamHandler()], False
    log.setLevel(logging.INFO)
    for library in ("absl", "asyncio"):  # Orbax and its writers log a traceback for what we say in a line
        logging.getLogger(library).setLevel(logging.CRITICAL)
    sys.unraisablehook = _without_late_callbacks
    atexit.register(gc.freeze)  # else half a second goes, at exit, to looking for garbage in what goes anyway
    folder: list[pathlib.Path] = []
    say_stopped = functools.partial(_stopped, name, folder)
    signals: Signals | None = None
    code, config = 0, None
    try:
        config = _parse(config_type, name, presets or {})
        process.prepare(config.gpu_memory_fraction, config.deterministic)
        lost = lambda line: _end(1 if folder else 2, f"{name}: stopped: {line}; {_kept(folder)}{_continue(name, folder)}")  # noqa: E731
        distributed.start(config.coordinator, config.processes, config.process_id, lost)
        signals = Signals(lambda code: _end(code, say_stopped("outside training")))  # after the start of JAX's own, which takes SIGTERM
        if config.reuse_memory:
            process.reuse_memory()
        process.keep_programs(config.compilation_cache)
        main(config, signals, folder)
        signals.ignore()
    except (jc.InputError, jc.DivergedError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
        line = process.out_of_memory(error, config) or (str(error).splitlines()[0] if str(error) else type(error).__name__)
        code = 1 if folder else 2
        distributed.grieve()
        print(f"{name}: stopped: {line}; {_kept(folder)}" if folder else f"{name}: {line}", file=sys.stderr)
    except jc.StoppedError as error:
        distributed.finish()
        code = signals.code or 143  # a signal to another process stops this one as well
        _end(code, say_stopped(f"after step {error.step}"))  # at once: a thread may be compiling
    finally:
        if signals:
            signals.ignore()
            signals.close()
    if _abandoned() or code and jax.process_count() > 1:
        _end(code, "")  # of several processes the others see that this one is gone; a proper goodbye would wait for them
    if code:
        sys.exit(code)
    distributed.finish()


def _abandoned() -> bool:
    """Whether there are threads of a save that failed, which wait for minutes for what will not come."""
    return any(type(thread).__name__ == "_SignalingThread" for thread in threading.enumerate())


def _end(code: int, line: str) -> None:
    """End the program from whatever thread, while others may be in the middle of a call that takes minutes."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os.write(2, f"{line}\n".encode() if line else b"")
    os._exit(code)


def _stopped(name: str, folder: list[pathlib.Path], where: str) -> str:
    return f"stopped {where}; {_kept(folder)}{_continue(name, folder)}" if folder else f"{name}: stopped {where}, nothing was begun"


def _continue(name: str, folder: list[pathlib.Path]) -> str:
    return f"; continue with: python -m experiments.{name} --resume --workdir {shlex.quote(str(folder[0]))}" if folder else ""


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
    if not config.resume:
        return config
    folder = find_unfinished(pathlib.Path(config.workdir))
    saved = runs.read_config(folder)
    if saved["experiment"] != name:
        raise jc.InputError(f"{folder}: a run of experiments.{saved['experiment']}, not of {name}")
    known = {f.name for f in dataclasses.fields(config_type)}
    before = config_type(**{k: tuple(v) if isinstance(v, list) else v for k, v in saved["settings"].items() if k in known - PLACE})
    config = parse(dataclasses.replace(before, resume=True, workdir=str(folder)))
    for field in sorted(known - MAY_CHANGE):
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
