"""From the flags that every experiment has to a `runs.Plan`, trained into a folder that the flags name."""

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
    """Train, validate, test once with the best weights, and leave everything in the run's folder.

    Args:
        name: of the experiment.
        config: its flags.
        plan: what to train; the flags say the rest.
        signals: asked between dispatches.
        opened: receives the run's folder as soon as there is one, for whoever reports a failure.

    Returns:
        The content of `summary.json`, with arrays as they are.

    Raises:
        DivergedError: the loss is not finite, on training or on test rows.
        UnsavedError: the weights that were tested are not on the disk.
        OSError: nor is the summary.

    """
    with named("--profile"):
        profile = background.Profile(config.profile)
    ready = runs.prepare(planned(name, config, plan))
    ready = ready._replace(notes=[note.replace("batch_size=", "--batch-size ", 1) for note in ready.notes])
    place = (
        str(open_folder(name, config, ready.plan, ready.splits, ready.sha256)) if mesh.process_shard()[0] == 0 else ""
    )
    folder = pathlib.Path(mesh.broadcast_text(place))
    opened.append(folder)
    return runs.train_prepared(ready, folder, signals=signals, profile=profile, began=START)
