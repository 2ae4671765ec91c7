"""`jaxcnn export RUN --to onnx`: write a run for another runtime, checked on real rows."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from jaxcnn import deploy, runs
from jaxcnn.cli import command, flags, options
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.deploy import integers
from jaxcnn.deploy.formats import EXPORTERS
from jaxcnn.deploy.program import PREPROCESSING

log = logging.getLogger("jaxcnn")
NAME = "export"
FLAGS = {
    "path": "--out", **{name: flags.flag_of(name) for name in (
        "to", "preprocessing", "batch", "rows", "tolerance", "runtime", "int8", "calibration", "data", "data_dir",
    )},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a run for another runtime, and print the result of the check as one line of JSON."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")] = ""
    """Folder of a run."""
    to: str = "onnx"
    """The format: onnx, stablehlo (JAX on CPU, CUDA and TPU), openvino, savedmodel (TensorFlow), litert, torch (a
    file of Python and its weights), or a page on which the network runs in a browser: page (a folder for any web
    server) or html (one file that opens from disk)."""
    out: str = ""
    """Where the program goes; a folder, or a path that ends in /, holds it as model. By default exported/model in the
    run's folder, with the ending of the format (model_int8 with --int8)."""
    data: str = ""
    """The new place of the run's own data, or other data of the same classes for the check."""
    data_dir: str = ""
    """Where TFDS data sets are prepared."""
    preprocessing: str = "inside"
    """Whether the program itself scales, resizes and normalises pixels (inside), or whoever calls it (outside)."""
    batch: int = 0
    """Rows per batch; 0 for any number, or 1 for litert."""
    rows: int = 64
    """How many rows of the run's test data the check takes."""
    runtime: str = ""
    """Folder of npm's package onnxruntime-web, for page and html."""
    tolerance: float | None = None
    """Largest difference from the run that the check accepts, relative to the largest output; by default 1e-4. With
    --int8, the largest share of rows whose class may differ; by default 0.05."""
    int8: bool = False
    """Compute in 8-bit integers (onnx alone), with ranges chosen on training rows of the run."""
    calibration: int = integers.ROWS
    """How many training rows choose the ranges of --int8."""


def main(arguments: Sequence[str]) -> int:
    """Export, and return the exit code."""
    return command.run(lambda: write(options.parse(Export, NAME, arguments)), f"jaxcnn {NAME}", options.WIDTH)


def write(config: Export) -> dict[str, Any]:
    """Export a run, print what the check found, and return the report."""
    if not config.run:
        raise InputError("RUN: give the folder of a run, as in jaxcnn export RUN --to onnx")
    flags.one_of("--to", config.to, tuple(EXPORTERS))
    flags.one_of("--preprocessing", config.preprocessing, PREPROCESSING)
    if config.batch < 0:
        raise InputError(f"--batch {config.batch}: must be at least 1, or 0 for any number")
    if runs.read_config(config.run)["build"] is None:
        raise InputError(
            f"{visible(config.run)}: its model is your own; export it with jaxcnn.export(RUN, task=...) in Python"
        )
    with options.naming(FLAGS):
        made = deploy.export(
            config.run, config.to, config.out or None, preprocessing=config.preprocessing, batch=config.batch or None,
            rows=config.rows, tolerance=config.tolerance, runtime=config.runtime or None, int8=config.int8,
            calibration=config.calibration, data=config.data or None, data_dir=config.data_dir or None,
        )  # fmt: skip
    check = made.report["check"]
    if "random" in check["source"]:
        log.warning("checked on %s", visible(check["source"]))
    print(files.to_json({"file": str(made.path), "bytes": made.report["bytes"], **check}), flush=True)
    return made.report
