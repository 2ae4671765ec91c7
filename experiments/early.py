"""A program's first seconds, while it imports: a signal ends it with a line and its exit code, and so does too little address space."""

import os
import signal
import sys
from types import FrameType

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
ADDRESSES = 2_000_000 * 1024  # bytes; with fewer JAX's threads do not start, and those that did wait for ever
UNWATCHED = "benchmarks"  # these end what they have started themselves
_state: dict[str, int | str | None] = {"code": None, "when": " while it was starting, nothing was begun"}  # the exit code once it is known


def watch() -> None:
    """Answer both signals until `Signals` does, and refuse what JAX cannot start in."""
    name = program()
    if name.startswith(UNWATCHED):
        return
    for number in CODES:
        signal.signal(number, leave)
    limit = address_limit()
    if limit is not None and limit < ADDRESSES:
        end(1, f"{name}: only {limit // 1024:,} KiB of address space, and JAX needs {ADDRESSES // 1024:,}; give more with ulimit -v")


def program() -> str:
    """Name of the experiment that was started."""
    given = sys.orig_argv
    module = given[given.index("-m") + 1] if "-m" in given[:-1] else "experiments"
    return module.removeprefix("experiments.")


def address_limit() -> int | None:
    """Bytes of address space that this process may use; None for any number."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


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
