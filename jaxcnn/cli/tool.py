"""What every command that trains nothing shares: one line for what went wrong, and the exit codes of the others."""

from collections.abc import Callable
from typing import Any

import jax

from jaxcnn.cli import process, terminal
from jaxcnn.cli.command import what
from jaxcnn.core.types import InputError


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
    process.find_home()
    try:
        main()
    except (InputError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
        terminal.say(f"{name}: {what(error)}")
        return 1 if process.too_little(error, None) else 2
    except KeyboardInterrupt:
        terminal.say(f"{name}: stopped")
        return 130
    if terminal.lost():
        terminal.say(f"{name}: not all is printed: standard output cannot be written ({terminal.lost()})")
        return 1
    return 0
