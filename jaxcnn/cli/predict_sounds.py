"""`jaxcnn predict` for runs on sounds: a file of any length is cut into windows, whose probabilities are averaged."""

import itertools
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.runs import single
from jaxcnn.tasks import probabilities

log = logging.getLogger("jaxcnn")
Window = tuple[int, str, float, float]  # number and name of its file, start and end in seconds


def windows(loaded: Any, paths: Sequence[pathlib.Path], skip: bool = False) -> Iterator[tuple[Window, single.Row]]:
    """Yield the windows of sound files with their rows.

    Args:
        loaded: the run.
        paths: the files.
        skip: whether a file that cannot be read is left out with a warning.

    Raises:
        InputError: a file cannot be read.

    """
    for number, path in enumerate(paths):
        silent = True
        try:
            for (start, end), row in single.sound_rows(loaded.config, path):
                silent = silent and not row["audio"].any()
                yield (number, str(path), start, end), row
            if silent:
                log.warning("%s: is silent", visible(path))
        except InputError as error:
            if not skip:
                raise InputError(f"{error}; leave it out, or give --on-bad-example skip") from error
            log.warning("left out: %s", error)


def averaged(loaded: Any, outputs: Iterator[tuple[Window, np.ndarray]]) -> Iterator[dict[str, Any]]:
    """Yield the prediction for each file as plain values: the mean of its windows, weighted by their lengths.

    Args:
        loaded: the run.
        outputs: windows, those of a file together, with the outputs of the model `[K]`.

    Returns:
        `"file"`, `"class"`, `"probability"` and `"probabilities"`; and for a file of several windows `"windows"`, with
        the seconds of `"start"` and `"end"`, the `"class"` and its `"probability"`.

    """
    classes = loaded.config["classes"]
    head = loaded.config["build"]["task"]["options"].get("head", "softmax")
    for _, group in itertools.groupby(outputs, lambda pair: pair[0][0]):
        places, logits = zip(*group, strict=True)
        shares = np.asarray(probabilities(jnp.stack(logits), head))  # [N, K]
        mean = np.average(shares, axis=0, weights=[end - start for _, _, start, end in places])
        each = {name: round(float(p), 6) for name, p in zip(classes, mean, strict=True)}
        best = classes[int(mean.argmax())]
        found = {"file": places[0][1], "class": best, "probability": each[best], "probabilities": each}
        if len(places) > 1:
            found["windows"] = [
                {"start": round(start, 3), "end": round(end, 3), "class": classes[k], "probability": round(float(p), 6)}
                for (_, _, start, end), k, p in zip(places, shares.argmax(1), shares.max(1), strict=True)
            ]
        yield found
