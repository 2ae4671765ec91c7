"""The command line of experiments that train nothing: flags, errors in one line, and the usual exit codes."""

import signal
import sys
from collections.abc import Callable
from typing import Any

import tyro

from experiments import early
from experiments.settings import check_numbers
from jaxcnn.cli import command


def run(main: Callable[[Any], Any], config_type: type, name: str) -> None:
    """Parse the flags and run `main`. A user's mistake gives one line and exit code 2, Ctrl-C 130, SIGTERM 143.

    Args:
        main: function of the flags.
        config_type: dataclass of the flags.
        name: name of the experiment.

    """
    if signal.getsignal(signal.SIGTERM) is early.leave:  # the handlers of this program
        early.working()

    def work() -> None:
        config = tyro.cli(config_type, prog=f"python -m experiments.{name}")
        check_numbers(config)
        main(config)

    if code := command.run(work, name):
        sys.exit(code)
