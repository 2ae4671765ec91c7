"""`jaxcnn models`: the networks, as `python -m jaxcnn.models` lists them."""

import dataclasses
from collections.abc import Sequence

from jaxcnn.cli import command, options
from jaxcnn.models.__main__ import print_all

NAME = "models"


@dataclasses.dataclass(frozen=True)
class Models:
    """List the networks with 1000 classes, each at its default image size."""

    json: bool = False
    """Print one JSON list."""


def main(arguments: Sequence[str]) -> int:
    """List the networks, and return the exit code."""
    return command.run(lambda: print_all(options.parse(Models, NAME, arguments).json), f"jaxcnn {NAME}", options.WIDTH)
