"""Evaluates a finished run on test data, and predicts with it."""

import logging
import pathlib
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
from jaxcnn.parallel import mesh
from jaxcnn.runs.single import pixels

log = logging.getLogger("jaxcnn")


def evaluate_run(name: str, config: Settings, place: str = "", data_dir: str = "") -> dict[str, Any]:
    """Print the test metrics of a run as one JSON line, which names the data.

    Args:
        name: name of the experiment.
        config: its flags.
        place: the data to measure; the run's own test rows if empty.
        data_dir: folder of prepared TFDS sets; the default folder if empty.

    """
    loaded = jc.load_run(config.checkpoint)
    if loaded.config["experiment"] != name:
        other = loaded.config["experiment"]
        raise jc.InputError(
            f"--checkpoint {visible(config.checkpoint)}: a run of {other}; "
            f"evaluate it with python -m experiments.{other}"
        )
    skipped = Skipped()
    on_bad = skipped if config.on_bad_example == "skip" else None
    try:
        rows = runs.rows_to_measure(loaded.config, place or None, data_dir=data_dir or None, whole=True, on_bad=on_bad)
    except jc.InputError as error:
        raise jc.InputError(f"{visible(config.checkpoint)}: {error}" if not place else str(error)) from error
    for note in rows.notes:
        log.warning("%s: %s", visible(rows.name), note)
    run = compiled(jc.make_eval_step(loaded.task), config)
    values = scalars(jc.evaluate(run, loaded.variables, rows.data, batch_size=config.eval_batch_size))
    about = {"data": rows.name, "part": rows.part, "own_test_data": rows.own}
    if skipped.examples:
        about["skipped_examples"] = skipped.examples
    if mesh.process_shard()[0] == 0:
        about |= {"devices": run.devices, "step": loaded.step, "checkpoint": config.checkpoint}
        print(files.to_json(values | about), flush=True)
    return values


def predict(config: Settings) -> list[dict[str, Any]]:
    """Print one JSON line per image of `--predict`: class and probabilities, or outputs if there are no classes."""
    loaded = jc.load_run(config.checkpoint)
    options = loaded.config["build"]["task"]["options"]
    images = np.stack([pixels(loaded.config, pathlib.Path(path)) for path in config.predict])
    logits = jax.jit(loaded.task.predict)(loaded.variables, {"image": images})
    if classes := loaded.config["classes"]:
        shares = np.asarray(jc.tasks.probabilities(logits, options.get("head", "softmax")))
        answers = [{"class": classes[int(row.argmax())], "probabilities": _named(classes, row)} for row in shares]
    else:
        answers = [{"outputs": row.tolist()} for row in np.asarray(logits)]
    found = [{"image": path} | answer for path, answer in zip(config.predict, answers, strict=True)]
    for one in found:
        print(files.to_json(one), flush=True)
    return found


def _named(classes: list[str], probabilities: np.ndarray) -> dict[str, float]:
    return {name: round(float(p), 6) for name, p in zip(classes, probabilities, strict=True)}
