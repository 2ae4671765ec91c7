"""Segmentation losses over regions: one value per example, from the pixels of each class together.

The cross-entropy of pixels is `losses.cross_entropy`, which takes any leading axes, and so does its focal form.
"""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.types import InputError, check_numbers
from jaxcnn.losses.classification import ROUNDING

Array = jax.Array


def dice_loss(logits: Array, labels: Array, mask: Array | None = None, *, background: bool = True) -> Array:
    """One minus the soft Dice coefficient, the mean over the classes that an example has.

    Args:
        logits: `[B, *spatial, K]`.
        labels: int `[B, *spatial]` in 0..K-1, or shares `[B, *spatial, K]`.
        mask: `[B, *spatial]`, 0 for pixels that do not count, whatever their label; None for all.
        background: whether class 0 counts as a class.

    Returns:
        `[B]`, in 0..1; 0 for an example without a pixel that counts, NaN for one with a label that is no class.

    Raises:
        InputError: labels or mask have the wrong shape, or the background is the only class.

    Reference: Milletari et al., 2016, arXiv:1606.04797.

    """
    return tversky_loss(logits, labels, mask, alpha=0.5, beta=0.5, background=background)


def tversky_loss(
    logits: Array,
    labels: Array,
    mask: Array | None = None,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 1.0,
    background: bool = True,
) -> Array:
    """One minus the Tversky index, the mean over the classes that an example has.

    The index is `tp / (tp + alpha * fp + beta * fn)` of the softmax's shares. With both weights at 0.5 it is Dice; a
    larger `beta` finds more of a rare class.

    Args:
        logits: `[B, *spatial, K]`.
        labels: int `[B, *spatial]` in 0..K-1, or shares `[B, *spatial, K]`.
        mask: `[B, *spatial]`, 0 for pixels that do not count, whatever their label; None for all.
        alpha: weight of false positives, at least 0.
        beta: weight of false negatives, at least 0.
        gamma: power of the loss of a class, above 0; above 1, classes that are already found count less (Abraham and
            Khan, 2018, arXiv:1810.07842, whose gamma is the inverse).
        background: whether class 0 counts as a class.

    Returns:
        `[B]`, in 0..1; 0 for an example without a pixel that counts, NaN for one with a label that is no class.

    Raises:
        InputError: labels or mask have the wrong shape, a weight is out of range, or the background is the only class.

    Reference: Salehi et al., 2017, arXiv:1706.05721.

    """
    check_numbers(alpha=alpha, beta=beta, gamma=gamma)
    if alpha < 0 or beta < 0 or alpha + beta <= 0 or gamma <= 0:
        raise InputError(f"alpha={alpha}, beta={beta}, gamma={gamma}: must not be negative, and gamma above 0")
    shares, truth, counts = _pixels(logits, labels, mask, background)
    axes = tuple(range(1, logits.ndim - 1))
    hit, found, there = ((x * counts).sum(axes) for x in (shares * truth, shares, truth))  # [B, K]
    index = hit / jnp.maximum(hit + alpha * (found - hit) + beta * (there - hit), 1e-6)
    present = there > 0
    each = jnp.where(present, jnp.maximum(1 - index, 0), 0)
    each = each if gamma == 1 else jnp.where(present, jnp.maximum(each, 1e-6) ** gamma, 0)  # no infinite slope at 0
    mean = each.sum(-1) / jnp.maximum(present.sum(-1), 1)
    return jnp.where(jnp.isnan(there).any(-1), jnp.nan, mean)


def _pixels(logits: Array, labels: Array, mask: Array | None, background: bool) -> tuple[Array, Array, Array]:
    """Return the softmax's shares and the true ones `[B, *spatial, K]`, and which pixels count `[B, *spatial, 1]`."""
    whole = jnp.issubdtype(labels.dtype, jnp.integer)
    wanted, classes = logits.shape[:-1] if whole else logits.shape, logits.shape[-1]
    if labels.shape != wanted or (mask is not None and mask.shape != logits.shape[:-1]):
        shapes = f"labels {tuple(labels.shape)}" + ("" if mask is None else f", mask {tuple(mask.shape)}")
        raise InputError(f"logits {tuple(logits.shape)}, {shapes}: labels must be {tuple(wanted)}, one entry per pixel")
    if classes < 2:
        raise InputError(f"logits for {classes} class: must be at least 2, with the background as a class")
    counts = jnp.ones(logits.shape[:-1], jnp.float32) if mask is None else (mask > 0).astype(jnp.float32)
    shares = jax.nn.softmax(logits.astype(jnp.float32), -1)
    truth = jax.nn.one_hot(labels, classes) if whole else labels.astype(jnp.float32)
    good = truth.sum(-1) == 1 if whole else (truth.min(-1) >= -ROUNDING) & (truth.sum(-1) <= 1 + ROUNDING)
    truth = jnp.where(good[..., None], truth, jnp.nan)
    shares, truth = (jnp.where(counts[..., None] > 0, x, 0) for x in (shares, truth))  # a masked pixel may be NaN
    first = 0 if background else 1
    return shares[..., first:], truth[..., first:], counts[..., None]


def boundary_weights(labels: Any, *, strength: float = 10.0, sigma: float = 5.0) -> np.ndarray:
    """Weights of pixels that are high between objects, as in the U-Net paper, computed on the host.

    The weight is `1 + strength * exp(-(d1 + d2)**2 / (2 * sigma**2))` for background pixels, where `d1` and `d2` are
    the distances to the nearest two objects. Put it into a batch as `"pixel_weight"`.

    Args:
        labels: int `[*spatial]`, one image or volume: 0 is background, and each connected group of other pixels is an
            object.
        strength: weight of a pixel that touches two objects, at least 0.
        sigma: distance in pixels over which it fades, above 0.

    Returns:
        float32 `[*spatial]`.

    Raises:
        InputError: a value is out of range.

    Reference: Ronneberger et al., 2015, arXiv:1505.04597.

    """
    from scipy import ndimage

    check_numbers(sigma=sigma, strength=strength)
    if strength < 0 or sigma <= 0:
        raise InputError(f"strength={strength}, sigma={sigma}: must be at least 0, and above 0")
    objects, count = cast(tuple[np.ndarray, int], ndimage.label(np.asarray(labels) > 0))
    if count < 2:
        return np.ones(objects.shape, np.float32)
    nearest = np.full((2, *objects.shape), np.inf)
    for i in range(1, count + 1):  # one distance map at a time, of which the two smallest are kept
        distance = cast(np.ndarray, ndimage.distance_transform_edt(objects != i))
        nearest = np.sort(np.concatenate([nearest, distance[None]]), 0)[:2]
    weight = 1 + strength * np.exp(-np.square(nearest.sum(0)) / (2 * sigma**2))
    return np.where(objects == 0, weight, 1).astype(np.float32)
