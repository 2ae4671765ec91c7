"""`jaxcnn label DATA`: a local page that asks people for the labels of images, the most useful ones first."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Annotated

import tyro

from jaxcnn.cli import command, flags, options, runtime
from jaxcnn.cli.serve import token
from jaxcnn.core.types import InputError

NAME = "label"


@dataclasses.dataclass(frozen=True)
class Label:
    """Label the images of a folder at a local page, by keyboard. Labels go to a CSV file that `jaxcnn train` reads.

    The address that is printed has a token in it. Ctrl-C ends the program; start it again to go on.
    """

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")] = ""
    """Folder of images, at any depth."""
    classes: tuple[str, ...] = ()
    """Names of the classes; more can be added at the page."""
    output: str = ""
    """CSV file for the labels; by default labels.csv in DATA. One that exists is continued."""
    run: str = ""
    """Folder of a classification run that suggests classes and orders the images."""
    order: str = "auto"
    """What comes first: what --run is least sure of (margin, entropy or confidence), what its dropout disagrees on
    (bald), images that cover the others (coreset, by the features of --run or by pixels), or random; auto is margin
    with --run, and coreset without."""
    diverse: bool = False
    """Let images that follow each other differ: of the ten times as many that come first, those farthest apart."""
    renew: int = 0
    """After every N labels, train a linear head on the features of --run with all labels; it sorts the remaining images
    again and suggests classes. 0 for never."""
    reject: float | None = None
    """Let --run answer what it is sure of: at most this share of its answers is wrong on its validation rows, 0..1.
    These are marked in the file (column by: model); the others go to people first."""
    seed: int = 0
    """Seed of random orders and of dropout."""
    port: int = 0
    """Port to listen at, for this machine alone; 0 for any that is free."""
    token_file: str = ""
    """File with the token to ask for, instead of a new one; the environment variable JAXCNN_TOKEN works too."""
    compilation_cache: str = ""
    """Folder for compiled programs; by default the user's cache folder, off for none."""


def main(arguments: Sequence[str]) -> int:
    """Ask for labels, and return the exit code."""

    def go() -> None:
        ask(options.parse(Label, NAME, arguments))

    return command.run(go, f"jaxcnn {NAME}", options.WIDTH)


def ask(config: Label) -> None:
    """Ask for labels until a signal comes."""
    from jaxcnn.deploy.label import label
    from jaxcnn.deploy.label.order import ORDERS

    if not config.data:
        raise InputError("DATA: give a folder of images, as in jaxcnn label DATA --classes cat dog")
    if not 0 <= config.port <= 65535:
        raise InputError(f"--port {config.port}: must be from 0 to 65535")
    flags.one_of("--order", config.order, ORDERS)
    label(
        config.data, output=config.output, classes=config.classes, run=config.run, order=config.order, seed=config.seed,
        renew=config.renew, diverse=config.diverse, reject=config.reject, port=config.port,
        token=token(config.token_file),
        before=functools.partial(runtime.keep_programs, config.compilation_cache),
    )  # fmt: skip
