"""`jaxcnn predict` for runs on sounds: a file of any length is cut into windows, whose probabilities are averaged."""

import itertools
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.deploy.answers import sound_described
from jaxcnn.runs import single

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
    """Yield the prediction for each file as plain values, see `deploy.answers.sound_described`.

    Args:
        loaded: the run.
        outputs: windows, those of a file together, with the outputs of the model `[K]`.

    """
    for _, group in itertools.groupby(outputs, lambda pair: pair[0][0]):
        places, logits = zip(*group, strict=True)
        yield sound_described(loaded, places[0][1], [(start, end) for _, _, start, end in places], logits)
