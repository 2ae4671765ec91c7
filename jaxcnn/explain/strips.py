"""Strips of pictures, such as a report shows: a few images, and what spoke for their predicted classes."""

from collections.abc import Callable

import jax
import numpy as np

from jaxcnn.explain.cam import grad_cam
from jaxcnn.explain.gradients import heat, integrated_gradients, prepared
from jaxcnn.explain.lrp import lrp
from jaxcnn.runs import LoadedRun
from jaxcnn.types import InputError

Array = jax.Array
GAP, SIDE = 2, 96  # pixels between images, and the least height of one
METHODS: dict[str, Callable[..., Array]] = {
    "Grad-CAM": grad_cam,
    "Integrated gradients": lambda *given: heat(integrated_gradients(*given).relevance),
    "Layer-wise relevance, epsilon": lambda *given: heat(lrp(*given, epsilon=0.1).relevance),
}


def explained(loaded: LoadedRun, images: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Draw a strip of images, and one for each method that the network allows.

    Args:
        loaded: the run.
        images: `[n, H, W, C]` as they are stored.
        predicted: their predicted classes `[n]`.

    Returns:
        `[h, w, 3]` uint8 by title; red speaks for the predicted class, blue against it, each image scaled by itself.

    """
    image, variables = prepared(loaded, images), loaded.variables
    single = loaded.config["build"]["task"]["options"].get("head") == "sigmoid"  # one logit, for the second class
    target = None if single else jax.numpy.asarray(predicted)
    pixels = images[..., :3] / 255 if images.dtype == np.uint8 else images[..., :3]
    found = {"Images": strip(np.broadcast_to(pixels, (*pixels.shape[:3], 3)))}
    for title, method in METHODS.items():
        try:
            maps = np.asarray(jax.jit(lambda v, x, k, method=method: method(loaded.model, v, x, k))(variables, image, target))
        except InputError:  # no places left to look at, or a layer without a rule
            continue
        sign = np.where(predicted == 0, -1, 1)[:, None, None] if single else 1
        found[f"{title} (red for, blue against)"] = strip(tinted(maps * sign))
    return found


def tinted(maps: np.ndarray) -> np.ndarray:
    """Colour maps `[n, h, w]`, from blue, negative, over white to red; the largest value but for 1 in 200 is the full colour."""
    share = maps / np.maximum(np.quantile(np.abs(maps), 0.995, axis=(1, 2), keepdims=True), 1e-12)
    share = np.clip(share, -1, 1)
    return np.stack([1 + np.minimum(share, 0), 1 - np.abs(share), 1 - np.maximum(share, 0)], -1)


def strip(tiles: np.ndarray) -> np.ndarray:
    """Put pictures `[n, h, w, 3]` in 0..1 side by side, small ones enlarged."""
    times = max(1, -(-SIDE // tiles.shape[1]))
    tiles = tiles.repeat(times, 1).repeat(times, 2)
    framed = np.pad(tiles, ((0, 0), (0, 0), (0, GAP), (0, 0)), constant_values=1)
    return (np.concatenate(list(framed), 1)[:, :-GAP] * 255).round().astype(np.uint8)
