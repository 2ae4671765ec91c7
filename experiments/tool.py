"""The command line of what trains nothing: flags, one line for what went wrong, and the exit codes of the other experiments."""

import signal
import sys
from collections.abc import Callable
from typing import Any

import jax
import tyro

import jaxcnn as jc
from experiments import early, process, terminal
from experiments.cli import what
from experiments.settings import check_numbers


def run(main: Callable[[Any], Any], config_type: type, name: str) -> None:
    """Parse flags and run `main`; what a user can mend is one line and exit code 2, Ctrl-C is 130, SIGTERM 143."""
    terminal.prepare()
    process.find_home()
    if signal.getsignal(signal.SIGTERM) is early.leave:  # the program's own handlers
        early.working()
    try:
        config = tyro.cli(config_type, prog=f"python -m experiments.{name}")
        check_numbers(config)
        main(config)
    except (jc.InputError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
        terminal.say(f"{name}: {what(error)}")
        sys.exit(1 if process.too_little(error, None) else 2)
    except KeyboardInterrupt:
        terminal.say(f"{name}: stopped")
        sys.exit(130)
    if terminal.lost():
        terminal.say(f"{name}: not all is printed: standard output cannot be written ({terminal.lost()})")
        sys.exit(1)
