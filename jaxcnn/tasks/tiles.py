"""Prediction in overlapping tiles, for images and volumes of any size."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.types import Batch, InputError, Tree, accept, check_whole, whole_numbers

Array = jax.Array
Predict = Callable[[Tree, Batch], Any]
WINDOWS = ("hann", "flat", "nearest")
OVER = ("softmax", "logits")


def predict_tiled(
    predict: Predict,
    variables: Tree,
    image: Any,
    *,
    tile: int | Sequence[int],
    overlap: int | Sequence[int] | None = None,
    window: Literal["hann", "flat", "nearest"] = "hann",
    over: Literal["softmax", "logits"] = "softmax",
    batch_size: int = 4,
) -> np.ndarray:
    """Predict one image of any size in tiles that overlap, and average what they say about each pixel.

    All tiles run through one compiled program, which the next images share. The device holds one batch of tiles at a
    time, and the host the result.

    Tiles begin at multiples of `tile - overlap`, and the last one ends with the image. Where one tile alone covers a
    pixel, the result is that of the tile. It is that of the whole image if the pixel is as far from the edges of its
    tile as the network sees, and tiles begin at multiples of the network's stride.

    Args:
        predict: `(variables, batch) -> outputs` `[B, *tile, K]` from a batch with the entry `"image"`, such as
            `task.predict` of a segmentation.
        variables: the first argument of `predict`.
        image: `[*spatial, C]`, an array, or anything of that shape that gives arrays for slices. Axes that are shorter
            than a tile are padded with the mirrored image.
        tile: size of a tile in pixels: one number, or one per spatial axis.
        overlap: pixels that neighbours share, at least 0 and less than `tile`, in the same form; by default a quarter
            of `tile`.
        window: weight of a tile's pixels. `"hann"`: falls smoothly to almost 0 at the edges of the tile; `"flat"`: the
            same for all; `"nearest"`: each pixel is taken from the tile in which it is farthest from an edge.
        over: what to average: probabilities after `"softmax"`, or `"logits"`.
        batch_size: tiles that are predicted together.

    Returns:
        float32 `[*spatial, K]`: probabilities with `"softmax"`, otherwise logits.

    Raises:
        InputError: a value is out of range, or the outputs are not values per pixel.

    Reference: Ronneberger et al., 2015, arXiv:1505.04597 (tiles that overlap).

    """
    if isinstance(image, jax.Array) or not hasattr(image, "shape"):
        image = np.asarray(image)
    spatial = tuple(int(n) for n in image.shape[:-1])
    sizes, shared = _sizes(spatial, tile, overlap)
    _check(window, over, batch_size)
    if any(n < size for n, size in zip(spatial, sizes, strict=True)):
        widths = [(0, max(size - n, 0)) for n, size in zip(spatial, sizes, strict=True)]
        image = np.pad(np.asarray(image), [*widths, (0, 0)], "reflect")
    padded = tuple(int(n) for n in image.shape[:-1])
    begins = [_begins(*sides) for sides in zip(padded, sizes, shared, strict=True)]
    weights = [_weights(n, size, first, window) for n, size, first in zip(padded, sizes, begins, strict=True)]
    places = list(itertools.product(*(range(len(first)) for first in begins)))
    run, check = _compiled(predict, over), getattr(predict, "check", accept)
    variables, result, count = jax.device_put(variables), None, min(batch_size, len(places))
    for i in range(0, len(places), count):
        some = places[i : i + count]
        at = [_slices(place, begins, sizes) for place in some]
        tiles = np.stack([np.asarray(image[one]) for one in at + at[:1] * (count - len(at))])  # one size of batch
        check({"image": tiles})
        outputs = np.asarray(run(variables, {"image": tiles}))
        result = np.zeros((*padded, outputs.shape[-1]), np.float32) if result is None else result
        for place, one, values in zip(some, at, outputs, strict=False):
            result[one] += values * _product([w[k] for w, k in zip(weights, place, strict=True)])
    return np.asarray(result)[tuple(slice(n) for n in spatial)]


def _sizes(
    spatial: tuple[int, ...], tile: int | Sequence[int], overlap: int | Sequence[int] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the size of a tile and what tiles share, for each axis."""
    if not spatial or min(spatial) < 1:
        raise InputError(f"image with the axes {spatial} before the channels: must be [*spatial, C], with pixels")

    sizes = whole_numbers("tile", tile, len(spatial))
    given = [n // 4 for n in sizes] if overlap is None else overlap
    shared = whole_numbers("overlap", given, len(spatial), 0)
    if any(n >= size for n, size in zip(shared, sizes, strict=True)):
        raise InputError(f"overlap={overlap}: must be less than tile={tile}")
    return sizes, shared


def _check(window: str, over: str, batch_size: int) -> None:
    if window not in WINDOWS:
        raise InputError(f"window={window!r}: must be one of {', '.join(WINDOWS)}")
    if over not in OVER:
        raise InputError(f"over={over!r}: must be one of {', '.join(OVER)}")
    check_whole("batch_size", batch_size, 1)


def _begins(n: int, size: int, shared: int) -> list[int]:
    """Return where the tiles of an axis of `n` pixels begin."""
    return [*range(0, n - size, size - shared), n - size]


def _weights(n: int, size: int, begins: Sequence[int], window: str) -> np.ndarray:
    """Return the weight of each pixel of each tile along an axis, `[tiles, size]`; those of one pixel add up to 1."""
    place, begin = np.arange(size), np.array(begins)[:, None]
    if window == "nearest":
        low = np.where(begin == 0, np.inf, place[None])  # the image's own edge is none of the tile
        high = np.where(begin + size == n, np.inf, size - 1 - place[None])
        depth = np.full((len(begins), n), -1.0)
        np.put_along_axis(depth, begin + place, np.minimum(low, high), 1)
        raw = depth.argmax(0)[begin + place] == np.arange(len(begins))[:, None]
    else:
        one = np.sin(np.pi * (place + 0.5) / size) ** 2 if window == "hann" else np.ones(size)
        raw = np.broadcast_to(one, (len(begins), size))
    total = np.zeros(n)
    np.add.at(total, begin + place, raw)
    return (raw / total[begin + place]).astype(np.float32)


def _slices(place: Sequence[int], begins: Sequence[Sequence[int]], sizes: Sequence[int]) -> tuple[slice, ...]:
    starts = (first[i] for first, i in zip(begins, place, strict=True))
    return tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))


def _product(weights: Sequence[np.ndarray]) -> np.ndarray:
    """Return the weights of a tile from those of its axes, `[*tile, 1]`."""
    return functools.reduce(np.multiply.outer, weights)[..., None]


@functools.lru_cache(8)  # so that the images of a loop share one program
def _compiled(predict: Predict, over: str) -> Callable[[Tree, Batch], Array]:
    def run(variables: Tree, batch: Batch) -> Array:
        outputs, wanted = predict(variables, batch), batch["image"].shape[:-1]
        if getattr(outputs, "shape", ())[:-1] != wanted:
            found = getattr(outputs, "shape", type(outputs).__name__)
            raise InputError(f"outputs {found} for tiles {tuple(wanted)}: must have values for each pixel of a tile")
        outputs = outputs.astype(jnp.float32)
        return jax.nn.softmax(outputs, -1) if over == "softmax" else outputs

    return jax.jit(run)
