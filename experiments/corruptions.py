"""Measures a run on the fifteen common corruptions of its test images: `python -m experiments.corruptions RUN`.

The corruptions are those of ImageNet-C at five strengths (Hendrycks and Dietterich, 2019, arXiv:1903.12261), made here
for images of the run's size (`jc.data.corrupted`). With `--baseline RUN`, the mean corruption error relative to that
run follows. Accuracies are printed, and written to corruptions.json in the run's folder.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import tyro

import jaxcnn as jc
from experiments import command, common
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.data.corruptions import CORRUPTIONS, SEVERITIES


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure a run under common corruptions."""

    checkpoint: tyro.conf.Positional[str]
    """Folder of a run that classifies images."""
    baseline: str = ""
    """Folder of the run to compare with, of the same data; by default none."""
    data: str = ""
    """Other data of the same classes; by default the run's own test images."""
    rows: int = 0
    """Use N test images, drawn at random; 0 for all."""
    only: tuple[str, ...] = ()
    """Corruptions to measure; by default all fifteen."""
    seed: int = 0
    """Seed of random corruptions."""
    eval_batch_size: int = 256
    """Images per batch."""


def measure(config: Config, folder: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the accuracy of a run on clean and on corrupted images, by corruption and strength."""
    loaded = jc.load_run(folder)
    task = loaded.config["build"] and loaded.config["build"]["task"]["name"]
    if task != "classification":
        raise jc.InputError(f"{visible(folder)}: a run of {task or 'a task of its own'}; must classify images")
    data = runs.rows_to_measure(loaded.config, config.data or None, whole=True).data
    data = runs.limited(data, config.rows) if 0 < config.rows < data.size else data
    run = jc.compile_step(jc.make_eval_step(loaded.task), "jit")

    def accuracy(rows: Any) -> float:
        return float(jc.evaluate(run, loaded.variables, rows, batch_size=config.eval_batch_size)["accuracy"])

    found: dict[str, Any] = {"count": data.size, "rows_sha256": common.data_digest(data), "clean": accuracy(data)}
    found["corrupted"] = {}
    for name in names:
        values = [accuracy(jc.data.corrupted(data, name, s, seed=config.seed)) for s in SEVERITIES]
        found["corrupted"][name] = values
        print(f"{visible(folder)} {name}: {' '.join(f'{x:.4f}' for x in values)}", flush=True)
    found["mean"] = float(np.mean(list(found["corrupted"].values())))
    return found


def main(config: Config) -> dict[str, Any]:
    """Measure one run, or compare two."""
    names = config.only or CORRUPTIONS
    if config.rows < 0:
        raise jc.InputError(f"--rows {config.rows}: must be at least 1, or 0 for all")
    if wrong := sorted(set(names) - set(CORRUPTIONS)):
        raise jc.InputError(f"--only {visible(wrong[0])}: must be one of {', '.join(CORRUPTIONS)}")
    found = measure(config, config.checkpoint, names)
    if config.baseline:
        other = measure(config, config.baseline, names)
        if (other["count"], other["rows_sha256"]) != (found["count"], found["rows_sha256"]):
            raise jc.InputError(f"--baseline {visible(config.baseline)}: was tested on other rows; give --data")
        ours, theirs = ({k: [1 - x for x in v] for k, v in one["corrupted"].items()} for one in (found, other))
        clean = (1 - found["clean"], 1 - other["clean"])
        found["baseline"] = other
        found["mean_corruption_error"] = jc.metrics.mean_corruption_error(ours, theirs)._asdict()
        try:
            found["relative"] = jc.metrics.mean_corruption_error(ours, theirs, clean=clean)._asdict()
        except jc.InputError as error:  # a corruption that costs the baseline nothing
            found["relative"] = None
            print(f"no relative error: {error}", flush=True)
    files.write_json(pathlib.Path(config.checkpoint) / "corruptions.json", found)
    print(files.to_json(found), flush=True)
    return found


if __name__ == "__main__":
    command.run(main, Config, "corruptions")
