"""What commands share: one line for what went wrong, exit codes, and, where a command trains, signals and several processes."""

import contextlib
import functools
import os
import pathlib
import shlex
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxcnn.cli import distributed, runtime, terminal
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.runs.signals import Signals
from jaxcnn.train import DivergedError, StoppedError


class Program(NamedTuple):
    """A command, as messages name it.

    Attributes:
        name: what its messages begin with.
        again: the command that goes on with a run, without the run's folder.
        end: called with an exit code and a line where the program must end at once, from whatever thread.
        over: called with the exit code once the run's result is known.
        columns: at which what is logged is wrapped; by default nowhere.

    """

    name: str
    again: str
    end: Callable[[int, str], Any]
    over: Callable[[int], Any]
    columns: int | None = None


def end(code: int, line: str) -> None:
    """End the program at once, from whatever thread."""
    with contextlib.suppress(OSError):  # nobody listens
        os.write(2, f"{line}\n".encode("ascii", "backslashreplace") if line else b"")
    os._exit(code)


def run(main: Callable[[], Any], name: str, columns: int | None = None) -> int:
    """Run `main`; what a user can mend is one line and exit code 2, and Ctrl-C is 130.

    Args:
        main: parses the flags and does the work.
        name: of the command, which its messages begin with.
        columns: at which what is logged is wrapped; by default nowhere.

    Returns:
        The exit code.

    """
    terminal.prepare(columns)
    runtime.find_home()
    try:
        main()
    except (InputError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
        terminal.say(f"{name}: {what(error)}")
        return 1 if runtime.too_little(error, None) else 2
    except KeyboardInterrupt:
        terminal.say(f"{name}: stopped")
        return 130
    if terminal.lost():
        terminal.say(f"{name}: not all is printed: standard output cannot be written ({terminal.lost()})")
        return 1
    return 0


def run_training(
    program: Program, parse: Callable[[], Any], main: Callable[[Any, Signals, list[pathlib.Path]], Any]
) -> int:
    """Parse flags, run `main`, and turn what went wrong into one line and an exit code.

    Args:
        program: what it is called.
        parse: returns the flags: a dataclass with the groups `Machine` and `Processes`.
        main: called with the flags, what watches for signals, and a list that receives the run's folder.

    Returns:
        The exit code.

    """
    terminal.prepare(program.columns)
    runtime.find_home()
    folder: list[pathlib.Path] = []
    stopped = functools.partial(_stopped, program, folder)
    signals: Signals | None = None
    code, config = 0, None
    try:
        config = parse()
        runtime.prepare(config.gpu_memory_fraction, config.deterministic)

        def lost(line):
            return program.end(1 if folder else 2, visible(_failed(program, folder, line)))

        distributed.start(config.coordinator, config.processes, config.process_id, lost)
        # after the start of JAX's own, which takes SIGTERM
        signals = Signals(lambda code: program.end(*stopped(code, "outside training")), lambda: _done(folder))
        if config.reuse_memory:
            runtime.reuse_memory()
        runtime.keep_programs(config.compilation_cache)
        main(config, signals, folder)
        signals.ignore()
        code = _delivered(program.name, config)
    except StoppedError as error:
        distributed.finish()
        # at once: a thread may be compiling; a signal to another process stops this one as well
        program.end(*stopped((signals.code if signals else 0) or 143, f"after step {error.step}"))
    except Exception as error:
        code = _said(error, program, config, folder)
    finally:
        program.over(code)
        if signals:
            signals.ignore()
            signals.close()
    if _abandoned() or code and jax.process_count() > 1:
        program.end(
            code, ""
        )  # of several processes the others see that this one is gone; a proper goodbye would wait for them
    if not code:
        distributed.finish()
    return code


def _said(error: Exception, program: Program, config: Any, folder: list[pathlib.Path]) -> int:
    """Say what went wrong and what is kept, in a line where that explains it, and return the exit code."""
    line = runtime.too_little(error, config)
    code = 1 if line or folder else 2
    if line is None and not isinstance(error, InputError | DivergedError | OSError | jax.errors.JaxRuntimeError):
        traceback.print_exception(error)
        line, code = f"by an error in the program ({type(error).__name__})", 1
    distributed.grieve()
    terminal.say(_failed(program, folder, line or what(error)) if folder else f"{program.name}: {line or what(error)}")
    return code


def what(error: BaseException) -> str:
    """Say in a line what went wrong."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _failed(program: Program, folder: list[pathlib.Path], line: str) -> str:
    return f"{program.name}: stopped: {line}; {_kept(folder)}{_continue(program, folder)}"


def _delivered(name: str, config: Any) -> int:
    """Return the exit code of what went well: 1 if its only result is what it prints, and that did not arrive."""
    if (getattr(config, "evaluate", False) or getattr(config, "predict", ())) and terminal.lost():
        terminal.say(f"{name}: the result is not printed: standard output cannot be written ({terminal.lost()})")
        return 1
    return 0


def _abandoned() -> bool:
    """Whether there are threads of a save that failed, which wait for minutes for what will not come."""
    return any(type(thread).__name__ == "_SignalingThread" for thread in threading.enumerate())


def _done(folder: list[pathlib.Path]) -> bool:
    """Whether the run has its result."""
    return bool(folder) and (folder[0] / "summary.json").exists()


def _stopped(program: Program, folder: list[pathlib.Path], code: int, where: str) -> tuple[int, str]:
    """Return exit code and line of a program that a signal ends."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    if _done(folder):
        return 0, visible(f"{program.name}: the run was finished when the signal came, {folder[0]}")
    line = (
        f"stopped {where}; {_kept(folder)}{_continue(program, folder)}"
        if folder
        else f"{program.name}: stopped {where}, nothing was begun"
    )
    return code, visible(line)


def _continue(program: Program, folder: list[pathlib.Path]) -> str:
    """Say how to go on, if that is possible."""
    going = bool(folder) and not _done(folder) and (folder[0] / "config.json").exists()
    return f"; continue with: {program.again} {quoted(folder[0])}" if going else ""


def quoted(path: pathlib.Path) -> str:
    """Write a path as a shell reads it, in characters that every terminal shows."""
    if visible(path) == str(path):
        return shlex.quote(str(path))
    shown = (chr(b) if 32 <= b < 127 and chr(b) not in "\\'" else f"\\x{b:02x}" for b in os.fsencode(path))
    return f"$'{''.join(shown)}'"


def _kept(folder: list[pathlib.Path]) -> str:
    if not folder:
        return "nothing was begun"
    steps = sorted(int(p.name) for p in (folder[0] / "checkpoints").glob("[0-9]*") if p.name.isdigit())
    where = folder[0]
    return (
        f"checkpoints are kept in {where}, the newest of step {steps[-1]}"
        if steps
        else f"no checkpoint was written yet in {where}"
    )
