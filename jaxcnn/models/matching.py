"""Which candidates of a detector stand for which true boxes, and which of them a loss counts.

Candidates are anchors, default boxes or proposals. True boxes that are padding or crowds match nothing, whatever they
hold; candidates that lie in a crowd do not count as background.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcnn.core.types import Batch, row_mask
from jaxcnn.ops import boxes as box

Array = jax.Array
INSIDE = 0.5  # share of a candidate that lies in a crowd from which on it is no background
TIE = 1e-5  # overlaps that differ by less are equal: shares of an image are rounded where pixels would not be


class Truths(NamedTuple):
    """The true boxes of a batch; those that do not count are zeros.

    Attributes:
        boxes: `[B, N, 4]`, yxyx in 0..1; N is at least 1.
        label: int32 `[B, N]`.
        real: bool `[B, N]`, an object to find.
        crowd: bool `[B, N]`, a region that counts neither way; None where the batch states none.

    """

    boxes: Array
    label: Array
    real: Array
    crowd: Array | None


class Matches(NamedTuple):
    """What candidates stand for; those that are neither positive nor negative do not count.

    Attributes:
        truth: int32 `[B, A]`, the true box that a candidate stands for, or would.
        positive: bool `[B, A]`, it stands for a true box.
        negative: bool `[B, A]`, it is background.

    """

    truth: Array
    positive: Array
    negative: Array


def truths(batch: Batch) -> Truths:
    """Read the true boxes of a batch; where `"box_mask"` is absent, every box with an area counts."""
    boxes = jnp.asarray(batch["boxes"])
    given = batch["box_mask"] > 0 if "box_mask" in batch else jnp.ones(boxes.shape[:2], bool)
    given &= (row_mask(batch) > 0)[:, None]
    boxes = jnp.where(given[..., None], boxes, 0).astype(jnp.float32)
    crowd = given & (batch["box_crowd"] > 0) if "box_crowd" in batch else None
    real = given & (box.area(boxes) > 0)
    real = real if crowd is None else real & ~crowd
    label = jnp.where(real, batch["box_label"], 0).astype(jnp.int32) if "box_label" in batch else real.astype(jnp.int32)
    found = Truths(boxes, label, real, crowd)
    if boxes.shape[1]:
        return found
    return jax.tree.map(lambda x: jnp.zeros((x.shape[0], 1, *x.shape[2:]), x.dtype), found)


def overlaps(known: Truths, candidates: Array) -> Array:
    """Return intersection over union of true boxes with candidates `[B, A, 4]`: `[B, N, A]`, -1 for no object."""
    return jnp.where(known.real[..., None], box.iou(known.boxes, candidates), -1)


def match(known: Truths, candidates: Array, overlap: Array, *, high: float, low: float) -> Matches:
    """Match each candidate to the true box that it overlaps most.

    Args:
        known: the true boxes.
        candidates: `[B, A, 4]`.
        overlap: `[B, N, A]`, of `overlaps`.
        high: overlap from which on a candidate is positive.
        low: overlap below which it is negative.

    """
    most = overlap.max(1)
    number = jnp.arange(overlap.shape[1], dtype=jnp.int32)[None, :, None]
    truth = jnp.where(overlap == most[:, None], number, overlap.shape[1] - 1).min(1)
    negative = most < low
    if known.crowd is not None:
        shared = box.intersection(known.boxes, candidates) / jnp.maximum(box.area(candidates), 1e-12)[:, None]
        negative &= ~(known.crowd[..., None] & (shared >= INSIDE)).any(1)
    return Matches(truth, most >= high, negative)


def claim_best(found: Matches, overlap: Array) -> Matches:
    """Give each true box the candidate that overlaps it most, the first among equals, as SSD does.

    Where two true boxes claim one candidate, the later gets it.
    """
    best = jnp.where(overlap.max(-1) > 0, overlap.argmax(-1), -1)
    number = jnp.arange(overlap.shape[1], dtype=jnp.int32)[None, :, None]
    claimed = jnp.where(best[..., None] == jnp.arange(overlap.shape[2])[None, None], number, -1).max(1)
    truth = jnp.where(claimed >= 0, claimed, found.truth)
    return Matches(truth, found.positive | (claimed >= 0), found.negative & (claimed < 0))


def claim_ties(found: Matches, overlap: Array) -> Matches:
    """Make positive all candidates that overlap a true box as much as any other does, as Faster R-CNN does.

    Each stands for the true box that it overlaps most itself.
    """
    most = overlap.max(-1, keepdims=True)
    claimed = ((overlap >= most - TIE) & (most > 0)).any(1)
    return Matches(found.truth, found.positive | claimed, found.negative & ~claimed)


def hardest(values: Array, positive: Array, negative: Array, ratio: float) -> Array:
    """Choose the negatives with the largest loss, `ratio` for each positive: bool `[B, A]`.

    A row without any positive has the negatives of one, so that images without objects are learned from, too.

    Args:
        values: `[B, A]`, losses.
        positive: bool `[B, A]`.
        negative: bool `[B, A]`.
        ratio: number of negatives per positive.

    """
    wanted = jnp.ceil(ratio * jnp.maximum(positive.sum(-1, keepdims=True), 1)).astype(jnp.int32)
    return _largest(jax.lax.stop_gradient(values), negative, wanted)


def expected_sample(found: Matches, size: int, share: float) -> Array:
    """Return how often a random sample would contain each candidate, `[B, A]`.

    Faster R-CNN draws `size` candidates for its loss, at most `share` of them positive. A loss that weighs candidates
    with these numbers is the mean over all such samples: its gradient has the same expectation and no noise, and
    depends on no random key.

    Args:
        found: of `match`.
        size: of the sample.
        share: most positives in it, 0..1.

    """
    positives, negatives = (x.sum(-1, keepdims=True) for x in (found.positive, found.negative))
    taken = jnp.minimum(positives, int(size * share))
    rest = jnp.minimum(negatives, size - taken)
    return jnp.where(found.positive, taken / jnp.maximum(positives, 1), 0.0) + jnp.where(
        found.negative, rest / jnp.maximum(negatives, 1), 0.0
    )


def sample(order: Array, found: Matches, size: int, share: float) -> tuple[Array, Array]:
    """Choose candidates for a loss: at most `share` of them positive, the others negative.

    Args:
        order: `[B, A]`, 0..1; of each kind the candidates with the smallest numbers are chosen.
        found: of `match`.
        size: how many to choose, at most A.
        share: most positives among them, 0..1.

    Returns:
        Indices int32 `[B, size]`, and a mask bool `[B, size]`: false where there were too few candidates.

    """
    positives = _largest(-order, found.positive, jnp.full((len(order), 1), int(size * share)))
    negatives = _largest(-order, found.negative, size - positives.sum(-1, keepdims=True))
    value, index = jax.lax.top_k((positives | negatives).astype(jnp.float32), size)
    return index, value > 0


def _largest(values: Array, among: Array, count: Array) -> Array:
    """Choose the candidates with the largest values among some, the first among equals.

    Args:
        values: `[B, A]`, finite where `among` is true.
        among: bool `[B, A]`.
        count: `[B, 1]`, how many.

    Returns:
        Bool `[B, A]`.

    """
    values = jnp.where(among, values, -jnp.inf)
    # sorting the values alone takes an eighth of the time of sorting their places with them
    last = jnp.clip(values.shape[-1] - count, 0, values.shape[-1] - 1)
    least = jnp.take_along_axis(jnp.sort(values, -1), last, -1)
    above, equal = values > least, (values == least) & among
    return (among & above) | (equal & (jnp.cumsum(equal, -1) <= count - above.sum(-1, keepdims=True)))
