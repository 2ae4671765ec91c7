"""Makes a `runs.Plan` from the flags of an experiment, and trains it into the folder that the flags name."""

import pathlib
from typing import Any

from experiments import START
from experiments.folders import named, open_folder
from experiments.settings import Settings
from jaxcnn import runs
from jaxcnn.cli.planning import compiled, model, pixel_statistics, planned
from jaxcnn.parallel import mesh
from jaxcnn.runs import background
from jaxcnn.runs.ready import data_digest
from jaxcnn.runs.signals import Signals

__all__ = ["compiled", "data_digest", "model", "pixel_statistics", "planned", "train"]


def train(name: str, config: Settings, plan: runs.Plan, signals: Signals, opened: list[pathlib.Path]) -> dict[str, Any]:
    """Train, validate, test once with the best weights, and save everything in the run's folder.

    Args:
        name: name of the experiment.
        config: its flags.
        plan: what to train; the flags complete it.
        signals: checked between dispatches.
        opened: receives the run's folder as soon as it exists, so that failures can be reported with it.

    Returns:
        The content of `summary.json`, with arrays as they are.

    Raises:
        DivergedError: the loss is not finite, on training or on test rows.
        UnsavedError: the tested weights could not be saved.
        OSError: the summary could not be saved.

    """
    with named("--profile"):
        profile = background.Profile(config.profile)
    ready = runs.prepare(planned(name, config, plan))
    ready = ready._replace(notes=[note.replace("batch_size=", "--batch-size ", 1) for note in ready.notes])
    place = ""
    if mesh.process_shard()[0] == 0:
        place = str(open_folder(name, config, ready.plan, ready.splits, ready.sha256))
    folder = pathlib.Path(mesh.broadcast_text(place))
    opened.append(folder)
    return runs.train_prepared(ready, folder, signals=signals, profile=profile, began=START)
