"""Sounds and series in pages and pictures: rows to see and to hear, and what supports their classes over time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxcnn.core.types import InputError
from jaxcnn.explain import on_spectrogram
from jaxcnn.explain.over_time import over_time
from jaxcnn.explain.panels import METHODS, keyed, overlaid
from jaxcnn.report.record import picture
from jaxcnn.report.series import series_picture
from jaxcnn.report.sound import audio_uri, spectrogram_picture
from jaxcnn.runs.single import rate_of

SECONDS, ROOM = 10.0, 3 * 2**20  # most seconds of a sound in a page; most bytes of all its sounds, before base64
OVER_TIME = "Covered spans of time (red for, blue against)"
HEIGHT, WIDTH = 160, 480  # pixels of a picture


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


def explained_rows(
    loaded: Any, rows: Sequence[Mapping[str, np.ndarray]], names: Sequence[str], target: np.ndarray
) -> dict[str, np.ndarray]:
    """Draw what supports the predicted classes of some rows of sounds or series.

    Args:
        loaded: result of `load_run`.
        rows: the rows, `"audio"` or `"series"` with `"length"`.
        names: a title for each.
        target: their predicted classes.

    Returns:
        Dict from title to a picture `[h, w, 3]` uint8.

    """
    if not rows:
        return {}
    if "series" in rows[0]:
        batch = {key: np.stack([row[key] for row in rows]) for key in ("series", "length")}
        drawn = series_maps(loaded, batch["series"], batch["length"], target)
        return {f"{name}. {OVER_TIME}": sheet for name, sheet in zip(names, drawn, strict=True)}
    mapper, found = sound_mapper(loaded, rate_of(loaded.config)), {}
    for row, name, label in zip(rows, names, np.asarray(target).tolist(), strict=True):
        for title, sheet in mapper(row["audio"], int(row["length"]), label).items():
            found[f"{name}. {title}"] = sheet
    return found


def sound_mapper(loaded: Any, rate: int) -> Callable[[np.ndarray, int, int], dict[str, np.ndarray]]:
    """Return a function that draws what supports a class in one sound.

    Args:
        loaded: result of `load_run`, of a run on sounds.
        rate: samples per second.

    Returns:
        A function of a row `[T]`, its samples that are sound and a class from 0. It returns a dict from title to
        `[h, w, 3]` uint8, time to the right: the spectrogram, and per method that works for the network a map over its
        own one. A network without a spectrogram has a map over time alone.

    """
    model, variables = loaded.model, loaded.variables

    def mapped(method: Any) -> Any:
        def maps_of(variables: Any, audio: Any, length: Any, target: Any) -> tuple[Any, Any]:
            network, image = on_spectrogram(model, variables, audio, length)
            return method(network, variables, image, target, layer=None), image

        return jax.jit(maps_of)

    methods = {f"{title} over mel bands (red for, blue against)": mapped(method) for title, method in METHODS.items()}

    def draw(audio: np.ndarray, length: int, target: int) -> dict[str, np.ndarray]:
        found = {"Spectrogram": _sized(spectrogram_picture(audio[:length], rate, height=HEIGHT, width=WIDTH))}
        if not hasattr(model, "of_spectrogram"):
            weights = over_time(model, variables, audio[None], [length], target)[0, :length]
            found[OVER_TIME] = keyed(series_picture(audio[:length], weights, height=HEIGHT, width=WIDTH))
            return found
        given = audio[None], np.array([length], np.int32), np.array([target], np.int32)
        for title, run in methods.items():
            try:
                maps, image = jax.tree.map(np.asarray, run(variables, *given))
            except InputError:  # an operation without a rule
                continue
            frames = max(round(image.shape[1] * length / len(audio)), 1)  # without those of padding
            level = image[:, :frames, :, 0]
            level = (level - level.min()) / max(float(np.ptp(level)), 1e-12)
            drawn = overlaid(maps[:, :frames], np.repeat(level[..., None], 3, -1))[0].transpose(1, 0, 2)[::-1]
            found[title] = keyed(_sized((drawn * 255).round().astype(np.uint8)))
        return found

    return draw


def series_maps(loaded: Any, series: np.ndarray, length: np.ndarray, target: np.ndarray) -> list[np.ndarray]:
    """Draw series on a background of what supports a class, with its key.

    Args:
        loaded: result of `load_run`, of a run on series.
        series: `[n, T, C]`, rows of the run.
        length: steps that are no padding, `[n]`.
        target: a class for each, from 0.

    Returns:
        A picture `[h, w, 3]` uint8 for each.

    """
    weights = over_time(loaded.model, loaded.variables, series, length, target)
    return [
        keyed(series_picture(x[:n], weight[:n], height=HEIGHT, width=WIDTH))
        for x, n, weight in zip(series, length, weights, strict=True)
    ]


def _sized(image: np.ndarray) -> np.ndarray:
    """Repeat the pixels of a picture so that it has the usual height and width."""
    rows, columns = (np.arange(n) * m // n for n, m in zip((HEIGHT, WIDTH), image.shape[:2], strict=True))
    return image[rows][:, columns]
