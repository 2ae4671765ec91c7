"""The command line of what trains nothing: flags, one line for what went wrong, and the exit codes of the other experiments."""

import signal
import sys
from collections.abc import Callable
from typing import Any

import tyro

from experiments import early
from experiments.settings import check_numbers
from jaxcnn.cli import command


def run(main: Callable[[Any], Any], config_type: type, name: str) -> None:
    """Parse flags and run `main`; what a user can mend is one line and exit code 2, Ctrl-C is 130, SIGTERM 143."""
    if signal.getsignal(signal.SIGTERM) is early.leave:  # the program's own handlers
        early.working()

    def work() -> None:
        config = tyro.cli(config_type, prog=f"python -m experiments.{name}")
        check_numbers(config)
        main(config)

    if code := command.run(work, name):
        sys.exit(code)
