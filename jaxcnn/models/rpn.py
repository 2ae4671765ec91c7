"""The region proposal network of Faster R-CNN (Ren et al., 2015, arXiv:1506.01497) over a feature pyramid.

Structure and constants are torchvision's. Its loss is that of the mean sample of anchors, not of one sample, see
`matching.expected_sample`.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn import losses, ops
from jaxcnn.core.precision import promote_float32
from jaxcnn.layers import Conv
from jaxcnn.models import matching
from jaxcnn.models.anchors import pyramid_anchors
from jaxcnn.ops import boxes as box

Array = jax.Array
KERNEL_INIT = nn.initializers.normal(0.01)
WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # of the deltas
HIGH, LOW = 0.7, 0.3  # overlaps from which on an anchor is an object, and below which it is background
SAMPLED, POSITIVES = 256, 0.5  # anchors of an image in the loss, and the largest share of objects among them
BETA = 1 / 9  # of the smooth L1 loss
SUPPRESSED = 0.7  # overlap above which the better of two proposals stays
SMALLEST = 1e-3  # side of a proposal in pixels


class RPN(nn.Module):
    """A 3x3 convolution, then an object or not and a box for each anchor, with the same weights on all levels.

    Attributes:
        sizes: per level, sides of square anchors in pixels; the others have the same area.
        ratios: height over width of the anchors.
        dtype: as in `precision.policy`.

    """

    sizes: Mapping[int, Sequence[float]]
    ratios: Sequence[float] = (0.5, 1.0, 2.0)
    dtype: Any = None

    @nn.compact
    def __call__(self, levels: Mapping[int, Array], image: tuple[int, ...]) -> dict[str, Array]:
        """Predict for every anchor.

        Args:
            levels: `[B, h, w, C]` by number; level `i` has `2**i` times coarser pixels than the image.
            image: its height and width in pixels.

        Returns:
            `"objectness"` `[B, A]`, a logit; `"offsets"` `[B, A, 4]`, how proposals differ from anchors;
            `"anchors"` `[B, A, 4]`, level by level.

        """
        per_place = len(self.ratios) * len(next(iter(self.sizes.values())))
        make = functools.partial(Conv, kernel_init=KERNEL_INIT)
        conv = make(next(iter(levels.values())).shape[-1], (3, 3), dtype=self.dtype, name="conv")
        logits, deltas = make(per_place, (1, 1), name="logits"), make(4 * per_place, (1, 1), name="deltas")
        found = [promote_float32(nn.relu(conv(x))) for x in levels.values()]
        b = found[0].shape[0]
        anchors = pyramid_anchors({i: x.shape[1:3] for i, x in levels.items()}, image, self.sizes, self.ratios)
        joined = np.concatenate(list(anchors.values()))
        return {
            "objectness": jnp.concatenate([logits(x).reshape(b, -1) for x in found], 1),
            "offsets": jnp.concatenate([deltas(x).reshape(b, -1, 4) for x in found], 1),
            "anchors": jnp.broadcast_to(jnp.asarray(joined), (b, *joined.shape)),
        }


def propose(
    outputs: Mapping[str, Array], counts: Sequence[int], image: tuple[int, ...], candidates: int, number: int
) -> tuple[Array, Array]:
    """Choose the boxes that are most likely objects, by non-maximum suppression per level; no gradient goes through.

    Args:
        outputs: of `RPN`.
        counts: anchors per level.
        image: its height and width in pixels.
        candidates: per level, those that suppression sees.
        number: of all levels that are kept.

    Returns:
        Boxes `[B, number, 4]`, yxyx in 0..1, best first, and a mask bool `[B, number]`; boxes past the end are zeros.

    """
    logits, offsets, anchors = (lax.stop_gradient(outputs[name]) for name in ("objectness", "offsets", "anchors"))
    starts = np.cumsum([0, *counts])[:-1]
    best, index, level = [], [], []
    for i, (start, count) in enumerate(zip(starts, counts, strict=True)):
        values, places = ops.top_k(logits[:, start : start + count], min(candidates, count))
        best.append(values)
        index.append(places + start)
        level.append(np.full(values.shape[1], i, np.int32))
    scores, places, levels = jnp.concatenate(best, 1), jnp.concatenate(index, 1), jnp.asarray(np.concatenate(level))
    deltas, anchors = (jnp.take_along_axis(x, places[..., None], 1) for x in (offsets, anchors))
    boxes = box.clip(box.decode_deltas(deltas, anchors, WEIGHTS))
    smallest = jnp.asarray([SMALLEST / n for n in image], jnp.float32)
    large = (boxes[..., 2:] - boxes[..., :2] >= smallest[None, None]).all(-1)
    options = {"iou_threshold": SUPPRESSED, "max_outputs": number, "classes": levels, "score_threshold": -jnp.inf}
    kept = jax.vmap(lambda boxes, scores, large: box.nms(boxes, scores, mask=large, **options))(boxes, scores, large)
    chosen = jnp.take_along_axis(boxes, kept.index[..., None], 1)
    return jnp.where(kept.mask[..., None], chosen, 0), kept.mask


def proposal_losses(outputs: Mapping[str, Array], known: matching.Truths, sampled: int = SAMPLED) -> dict[str, Array]:
    """Compute the losses of anchors.

    An anchor is an object if it overlaps one by at least 0.7, or as much as any anchor overlaps it, and background if
    it overlaps all by less than 0.3.

    Args:
        outputs: of `RPN`.
        known: the true boxes.
        sampled: number of anchors in a sample, at most half of them objects.

    Returns:
        `"objectness"` and `"proposal_box"` `[B]`: means over the anchors of a sample.

    """
    anchors, logits = outputs["anchors"], outputs["objectness"]
    overlap = matching.overlaps(known, anchors)
    found = matching.claim_ties(matching.match(known, anchors, overlap, high=HIGH, low=LOW), overlap)
    weight = matching.expected_sample(found, sampled, POSITIVES)
    count = jnp.maximum(weight.sum(-1), 1)
    each = losses.binary_cross_entropy(logits[..., None], found.positive[..., None])
    target = box.encode_deltas(jnp.take_along_axis(known.boxes, found.truth[..., None], 1), anchors, WEIGHTS)
    gap = losses.smooth_l1(outputs["offsets"], target, BETA).sum(-1)
    return {
        "objectness": (weight * each).sum(-1) / count,
        "proposal_box": jnp.where(found.positive, weight * gap, 0).sum(-1) / count,
    }
