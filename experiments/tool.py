"""The command line of what trains nothing: flags, one line for what went wrong, and the exit codes of the other experiments."""

import logging
import sys
from collections.abc import Callable
from typing import Any

import jax
import tyro

import jaxcnn as jc


def run(main: Callable[[Any], Any], config_type: type, name: str) -> None:
    """Parse flags and run `main`; what a user can mend is one line and exit code 2, Ctrl-C is 130."""
    log = logging.getLogger("jaxcnn")
    log.handlers[:], log.propagate = [logging.StreamHandler()], False
    log.setLevel(logging.INFO)
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    try:
        main(tyro.cli(config_type, prog=f"python -m experiments.{name}"))
    except (jc.InputError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
        print(f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        sys.exit(130)
