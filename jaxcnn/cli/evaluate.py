"""`jaxcnn evaluate RUN [DATA]`: measure a run on its own test rows, or on other data of the same classes."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from jaxcnn import runs
from jaxcnn.cli import command, flags, options, runtime
from jaxcnn.cli.planning import compiled
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, scalars
from jaxcnn.runs.results import Skipped
from jaxcnn.train import evaluate, make_eval_step

log = logging.getLogger("jaxcnn")
NAME = "evaluate"


@dataclasses.dataclass(frozen=True)
class Evaluate(flags.Layout):
    """Print the metrics of a run as one JSON line."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")] = ""
    """Folder of a run."""
    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")] = ""
    """Other data of the same classes (folder, .csv, .npz, IDX or TFDS name); by default the run's own test rows."""
    data_dir: str = ""
    """Where TFDS data sets are prepared."""
    on_bad_example: str = "stop"
    """What to do when an example cannot be read: stop, or skip it and count it."""
    compilation_cache: str = ""
    """Folder for compiled programs; by default the user's cache folder, off for none."""


def main(arguments: Sequence[str]) -> int:
    """Evaluate, and return the exit code."""
    return command.run(lambda: measure(options.parse(Evaluate, NAME, arguments)), f"jaxcnn {NAME}", options.WIDTH)


def measure(config: Evaluate) -> dict[str, Any]:
    """Print and return the metrics."""
    if not config.run:
        raise InputError("RUN: give the folder of a run, as in jaxcnn evaluate RUN")
    runtime.keep_programs(config.compilation_cache)
    loaded = runs.load_run(config.run)
    skipped = Skipped()
    on_bad = skipped if config.on_bad_example == "skip" else None
    try:
        rows = runs.rows_to_measure(
            loaded.config, config.data or None, data_dir=config.data_dir or None, whole=True, on_bad=on_bad
        )
    except InputError as error:
        raise InputError(str(error) if config.data else f"{visible(config.run)}: {error}") from error
    for note in rows.notes:
        log.warning("%s: %s", visible(rows.name), note)
    run = compiled(make_eval_step(loaded.task), config)
    values = scalars(evaluate(run, loaded.variables, rows.data, batch_size=config.eval_batch_size))
    about = {"data": rows.name, "part": rows.part, "own_test_data": rows.own}
    if skipped.examples:
        about["skipped_examples"] = skipped.examples
    print(files.to_json(values | about | {"step": loaded.step, "run": config.run}), flush=True)
    return values
