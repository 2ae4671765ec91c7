"""Losses of embeddings, which compare rows with class vectors or with each other; one value per row, and its weight.

Losses that compare the rows of a batch see the whole batch on any number of devices. Padding is neither an anchor nor a
candidate. Distances and cosines are computed at the highest precision of the device, in float32 or wider.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.core.collectives import all_rows, all_sum, row_numbers
from jaxcnn.core.types import InputError, check_numbers, check_whole
from jaxcnn.losses.classification import cross_entropy

Array = jax.Array
OUTSIDE = 1e-2  # how far a cosine may be outside -1..1, by rounding in bfloat16
SHORTEST = 1e-24  # squared length below which a vector has no direction
SQUARED_SINE = 1e-6  # below it, the angle to the class vector counts as 0 or pi


def arcface(cosines: Array, labels: Array, scale: float = 64.0, margin: float = 0.5) -> Array:
    """Softmax cross-entropy of cosines, with a margin that is added to the angle to the vector of the true class.

    Reference: Deng et al., 2018, arXiv:1801.07698. Where angle plus margin is above pi, the cosine would rise again;
    there it falls linearly, as in the authors' program. All derivatives are finite, also at cosines of 1 and -1.

    Args:
        cosines: `[B, K]` between the embeddings and the vectors of the classes, in -1..1.
        labels: int `[B]` in 0..K-1.
        scale: factor of the cosines, above 0.
        margin: angle in radians, at least 0 and below pi.

    Returns:
        `[B]`, in nats. NaN where a label is no class or a cosine is outside -1..1.

    Raises:
        InputError: a shape is wrong, or a value is out of range.

    """
    check_numbers(margin=margin, scale=scale)
    if not 0 < scale < float("inf"):
        raise InputError(f"scale={scale}: must be positive")
    if not 0 <= margin < math.pi:
        raise InputError(f"margin={margin}: an angle in radians, must be at least 0 and below {math.pi:.4f}")
    if cosines.ndim != 2:
        raise InputError(f"cosines of shape {cosines.shape}: must be [B, K]")
    cosines = _wide(cosines)
    _check_labels(labels, cosines.shape[0])
    own = jax.nn.one_hot(labels, cosines.shape[1], dtype=jnp.bool_)
    squared = (1 - cosines) * (1 + cosines)
    slanted = squared > SQUARED_SINE  # the slope of a root at 0 is infinite, so the root is taken of 1 there
    sine = jnp.where(slanted, jnp.sqrt(jnp.where(slanted, squared, 1)), 0)
    turned = cosines * math.cos(margin) - sine * math.sin(margin)
    moved = jnp.where(cosines > -math.cos(margin), turned, cosines - margin * math.sin(margin))
    values = cross_entropy(scale * jnp.where(own, moved, cosines), labels)
    return jnp.where((jnp.abs(cosines) <= 1 + OUTSIDE).all(-1), values, jnp.nan)


def batch_hard_triplet(
    embeddings: Array, labels: Array, row_mask: Array | None = None, margin: float | None = None
) -> tuple[Array, Array]:
    """Triplet loss of each row with the farthest row of its class and the nearest row of another class in the batch.

    Reference: Hermans et al., 2017, arXiv:1703.07737. Distances are Euclidean, not squared.

    Args:
        embeddings: `[B, D]`.
        labels: int `[B]`, any numbers.
        row_mask: `[B]`, 0 for padding; None for no padding.
        margin: by which the other class must be farther away, at least 0; None for the soft margin, a softplus.

    Returns:
        Values `[B]` and weights `[B]`; the weight is 0 for padding and for a row without another row of its class or
        without a row of another class.

    Raises:
        InputError: a shape is wrong, or a value is out of range.

    """
    if margin is not None:
        check_numbers(margin=margin)
    if margin is not None and not 0 <= margin < float("inf"):
        raise InputError(f"margin={margin}: must be at least 0, or None for the soft margin")
    rows = _Rows(embeddings, labels, row_mask)
    fixed, others = lax.stop_gradient((rows.own, rows.all))
    # the rounding of this product only matters between rows that are almost as far away
    squared = jnp.square(others).sum(-1)[None] - 2 * _products(fixed, others)  # but for the same number in each row
    farthest = jnp.where(rows.positive, squared, -jnp.inf).argmax(1)
    nearest = jnp.where(rows.negative, squared, jnp.inf).argmin(1)
    gap = _distance(rows.own, rows.all[farthest]) - _distance(rows.own, rows.all[nearest])
    values = jax.nn.softplus(gap) if margin is None else jax.nn.relu(gap + margin)
    weights = (rows.positive.any(1) & rows.negative.any(1)).astype(values.dtype)
    return jnp.where(weights > 0, values, 0), weights


def supervised_contrastive(
    embeddings: Array, labels: Array, row_mask: Array | None = None, temperature: float = 0.1
) -> tuple[Array, Array]:
    """Contrast each row's class with all other rows of the batch: the mean over positives lies outside the logarithm.

    Reference: Khosla et al., 2020, arXiv:2004.11362, equation 2.

    Args:
        embeddings: unit vectors `[B, D]`.
        labels: int `[B]`, any numbers.
        row_mask: `[B]`, 0 for padding; None for no padding.
        temperature: by which cosines are divided, above 0.

    Returns:
        Values `[B]` in nats and weights `[B]`; the weight is 0 for padding and for a row without another of its class.

    Raises:
        InputError: a shape is wrong, or a value is out of range.

    """
    check_numbers(temperature=temperature)
    if not 0 < temperature < float("inf"):
        raise InputError(f"temperature={temperature}: must be positive")
    rows = _Rows(embeddings, labels, row_mask)
    logits = _products(rows.own, rows.all) / temperature
    others = rows.positive | rows.negative
    sound = jnp.where(others.any(1)[:, None], others, True)  # a row that is alone would have a logarithm of 0
    log_p = logits - jax.nn.logsumexp(jnp.where(sound, logits, -jnp.inf), axis=1, keepdims=True)
    count = rows.positive.sum(1).astype(logits.dtype)
    values = -jnp.where(rows.positive, log_p, 0).sum(1) / jnp.maximum(count, 1)
    return values, (count > 0).astype(values.dtype)


def nt_xent(
    first: Array, second: Array, row_mask: Array | None = None, temperature: float = 0.5
) -> tuple[Array, Array]:
    """Contrast both views of each row with all other views of the batch: NT-Xent, the loss of SimCLR.

    The candidates are the views of all rows on all devices. A view is compared by the cosine, so vectors need no
    particular length.

    Reference: Chen et al., 2020, arXiv:2002.05709, equation 1.

    Args:
        first: vectors of one view of each row, `[B, D]`.
        second: vectors of the other view of the same rows, `[B, D]`.
        row_mask: `[B]`, 0 for padding; None for no padding.
        temperature: by which cosines are divided, above 0.

    Returns:
        Values `[B]` in nats, the mean over both views of a row, and weights `[B]`, 0 for padding.

    Raises:
        InputError: a shape is wrong, or a value is out of range.

    """
    _check_views(first, second)
    count = first.shape[0]
    known = jnp.ones((count, 1), bool) if row_mask is None else row_mask[:, None] > 0
    both = [_unit(jnp.where(known, x, 0)) for x in (first, second)]  # padding may hold anything
    views = jnp.stack(both, 1).reshape(2 * count, -1)  # [2 B, D], the views of a row together
    number = jnp.repeat(row_numbers(count), 2)
    mask = None if row_mask is None else jnp.repeat(row_mask, 2)
    values, weights = supervised_contrastive(views, number, mask, temperature)
    return values.reshape(count, 2).mean(1), weights.reshape(count, 2)[:, 0]


def negative_cosine(predicted: Array, target: Array) -> Array:
    """Return the negative cosine between two vectors per row; no gradient flows through the second.

    SimSiam takes the mean of both directions: the prediction from one view, and the projection of the other.

    Reference: Chen and He, 2020, arXiv:2011.10566, equation 1.

    Args:
        predicted: `[B, D]`.
        target: `[B, D]`.

    Returns:
        `[B]`, from -1 to 1.

    Raises:
        InputError: a shape is wrong.

    """
    _check_views(predicted, target)
    return -(_unit(predicted) * lax.stop_gradient(_unit(target))).sum(-1)


def prototypical(
    embeddings: Array, labels: Array, support: Array, ways: int, row_mask: Array | None = None
) -> tuple[Array, Array, Array]:
    """Softmax cross-entropy of an episode, over negative squared distances to the mean of each class's support.

    Reference: Snell et al., 2017, arXiv:1703.05175.

    Args:
        embeddings: `[B, D]`.
        labels: int `[B]` in 0..ways-1, numbers within the episode.
        support: `[B]`, 1 for the support set, 0 for queries.
        ways: number of classes of an episode.
        row_mask: `[B]`, 0 for padding; None for no padding.

    Returns:
        Values `[B]` in nats, weights `[B]` (1 for queries) and logits `[B, ways]`. The logit of a class without support
        is the lowest finite number.

    Raises:
        InputError: a shape is wrong.

    """
    rows = _Rows(embeddings, labels, row_mask)
    if support.shape != labels.shape:
        raise InputError(f"support of shape {support.shape}: must be {labels.shape}, like the labels")
    check_whole("ways", ways, 1)
    given = (support > 0) & rows.known
    member = jax.nn.one_hot(labels, ways, dtype=rows.own.dtype) * given[:, None]  # [B, ways]
    counts = all_sum(member.sum(0))
    centres = all_sum(_products(member.T, rows.own.T)) / jnp.maximum(counts, 1)[:, None]
    squared = jnp.square(rows.own[:, None] - centres[None]).sum(-1)
    logits = jnp.where(counts > 0, -squared, jnp.finfo(squared.dtype).min)
    return cross_entropy(logits, labels), (rows.known & ~(support > 0)).astype(logits.dtype), logits


class _Rows:
    """This device's rows, all rows, and which pairs of them are of one class.

    Attributes:
        own: embeddings of this device's rows, `[B, D]`, 0 for padding.
        all: those of the global batch, `[N, D]`.
        known: which of this device's rows are not padding, `[B]`.
        positive: `[B, N]`, whether the other is of the same class and not the row itself.
        negative: `[B, N]`, whether it is of another class.

    """

    def __init__(self, embeddings: Array, labels: Array, row_mask: Array | None):
        if embeddings.ndim != 2:
            raise InputError(f"embeddings of shape {embeddings.shape}: must be [B, D]")
        _check_labels(labels, embeddings.shape[0])
        count = embeddings.shape[0]
        if row_mask is not None and row_mask.shape != (count,):
            raise InputError(f"row_mask of shape {row_mask.shape}: must be {(count,)}, one number per row")
        self.known = jnp.ones(count, bool) if row_mask is None else row_mask > 0
        self.own = jnp.where(self.known[:, None], _wide(embeddings), 0)
        self.all, label, known, number = all_rows((self.own, labels, self.known, row_numbers(count)))
        pairs = self.known[:, None] & known[None] & (row_numbers(count)[:, None] != number[None])
        same = labels[:, None] == label[None]
        self.positive, self.negative = pairs & same, pairs & ~same


def _check_views(first: Array, second: Array) -> None:
    if first.ndim != 2 or first.shape != second.shape:
        raise InputError(f"views of shapes {first.shape} and {second.shape}: must both be [B, D]")


def _unit(x: Array) -> Array:
    """Divide rows by their lengths; a row of zeros stays."""
    x = _wide(x)
    return x * lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), SHORTEST))


def _check_labels(labels: Array, count: int) -> None:
    if labels.shape != (count,) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(f"labels of shape {labels.shape}, {labels.dtype}: must be integers of shape {(count,)}")


def _distance(a: Array, b: Array) -> Array:
    """Euclidean distances of rows, with a slope of 0 where they are equal."""
    squared = jnp.square(a - b).sum(-1)
    apart = squared > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)


def _products(a: Array, b: Array) -> Array:
    """Inner products of the rows of two matrices, `[B, N]`."""
    return jnp.matmul(a, b.T, precision=lax.Precision.HIGHEST)


def _wide(x: Any) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
