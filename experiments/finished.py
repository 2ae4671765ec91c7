"""What a finished run is for: its metrics on the test data, and its predictions."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jaxcnn as jc
from experiments.common import compiled
from experiments.settings import Settings
from jaxcnn import mesh
from jaxcnn.data.folder import read_image
from jaxcnn.types import scalars


def evaluate_run(name: str, config: Settings, test: Callable[[dict[str, Any], str], Any]) -> dict[str, Any]:
    """Print the test metrics of a run as one JSON line; `test` maps the run's settings and its data's name to the test data."""
    loaded = jc.load_run(config.checkpoint)
    if loaded.config["experiment"] != name:
        other = loaded.config["experiment"]
        raise jc.InputError(f"--checkpoint {config.checkpoint}: a run of {other}; evaluate it with python -m experiments.{other}")
    data = test(loaded.config["settings"], loaded.config["data"]["name"])
    run = compiled(jc.make_eval_step(loaded.task), config, donate=False)
    values = scalars(jc.evaluate(run, loaded.variables, data, batch_size=config.eval_batch_size))
    if mesh.share()[0] == 0:
        print(json.dumps(values | {"devices": run.devices, "step": loaded.step, "checkpoint": config.checkpoint}), flush=True)
    return values


def predict(config: Settings) -> list[dict[str, Any]]:
    """Print class and probabilities of each image of `--predict`, one JSON line an image."""
    loaded = jc.load_run(config.checkpoint)
    shape, options = loaded.config["build"]["image"]["shape"], loaded.config["build"]["task"]["options"]
    images = np.stack([read_image(path, shape[-1], tuple(shape[:2])) for path in config.predict])
    logits = jax.jit(loaded.task.predict)(loaded.variables, {"image": images})
    found = []
    for path, row in zip(config.predict, np.asarray(jc.tasks.probabilities(logits, options.get("head", "softmax"))), strict=True):
        classes = loaded.config["classes"]
        found.append(
            {
                "image": path,
                "class": classes[int(row.argmax())],
                "probabilities": {c: round(float(p), 6) for c, p in zip(classes, row, strict=True)},
            }
        )
        print(json.dumps(found[-1]), flush=True)
    return found
