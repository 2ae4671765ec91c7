"""`jaxcnn report RUN`: write a page and a model card per run, and a comparison, like `python -m jaxcnn.report`."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from jaxcnn.cli import command, options
from jaxcnn.core.types import InputError
from jaxcnn.report.__main__ import write_all

NAME = "report"


@dataclasses.dataclass(frozen=True)
class Report:
    """Write report.html, report.json and MODEL_CARD.md into the folder of each run; compare several in compare.html."""

    runs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN")] = ()
    """Folders of finished runs."""
    data: str = ""
    """Other data of the same classes to measure, or the new place of the run's own data."""
    data_dir: str = ""
    """Where TFDS data sets are prepared."""
    group: tuple[str, ...] = ()
    """Compare the groups of these columns."""
    group_file: str = ""
    """CSV or JSON file of columns with one value per test row, in order."""
    batch_size: int = 256
    """Rows per batch; does not change the result."""
    out: str = ""
    """File of the comparison of several runs; by default compare.html beside them."""


def main(arguments: Sequence[str]) -> int:
    """Write the reports, and return the exit code."""

    def work() -> None:
        config = options.parse(Report, NAME, arguments)
        if not config.runs:
            raise InputError("RUN: give the folder of a finished run, as in jaxcnn report RUN")
        write_all(dataclasses.replace(config, data=config.data or None, data_dir=config.data_dir or None))

    return command.run(work, f"jaxcnn {NAME}", options.WIDTH)
