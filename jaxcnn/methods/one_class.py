"""One-class inspection: learn from normal images alone, and find what differs from them.

Two ways that need no pretrained network and no example of a defect. `geometric` trains a classifier to tell how an
image was turned; what it cannot tell, or what has other features than normal images, is abnormal as a whole.
`cut_paste` trains a network with a class per pixel to find strips that were pasted into normal images; it shows where
a small defect is. Both are transforms for `augmented(step, ...)`.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.augment.core import Range, Transform, as_float, check_range, height_width, uniform
from jaxcnn.augment.erase import check_probability
from jaxcnn.core.collectives import draw
from jaxcnn.core.types import Batch, InputError

Array = jax.Array
WAYS = 8  # four quarter turns, each mirrored or not
EULER = 0.5772156649  # minus the digamma function of 1
ROUNDS = 200  # of the fixed point of the Dirichlet distribution


def turned(image: Array, way: Any) -> Array:
    """Turn and mirror each image in one of eight ways.

    Args:
        image: `[B, H, W, C]`, square.
        way: int `[B]` or one number, 0..7: four quarter turns, plus 4 if mirrored before.

    Raises:
        InputError: the images are not square.

    """
    height, width = height_width(image)
    if height != width:
        raise InputError(f"image shape {tuple(image.shape)}: must be square, to be turned; resize or crop the images")
    each = jnp.broadcast_to(jnp.asarray(way), image.shape[:1])[:, None, None, None]
    image = jnp.where(each >= 4, image[:, :, ::-1], image)
    image = jnp.where(each % 2 == 1, jnp.rot90(image, 1, (1, 2)), image)
    return jnp.where(each % 4 >= 2, image[:, ::-1, ::-1], image)


def geometric() -> Transform:
    """Turn each image in a random way, which becomes its `"label"`, for a classifier with `WAYS` classes.

    Reference:
        Golan and El-Yaniv, Deep Anomaly Detection Using Geometric Transformations, 2018, arXiv:1805.10917, with 8 of
        its 72 transformations: the translations are left out.

    """

    def change(key: Array, batch: Batch) -> Batch:
        image = jnp.asarray(batch["image"])
        way = (draw(uniform, key, image.shape[:1]) * WAYS).astype(jnp.int32)
        return {**batch, "image": turned(image, way), "label": way}

    return change


def fit_dirichlet(log_shares: Any) -> np.ndarray:
    """Fit a Dirichlet distribution to probabilities by maximum likelihood.

    Args:
        log_shares: logarithms of probabilities, `[N, ..., K]`; one distribution is fitted for each of `...`.

    Returns:
        Concentrations, float32 `[..., K]`, positive.

    Raises:
        InputError: there are no rows, or a value is not finite or above 0.

    Reference:
        Minka, Estimating a Dirichlet distribution, 2000, equation 9, from the start of Wicker et al., 2008.

    """
    logs = jnp.asarray(log_shares, jnp.float32)
    if logs.ndim < 2 or not len(logs) or not bool(jnp.isfinite(logs).all()):
        raise InputError(f"log_shares of shape {tuple(logs.shape)}: must be finite, [N, ..., K], at least one row")
    if bool((logs > 1e-3).any()):
        raise InputError(f"log_shares up to {float(logs.max()):g}: must be at most 0, logarithms of probabilities")
    mean, mean_log = jnp.exp(logs).mean(0), logs.mean(0)
    gap = (mean * (jnp.log(jnp.maximum(mean, 1e-30)) - mean_log)).sum(-1, keepdims=True)
    start = mean * (logs.shape[-1] - 1) * EULER / jnp.maximum(gap, 1e-6)

    def better(_: int, alpha: Array) -> Array:
        return jnp.maximum(_digamma_inverse(jax.scipy.special.digamma(alpha.sum(-1, keepdims=True)) + mean_log), 1e-6)

    return np.asarray(jax.lax.fori_loop(0, ROUNDS, better, jnp.maximum(start, 1e-6)))


def _digamma_inverse(y: Array) -> Array:
    """Invert the digamma function by Newton's method, from Minka's start."""
    x = jnp.where(y >= -2.22, jnp.exp(jnp.minimum(y, 30.0)) + 0.5, -1 / (jnp.minimum(y, -2.22) + EULER))
    for _ in range(5):
        x = x - (jax.scipy.special.digamma(x) - y) / jax.scipy.special.polygamma(1, x)
    return x


def dirichlet_score(log_shares: Any, alpha: Any) -> np.ndarray:
    """Return how abnormal rows are, `[N]`: minus the Dirichlet log-likelihood, without its constant.

    Args:
        log_shares: logarithms of probabilities of each row in each way, `[N, WAYS, K]`.
        alpha: concentrations of `fit_dirichlet`, `[WAYS, K]`.

    """
    return -((np.asarray(alpha) - 1) * np.asarray(log_shares)).sum((-1, -2))


class Bank(NamedTuple):
    """Features of normal images: each column is scaled by its mean and its standard deviation."""

    mean: np.ndarray  # [C]
    scale: np.ndarray  # [C]
    rows: np.ndarray  # [N, C]


def fit_bank(features: Any) -> Bank:
    """Keep the features `[N, C]` of normal images, to which those of other images are compared.

    Raises:
        InputError: there are no rows, or a value is not finite.

    """
    found = np.asarray(features, np.float32)
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise InputError(f"features of shape {found.shape}: must be finite, [N, C], at least one row")
    mean, scale = found.mean(0), np.maximum(found.std(0), 1e-6)
    return Bank(mean, scale, (found - mean) / scale)


def nearest_score(bank: Bank, features: Any, neighbours: int = 2) -> np.ndarray:
    """Return how abnormal rows are, `[N]`: the mean distance to the nearest normal features, per root of the columns.

    Args:
        bank: features of normal images.
        features: `[N, C]`.
        neighbours: how many of the nearest are averaged, at least 1.

    Raises:
        InputError: another number of columns, or of neighbours.

    Reference:
        Bergman et al., Deep Nearest Neighbor Anomaly Detection, 2020, arXiv:2002.10445.

    """
    found = np.asarray(features, np.float32)
    if found.ndim != 2 or found.shape[1] != len(bank.mean) or not 1 <= neighbours <= len(bank.rows):
        raise InputError(
            f"features of shape {found.shape}, neighbours={neighbours}: must be [N, {len(bank.mean)}], and 1 to "
            f"{len(bank.rows)}"
        )
    found = (found - bank.mean) / bank.scale
    squared = (found**2).sum(1)[:, None] + (bank.rows**2).sum(1)[None] - 2 * found @ bank.rows.T
    nearest = np.partition(np.maximum(squared, 0), neighbours - 1, axis=1)[:, :neighbours]
    return np.sqrt(nearest).mean(1) / math.sqrt(found.shape[1])


def cut_paste(
    *,
    probability: float = 0.5,
    length: Range = (0.2, 0.8),
    width: Range = (0.03, 0.12),
    brightness: float = 0.4,
    bend: float = 0.0,
    own: float = 0.0,
    smooth: bool = False,
) -> Transform:
    """Paste a strip of an image elsewhere into the same image, and mark it in `"mask"`: the scar of CutPaste.

    A strip lies at any angle, and holds what the image has at another place, brighter or darker. Several are pasted by
    `compose(cut_paste(), cut_paste())`; their masks are joined. With `bend`, `own` and `smooth` strips look like
    scratches.

    Args:
        probability: share of the images that get a strip.
        length: shortest and longest strip, in shares of the shorter side.
        width: thinnest and thickest strip, in the same unit; none is thinner than a pixel.
        brightness: largest change of the strip's pixels, in 0..1.
        bend: how far the middle of a strip lies from the line through its ends, at most, in the same unit; 0 for
            straight strips.
        own: share of the strips that hold the pixels of their own place, by at least a quarter of `brightness` brighter
            or darker.
        smooth: blend the pixels at a strip's edge by the share of them that it covers.

    Returns:
        A transform of `"image"` `[B, H, W, C]`, uint8 or float; it keeps the dtype. `"mask"` `[B, H, W]`, int32, is 1
        where a strip lies, of smooth ones where it covers more than half of a pixel; where the batch has one, its other
        pixels stay.

    Raises:
        InputError: a value is out of range.

    Reference:
        Li et al., CutPaste, 2021, arXiv:2104.04015. There a classifier learns which images have a strip; here the strip
        itself is the target, pixel by pixel, as in Zavrtanik et al., DRAEM, 2021, arXiv:2108.07610.

    """
    check_probability(probability)
    check_range("length", length, 0, 2)
    check_range("width", width, 0, 1)
    for name, value in (("brightness", brightness), ("bend", bend), ("own", own)):
        if not 0 <= value <= 1:
            raise InputError(f"{name}={value}: must be in 0..1")

    def change(key: Array, batch: Batch) -> Batch:
        image = jnp.asarray(batch["image"])
        high, wide = height_width(image)
        drawn = draw(uniform, key, (image.shape[0], 11)).T
        cover = _strip(drawn, high, wide, length, width, bend) * (drawn[5] < probability)[:, None, None]
        cover = cover if smooth else (cover > 0.5).astype(jnp.float32)
        # never the same place: between a quarter and three quarters of the image away
        moves = (jnp.array([high, wide])[:, None] * (0.25 + 0.5 * drawn[6:8])).astype(jnp.int32)
        stays, light = drawn[10] < own, 2 * drawn[8] - 1
        moves, light = jnp.where(stays, 0, moves), jnp.where(stays, 0.25 * jnp.sign(light) + 0.75 * light, light)
        strip = as_float(jax.vmap(lambda x, move: jnp.roll(x, move, (0, 1)))(image, moves.T))
        strip = (strip + (brightness * light)[:, None, None, None]).clip(0, 1)
        found = as_float(image) + cover[..., None] * (strip - as_float(image))
        found = jnp.round(found * 255).astype(image.dtype) if image.dtype == jnp.uint8 else found.astype(image.dtype)
        mask = (cover > 0.5).astype(jnp.int32)
        mask = jnp.maximum(mask, jnp.asarray(batch["mask"]).astype(jnp.int32)) if "mask" in batch else mask
        return {**batch, "image": jnp.where(cover[..., None] > 0, found, image), "mask": mask}

    return change


def _strip(drawn: Array, high: int, wide: int, length: Range, width: Range, bend: float) -> Array:
    """Return the share of each pixel that the strip of its row covers, `[B, H, W]`, from uniform numbers `[11, B]`."""
    side, (y, x) = min(high, wide), jnp.meshgrid(jnp.arange(high), jnp.arange(wide), indexing="ij")
    top, left, angle = drawn[0] * high, drawn[1] * wide, drawn[2] * math.pi
    half = (length[0] + drawn[3] * (length[1] - length[0])) * side / 2
    thick = jnp.maximum((width[0] + drawn[4] * (width[1] - width[0])) * side, 1.0)
    bow = (2 * drawn[9] - 1) * bend * side
    cos, sin, half, thick, bow = (v[:, None, None] for v in (jnp.cos(angle), jnp.sin(angle), half, thick, bow))
    dy, dx = y[None] + 0.5 - top[:, None, None], x[None] + 0.5 - left[:, None, None]
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    across = across - bow * ((along / jnp.maximum(half, 0.5)) ** 2 - 0.5)
    return (thick / 2 + 0.5 - jnp.abs(across)).clip(0, 1) * (half + 0.5 - jnp.abs(along)).clip(0, 1)


def map_score(maps: Any, share: float = 0.01) -> np.ndarray:
    """Return how abnormal images are, `[N]`: the mean of the highest `share` of the values in their maps `[N, H, W]`.

    Raises:
        InputError: another shape, or a share outside of 0..1.

    """
    found = np.asarray(maps)
    if found.ndim != 3 or not 0 < share <= 1:
        raise InputError(f"maps of shape {found.shape}, share={share}: must be [N, H, W], and above 0 and at most 1")
    flat = np.sort(found.reshape(len(found), -1), axis=1)
    return flat[:, -max(int(round(share * flat.shape[1])), 1) :].mean(1)


def alarm_threshold(scores: Any, alarms: float = 0.05) -> float:
    """Return the score above which an image is reported: so that of these normal images, at most a share is.

    Args:
        scores: of normal images that were not trained on, `[N]`.
        alarms: share of false alarms, 0..1; new images may have more.

    Raises:
        InputError: there are no scores, one is NaN, or the share is outside of 0..1.

    """
    found = np.asarray(scores, np.float64)
    if found.ndim != 1 or not len(found) or np.isnan(found).any() or not 0 <= alarms <= 1:
        raise InputError(f"scores of shape {found.shape}, alarms={alarms}: must be [N] without NaN, and 0..1")
    allowed = math.floor(alarms * len(found) + 1e-9)
    return float(np.sort(found)[::-1][allowed]) if allowed < len(found) else float("-inf")
