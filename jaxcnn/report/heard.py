"""Rows of sounds and series as elements of a page: a picture, and for a sound an element that plays it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcnn.data.drawn_series import series_picture
from jaxcnn.report.record import picture
from jaxcnn.report.sound import audio_uri, spectrogram_picture
from jaxcnn.runs.single import rate_of

SECONDS, ROOM = 10.0, 3 * 2**20  # most seconds of a sound in a page; most bytes of all its sounds, before base64


def seen(config: Mapping[str, Any], row: np.ndarray, length: int, count: int) -> dict[str, str]:
    """Return a sound or a series as the addresses of elements of a page.

    Args:
        config: content of the run's `config.json`.
        row: a sound `[T]` or a series `[T, C]`.
        length: steps that are no padding.
        count: how many there are in the page; sounds take 4 MiB at most together, and each is 10 seconds or less.

    Returns:
        `"image"`, the spectrogram or the lines; and for a sound `"audio"`, and `"seconds"` if it is cut.

    """
    if row.ndim > 1:
        return {"image": picture(series_picture(row[:length]), None)}
    rate = rate_of(config)
    most = min(SECONDS, ROOM / (2 * rate * max(count, 1)))
    found = {"image": picture(spectrogram_picture(row[:length], rate), None)}
    found["audio"] = audio_uri(row[:length], rate, seconds=most)
    return found | ({"seconds": f"{most:.1f}"} if length > most * rate else {})
