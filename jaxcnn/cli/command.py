"""Run a command: turn errors into one line and an exit code; in training, also handle signals and processes."""

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
    """A command, as its messages name it.

    Attributes:
        name: prefix of its messages.
        again: the command that resumes a run, without the run's folder.
        end: called with an exit code and a line when the program must end at once, from any thread.
        over: called with the exit code once the result of the run is known.
        columns: width at which log lines wrap; None does not wrap.
        before: says what is kept where a signal comes before a run has its folder.

    """

    name: str
    again: str
    end: Callable[[int, str], Any]
    over: Callable[[int], Any]
    columns: int | None = None
    before: Callable[[], str] = lambda: "nothing was begun"


def end(code: int, line: str) -> None:
    """End the program at once, from any thread."""
    with contextlib.suppress(OSError):  # standard error may be closed
        os.write(2, f"{line}\n".encode("ascii", "backslashreplace") if line else b"")
    os._exit(code)


def run(main: Callable[[], Any], name: str, columns: int | None = None) -> int:
    """Run `main`. An error that the user can fix becomes one line and exit code 2; Ctrl-C gives 130.

    Args:
        main: parses the flags and does the work.
        name: name of the command, which begins its messages.
        columns: width at which log lines wrap; None does not wrap.

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
        terminal.say(f"{name}: the output is incomplete: standard output cannot be written ({terminal.lost()})")
        return 1
    return 0


def run_training(
    program: Program, parse: Callable[[], Any], main: Callable[[Any, Signals, list[pathlib.Path]], Any]
) -> int:
    """Parse flags, run `main`, and turn errors into one line and an exit code.

    Args:
        program: how messages name the command.
        parse: returns the flags, a dataclass with the groups `Machine` and `Processes`.
        main: called with the flags, the signal handler, and a list to which it adds the folder of the run.

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
        # JAX installs a SIGTERM handler when it starts, so ours comes after it
        signals = Signals(lambda code: program.end(*stopped(code, "outside training")), lambda: _done(folder))
        if config.reuse_memory:
            runtime.reuse_memory()
        runtime.keep_programs(config.compilation_cache)
        main(config, signals, folder)
        signals.ignore()
        code = _delivered(program.name, config)
    except StoppedError as error:
        distributed.finish()
        # end at once, because a thread may be compiling; a signal to one process stops all others too
        program.end(*stopped((signals.code if signals else 0) or 143, f"after step {error.step}"))
    except Exception as error:
        code = _said(error, program, config, folder)
    finally:
        program.over(code)
        if signals:
            signals.ignore()
            signals.close()
    if _abandoned() or code and jax.process_count() > 1:
        # a proper shutdown would wait for the other processes, which notice by themselves that this one has ended
        program.end(code, "")
    if not code:
        distributed.finish()
    return code


def _said(error: Exception, program: Program, config: Any, folder: list[pathlib.Path]) -> int:
    """Print what went wrong and which checkpoints are kept, with a traceback if needed; return the exit code."""
    line = runtime.too_little(error, config)
    code = 1 if line or folder else 2
    if line is None and not isinstance(error, InputError | DivergedError | OSError | jax.errors.JaxRuntimeError):
        traceback.print_exception(error)
        line, code = f"by an error in the program ({type(error).__name__})", 1
    distributed.grieve()
    terminal.say(_failed(program, folder, line or what(error)) if folder else f"{program.name}: {line or what(error)}")
    return code


def what(error: BaseException) -> str:
    """Describe an error in one line."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _failed(program: Program, folder: list[pathlib.Path], line: str) -> str:
    return f"{program.name}: stopped: {line}; {_kept(folder)}{_continue(program, folder)}"


def _delivered(name: str, config: Any) -> int:
    """Return the exit code after success: 1 if the printed result is the only one and could not be printed."""
    if (getattr(config, "evaluate", False) or getattr(config, "predict", ())) and terminal.lost():
        terminal.say(f"{name}: the result is not printed: standard output cannot be written ({terminal.lost()})")
        return 1
    return 0


def _abandoned() -> bool:
    """Whether threads of a failed save are left, which would wait for minutes."""
    return any(type(thread).__name__ == "_SignalingThread" for thread in threading.enumerate())


def _done(folder: list[pathlib.Path]) -> bool:
    """Whether the run is finished."""
    return bool(folder) and (folder[0] / "summary.json").exists()


def _stopped(program: Program, folder: list[pathlib.Path], code: int, where: str) -> tuple[int, str]:
    """Return the exit code and the message for a program that a signal ends."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    if _done(folder):
        return 0, visible(f"{program.name}: the run had finished before the signal came, {folder[0]}")
    if folder:
        return code, visible(f"stopped {where}; {_kept(folder)}{_continue(program, folder)}")
    return code, visible(f"{program.name}: stopped {where}, {program.before()}")


def _continue(program: Program, folder: list[pathlib.Path]) -> str:
    """Name the command that resumes the run, if it can be resumed."""
    going = bool(folder) and not _done(folder) and (folder[0] / "config.json").exists()
    return f"; continue with: {program.again} {quoted(folder[0])}" if going else ""


def quoted(path: pathlib.Path) -> str:
    """Quote a path for a shell, in characters that every terminal shows."""
    if visible(path) == str(path):
        return shlex.quote(str(path))
    shown = (chr(b) if 32 <= b < 127 and chr(b) not in "\\'" else f"\\x{b:02x}" for b in os.fsencode(path))
    return f"$'{''.join(shown)}'"


def _kept(folder: list[pathlib.Path]) -> str:
    if not folder:
        return "nothing was begun"
    steps = sorted(int(p.name) for p in (folder[0] / "checkpoints").glob("[0-9]*") if p.name.isdigit())
    if not steps:
        return f"no checkpoint was written yet in {folder[0]}"
    return f"checkpoints are kept in {folder[0]}, the newest of step {steps[-1]}"
