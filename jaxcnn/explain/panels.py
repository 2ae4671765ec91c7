"""Strips of pictures for reports: a few images, and what supports their predicted classes."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxcnn.core.types import InputError
from jaxcnn.explain.cam import grad_cam
from jaxcnn.explain.gradients import heat, integrated_gradients, prepared
from jaxcnn.explain.lrp import lrp

Array = jax.Array
GAP, SIDE, KEY = 2, 96, 8  # pixels between images, smallest height of an image, height of the colour key
METHODS: dict[str, Callable[..., Array]] = {
    "Grad-CAM": lambda *given, layer: grad_cam(*given, layer=layer),
    "Integrated gradients": lambda *given, layer: heat(integrated_gradients(*given).relevance),
    "Layer-wise relevance, epsilon": lambda *given, layer: heat(lrp(*given, epsilon=0.1).relevance),
}


def explained(
    loaded: Any, images: np.ndarray, predicted: np.ndarray, *, model: Any = None, layer: str | None = None
) -> dict[str, np.ndarray]:
    """Draw a strip of images, and per method that works for the network a strip of maps over them, with a colour key.

    Args:
        loaded: result of `load_run`.
        images: `[n, H, W, C]` as stored.
        predicted: their predicted classes `[n]`.
        model: of `at_pixel` or `at_box`; None for the run's own.
        layer: name of the feature for Grad-CAM; None for the last one.

    Returns:
        Dict from title to `[h, w, 3]` uint8. Red supports the predicted class, blue opposes it; each image has its own
        scale.

    """
    image, variables = prepared(loaded, images), loaded.variables
    target = np.asarray(predicted)
    if loaded.config["build"]["task"]["options"].get("head") == "multilabel" and len(loaded.config["classes"]) == 1:
        target = np.ones_like(target)  # explain the logit of the only label, not its negative
    pixels = images[..., :3] / 255 if images.dtype == np.uint8 else images[..., :3]
    pixels = np.broadcast_to(pixels if pixels.shape[-1] == 3 else pixels[..., :1], (*pixels.shape[:3], 3))
    found = {"Images": strip(pixels)}
    for title, method in METHODS.items():

        def maps_of(variables: Any, image: Array, target: Array, method: Callable[..., Array] = method) -> Array:
            return method(loaded.model if model is None else model, variables, image, target, layer=layer)

        try:
            maps = np.asarray(jax.jit(maps_of)(variables, image, target))
        except InputError:  # no spatial features, or an operation without a rule
            continue
        found[f"{title} (red for, blue against)"] = keyed(strip(overlaid(maps, pixels)))
    return found


def share(maps: np.ndarray) -> np.ndarray:
    """Scale each of the maps `[n, h, w]` to -1..1; the largest 0.5 % of its values are clipped."""
    return np.clip(maps / np.maximum(np.quantile(np.abs(maps), 0.995, axis=(1, 2), keepdims=True), 1e-12), -1, 1)


def coloured(shares: np.ndarray) -> np.ndarray:
    """Colour values in -1..1: negative is blue, zero is white, positive is red."""
    return np.stack([1 + np.minimum(shares, 0), 1 - np.abs(shares), 1 - np.maximum(shares, 0)], -1)


def tinted(maps: np.ndarray) -> np.ndarray:
    """Colour maps `[n, h, w]`: negative is blue, zero is white, positive is red; the largest 0.5 % have full colour."""
    return coloured(share(maps))


def overlaid(maps: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Lay coloured maps `[n, h, w]` over their images `[n, h, w, 3]` in 0..1, which show through in pale grey."""
    grey = 0.4 + 0.6 * np.clip(pixels, 0, 1).mean(-1, keepdims=True)
    if grey.shape[1:3] != maps.shape[1:]:  # the network resizes images
        rows, columns = (np.arange(n) * m // n for n, m in zip(maps.shape[1:], grey.shape[1:3], strict=True))
        grey = grey[:, rows][:, :, columns]
    shares = share(maps)
    weight = 0.8 * np.abs(shares)[..., None] ** 0.7  # the exponent makes weak values visible
    return (1 - weight) * grey + weight * coloured(np.sign(shares))


def keyed(made: np.ndarray) -> np.ndarray:
    """Add the colour key, from blue (against) to red (for), below a strip `[h, w, 3]` uint8."""
    h, w, _ = made.shape
    sheet = np.full((h + 2 * KEY, w, 3), 255, np.uint8)
    sheet[:h] = made
    sheet[h + KEY :] = (coloured(np.linspace(-1, 1, w)) * 255).round().astype(np.uint8)
    return sheet


def strip(tiles: np.ndarray) -> np.ndarray:
    """Put pictures `[n, h, w, 3]` in 0..1 side by side, and enlarge small ones."""
    times = max(1, -(-SIDE // tiles.shape[1]))
    tiles = tiles.repeat(times, 1).repeat(times, 2)
    framed = np.pad(tiles, ((0, 0), (0, 0), (0, GAP), (0, 0)), constant_values=1)
    return (np.concatenate(list(framed), 1)[:, :-GAP] * 255).round().astype(np.uint8)
