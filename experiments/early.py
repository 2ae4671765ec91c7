"""A program's first seconds, while it imports: a signal ends it with a line and its exit code, and so does too little address space."""

import os
import signal
import sys
from types import FrameType

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
# KiB of address space for JAX and for its threads on each core; with fewer they do not start, and those that did wait for ever or abort
JAX_KIB, CORE_KIB, MOST_CORES = 1_000_000, 80_000, 16
UNWATCHED = "benchmarks"  # these end what they have started themselves
_state: dict[str, int | str | None] = {
    "code": None,
    "when": " while it was starting, nothing was begun",
}  # the exit code once it is known


def watch() -> None:
    """Answer both signals until `Signals` does, and refuse what JAX cannot start in."""
    name = program()
    if name.startswith(UNWATCHED):
        return
    for number in CODES:
        signal.signal(number, leave)
    limit, needed = address_limit(), JAX_KIB + CORE_KIB * min(os.cpu_count() or 1, MOST_CORES)
    if limit is not None and limit < needed:
        end(
            1,
            f"{name}: only {limit:,} KiB of address space, and JAX needs about {needed:,} here; give more with ulimit -v",
        )


def program() -> str:
    """Name of the experiment that was started."""
    given = sys.orig_argv
    module = given[given.index("-m") + 1] if "-m" in given[:-1] else "experiments"
    return module.removeprefix("experiments.")


def address_limit() -> int | None:
    """KiB of address space that this process may use; None for any number."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit // 1024


def over(code: int) -> None:
    """From here on the run's result is known; a signal only hastens the end."""
    _state["code"] = code


def working() -> None:
    """From here on the program does its work, and a signal just ends it."""
    _state["when"] = ""


def leave(number: int, frame: FrameType | None) -> None:
    """End the program: nothing was begun, or the run is over."""
    del frame
    if _state["code"] is not None:
        end(_state["code"], "")
    end(CODES[number], f"{program()}: stopped{_state['when']}")


def end(code: int, line: str) -> None:
    """End the program at once, from whatever thread."""
    try:
        os.write(2, f"{line}\n".encode("ascii", "backslashreplace") if line else b"")
    except OSError:  # nobody listens
        pass
    os._exit(code)
