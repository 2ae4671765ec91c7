"""Pictures of what supports the class of a sound, over time and frequency, or of a series, over time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxcnn.core.types import InputError
from jaxcnn.data.drawn_series import series_picture
from jaxcnn.explain.over_time import over_time
from jaxcnn.explain.panels import METHODS, keyed, overlaid
from jaxcnn.explain.sound import on_spectrogram

OVER_TIME = "Covered spans of time (red for, blue against)"
HEIGHT, WIDTH = 160, 480  # pixels of a picture


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
    mapper, found = sound_mapper(loaded), {}
    for row, name, label in zip(rows, names, np.asarray(target).tolist(), strict=True):
        for title, sheet in mapper(row["audio"], int(row["length"]), label).items():
            found[f"{name}. {title}"] = sheet
    return found


def sound_mapper(loaded: Any) -> Callable[[np.ndarray, int, int], dict[str, np.ndarray]]:
    """Return a function that draws what supports a class in one sound.

    Args:
        loaded: result of `load_run`, of a run on sounds.

    Returns:
        A function of a row `[T]`, its samples that are sound and a class from 0. It returns a dict from title to
        `[h, w, 3]` uint8, time to the right: the spectrogram of the network, and per method that works for it a map
        over that. A network without a spectrogram has a map over time alone.

    """
    model, variables = loaded.model, loaded.variables

    def mapped(method: Any) -> Any:
        def maps_of(variables: Any, audio: Any, length: Any, target: Any) -> tuple[Any, Any]:
            network, image = on_spectrogram(model, variables, audio, length)
            return method(network, variables, image, target, layer=None), image

        return jax.jit(maps_of)

    methods = {f"{title} (red for, blue against)": mapped(method) for title, method in METHODS.items()}

    def draw(audio: np.ndarray, length: int, target: int) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
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
            grey = np.repeat(level[..., None], 3, -1)
            found.setdefault("Spectrogram in mel bands, the highest above", _turned(grey[0]))
            found[title] = keyed(_turned(overlaid(maps[:, :frames], grey)[0]))
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


def _turned(image: np.ndarray) -> np.ndarray:
    """Turn a picture in 0..1 from time downwards to time to the right, in the usual size, uint8."""
    image = (image * 255).round().astype(np.uint8).transpose(1, 0, 2)[::-1]
    rows, columns = (np.arange(n) * m // n for n, m in zip((HEIGHT, WIDTH), image.shape[:2], strict=True))
    return image[rows][:, columns]
