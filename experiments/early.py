"""Ends a program that is still importing on a signal, or if the address space is too small, with a line and a code."""

import os
import signal
import sys
from types import FrameType

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
# KiB of address space for JAX, and for its threads on each core; with less, some threads do not start, and the others
# hang or abort
JAX_KIB, CORE_KIB, MOST_CORES = 1_000_000, 80_000, 16
UNWATCHED = "benchmarks"  # they end their own processes
# `code` is the exit code once it is known
_state: dict[str, int | str | None] = {"code": None, "when": " while it was starting, nothing was begun"}


def watch() -> None:
    """Handle both signals until `Signals` takes over, and refuse an address space in which JAX cannot start."""
    name = program()
    if name.startswith(UNWATCHED):
        return
    for number in CODES:
        signal.signal(number, leave)
    limit, needed = address_limit(), JAX_KIB + CORE_KIB * min(os.cpu_count() or 1, MOST_CORES)
    if limit is not None and limit < needed:
        found = f"only {limit:,} KiB of address space, and JAX needs about {needed:,} here"
        end(1, f"{name}: {found}; give more with ulimit -v")


def program() -> str:
    """Return the name of the experiment that was started."""
    given = sys.orig_argv
    module = given[given.index("-m") + 1] if "-m" in given[:-1] else "experiments"
    return module.removeprefix("experiments.")


def address_limit() -> int | None:
    """Return the KiB of address space that this process may use; None without a limit."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit // 1024


def over(code: int) -> None:
    """Note the exit code: the result of the run is known, and a signal now only ends the program sooner."""
    _state["code"] = code


def working() -> None:
    """Note that the program has started its work, so that a signal ends it without a further explanation."""
    _state["when"] = ""


def leave(number: int, frame: FrameType | None) -> None:
    """End the program, whose run has not begun or is over."""
    del frame
    if _state["code"] is not None:
        end(_state["code"], "")
    end(CODES[number], f"{program()}: stopped{_state['when']}")


def end(code: int, line: str) -> None:
    """End the program at once, from any thread."""
    try:
        os.write(2, f"{line}\n".encode("ascii", "backslashreplace") if line else b"")
    except OSError:  # standard error is closed
        pass
    os._exit(code)
