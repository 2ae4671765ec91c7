"""What a finished run is for: its metrics on test data, and its predictions."""

import logging
from typing import Any

import jax
import numpy as np

import jaxcnn as jc
from experiments.common import compiled
from experiments.settings import Settings, Skipped
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import scalars
from jaxcnn.data.folder import read_image
from jaxcnn.parallel import mesh

log = logging.getLogger("jaxcnn")


def evaluate_run(name: str, config: Settings, place: str = "", data_dir: str = "") -> dict[str, Any]:
    """Print the test metrics of a run as one JSON line, which names the data.

    Args:
        name: of the experiment.
        config: its flags.
        place: the data that the user names; the run's own test rows if empty.
        data_dir: where TFDS sets are prepared, if the user says so.

    """
    loaded = jc.load_run(config.checkpoint)
    if loaded.config["experiment"] != name:
        other = loaded.config["experiment"]
        raise jc.InputError(
            f"--checkpoint {visible(config.checkpoint)}: a run of {other}; evaluate it with python -m experiments.{other}"
        )
    skipped = Skipped()
    on_bad = skipped if config.on_bad_example == "skip" else None
    try:
        rows = runs.rows_to_measure(loaded.config, place or None, data_dir=data_dir or None, whole=True, on_bad=on_bad)
    except jc.InputError as error:
        raise jc.InputError(f"{visible(config.checkpoint)}: {error}" if not place else str(error)) from error
    for note in rows.notes:
        log.warning("%s: %s", visible(rows.name), note)
    run = compiled(jc.make_eval_step(loaded.task), config, donate=False)
    values = scalars(jc.evaluate(run, loaded.variables, rows.data, batch_size=config.eval_batch_size))
    about = {"data": rows.name, "part": rows.part, "own_test_data": rows.own}
    if skipped.examples:
        about["skipped_examples"] = skipped.examples
    if mesh.process_shard()[0] == 0:
        print(
            files.to_json(
                values | about | {"devices": run.devices, "step": loaded.step, "checkpoint": config.checkpoint}
            ),
            flush=True,
        )
    return values


def predict(config: Settings) -> list[dict[str, Any]]:
    """Print class and probabilities of each image of `--predict`, or of a task without classes the outputs, one JSON line per image."""
    loaded = jc.load_run(config.checkpoint)
    shape, options = loaded.config["build"]["image"]["shape"], loaded.config["build"]["task"]["options"]
    images = np.stack([read_image(path, shape[-1], tuple(shape[:2])) for path in config.predict])
    logits = jax.jit(loaded.task.predict)(loaded.variables, {"image": images})
    found = []
    if not loaded.config["classes"]:
        found = [
            {"image": path, "outputs": row.tolist()}
            for path, row in zip(config.predict, np.asarray(logits), strict=True)
        ]
        for one in found:
            print(files.to_json(one), flush=True)
        return found
    for path, row in zip(
        config.predict, np.asarray(jc.tasks.probabilities(logits, options.get("head", "softmax"))), strict=True
    ):
        classes = loaded.config["classes"]
        found.append(
            {
                "image": path,
                "class": classes[int(row.argmax())],
                "probabilities": {c: round(float(p), 6) for c, p in zip(classes, row, strict=True)},
            }
        )
        print(files.to_json(found[-1]), flush=True)
    return found
