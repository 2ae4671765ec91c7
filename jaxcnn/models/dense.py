"""What a detector of one stage without anchor boxes learns and finds: assignment, losses and detections of FCOS."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import ops
from jaxcnn.core.types import Batch
from jaxcnn.losses import binary_cross_entropy, box_loss, sigmoid_focal_loss
from jaxcnn.ops import boxes as box_ops

Array = jax.Array
Outputs = Mapping[str, Mapping[str, Array]]
REACH = 8.0  # farthest side of a box that a level predicts, in strides; the next level goes on from there


def cells(shape: Sequence[int], stride: int, sides: Sequence[int]) -> Array:
    """Return a square of one stride around each place of a level.

    Args:
        shape: rows of the batch, height and width of the level.
        stride: pixels between two places.
        sides: height and width of the image in pixels.

    Returns:
        `[B, h, w, 4]`, yxyx in 0..1; squares at the border reach beyond the image.

    """
    (b, *counts), half = shape, stride / 2
    y, x = (jnp.arange(n, dtype=jnp.float32) * stride for n in counts)
    y, x = jnp.broadcast_to(y[:, None], counts), jnp.broadcast_to(x[None], counts)
    height, width = sides
    corners = [(y - half) / height, (x - half) / width, (y + half) / height, (x + half) / width]
    return jnp.broadcast_to(jnp.stack(corners, -1)[None], (b, *counts, 4))


def losses(outputs: Outputs, batch: Batch, num_classes: int, radius: float) -> dict[str, Array]:
    """Return the losses of each image; see `FCOS.losses`."""
    flat = _places(outputs)
    anchors = flat["anchors"]
    boxes, labels, kept, crowd = truths(batch)
    index, covered = assigned(anchors, _limits(outputs), boxes, kept, crowd, radius)
    positive = index >= 0
    count = jnp.maximum(positive.sum(-1), 1).astype(jnp.float32)
    chosen = jnp.maximum(index, 0)
    label = jnp.where(positive, jnp.take_along_axis(labels, chosen, 1), -1)
    truth = jax.nn.one_hot(label, num_classes, dtype=jnp.float32)
    focal = sigmoid_focal_loss(flat["logits"], truth)
    focal = jnp.where((positive | ~covered)[..., None], focal, 0).sum((1, 2))

    centre, size = _centre_size(anchors)
    true = box_ops.encode_distances(centre, jnp.take_along_axis(boxes, chosen[..., None], 1)) / _twice(size)
    true, guess = (jnp.where(positive[..., None], x, 1.0) for x in (true, flat["distances"]))
    origin = jnp.zeros((*guess.shape[:-1], 2))
    guess, true_box = (box_ops.decode_distances(origin, x) for x in (guess, true))
    missed = box_loss(guess, true_box)
    centred = binary_cross_entropy(jnp.where(positive, flat["centerness"], 0)[..., None], centerness(true)[..., None])
    each = {"classification": focal, "box": _total(positive, missed), "centerness": _total(positive, centred)}
    return {name: value / count for name, value in each.items()}


def assigned(
    anchors: Array, limits: tuple[Array, Array], boxes: Array, kept: Array, crowd: Array, radius: float
) -> tuple[Array, Array]:
    """Choose the box that each place predicts.

    A place predicts a box if it lies inside, less than `radius` strides from the centre along each axis, and if the
    farthest side is within the limits of its level. Of several boxes, the smallest.

    Args:
        anchors: `[B, P, 4]`, of `cells`.
        limits: `[P]` each: shortest and longest distance to the farthest side, in strides.
        boxes: `[B, N, 4]`, yxyx in 0..1.
        kept: bool `[B, N]`, boxes that may be chosen.
        crowd: bool `[B, N]`, regions whose places do not count as background.
        radius: in strides.

    Returns:
        int32 `[B, P]`, the number of a box, or -1; and bool `[B, P]`, the places inside crowds.

    """
    centre, size = (x[:, :, None] for x in _centre_size(anchors))
    # one array [B, P, N] per side: the CPU compares these faster than one of all sides
    top, left, bottom, right = (
        sign * (centre[..., i % 2] - boxes[:, None, :, i]) / size[..., i % 2] for i, sign in enumerate((1, 1, -1, -1))
    )
    inside = jnp.minimum(jnp.minimum(top, bottom), jnp.minimum(left, right)) > 0
    farthest = jnp.maximum(jnp.maximum(top, bottom), jnp.maximum(left, right))
    central = jnp.maximum(jnp.abs(top - bottom), jnp.abs(left - right)) / 2 < radius
    low, high = (limit[None, :, None] for limit in limits)
    fits = inside & central & (farthest > low) & (farthest < high) & kept[:, None]
    area = jnp.where(fits, box_ops.area(boxes)[:, None], jnp.inf)
    index = jnp.where(area.min(-1) < jnp.inf, area.argmin(-1), -1)
    return index.astype(jnp.int32), (inside & crowd[:, None]).any(-1)


def truths(batch: Batch) -> tuple[Array, Array, Array, Array]:
    """Return the true boxes of a batch, which may hold anything where there are none.

    Args:
        batch: in the convention of `core.types`.

    Returns:
        Boxes `[B, N, 4]` and int32 labels `[B, N]`, with zeros for padding, and bool `[B, N]`: which are objects, and
        which are crowds; N is at least 1.

    """
    boxes = jnp.asarray(batch["boxes"], jnp.float32)
    shape = boxes.shape[:2]
    real = jnp.asarray(batch["box_mask"]) > 0 if "box_mask" in batch else jnp.ones(shape, bool)
    crowd = real & (jnp.asarray(batch["box_crowd"]) > 0) if "box_crowd" in batch else jnp.zeros(shape, bool)
    labels = jnp.where(real, jnp.asarray(batch["box_label"]).astype(jnp.int32), 0)
    found = jnp.where(real[..., None], boxes, 0), labels, real & ~crowd, crowd
    if shape[1]:
        return found
    return tuple(jnp.zeros((shape[0], 1, *x.shape[2:]), x.dtype) for x in found)  # pyright: ignore[reportReturnType]


def centerness(distances: Array) -> Array:
    """Return how near to the centre of their boxes places lie, 0..1 `[...]`, from distances `[..., 4]` above 0."""
    near, far = (f(distances[..., :2], distances[..., 2:]) for f in (jnp.minimum, jnp.maximum))
    return jnp.sqrt((near / far).prod(-1))


def detections(
    outputs: Outputs, score_threshold: float, iou_threshold: float, candidates: int, most: int
) -> dict[str, Array]:
    """Return what is found; see `FCOS.detections`."""
    found = [_candidates(outputs[name], candidates) for name in outputs]
    boxes, scores, labels = (jnp.concatenate(parts, 1) for parts in zip(*found, strict=True))

    def one(boxes: Array, scores: Array, labels: Array) -> dict[str, Array]:
        kept = box_ops.nms(
            boxes, scores, iou_threshold=iou_threshold, max_outputs=most, classes=labels, mask=box_ops.area(boxes) > 0,
            score_threshold=score_threshold,
        )  # fmt: skip
        return {
            "boxes": jnp.where(kept.mask[:, None], boxes[kept.index], 0),
            "scores": kept.scores,
            "labels": jnp.where(kept.mask, labels[kept.index], 0),
            "box_mask": kept.mask,
        }

    return jax.vmap(one)(boxes, scores, labels)


def scored(outputs: Outputs) -> tuple[Array, Array]:
    """Return the boxes of all places and their logits; see `FCOS.scored`."""
    flat = _places(outputs)
    centre, size = _centre_size(flat["anchors"])
    return box_ops.clip(box_ops.decode_distances(centre, flat["distances"] * _twice(size))), flat["logits"]


def _candidates(level: Mapping[str, Array], most: int) -> tuple[Array, Array, Array]:
    """Return boxes, scores and labels `[B, n, ...]` of the best pairs of a place and a class."""
    b, classes = level["logits"].shape[0], level["logits"].shape[-1]
    scores = jnp.sqrt(jax.nn.sigmoid(level["logits"]) * jax.nn.sigmoid(level["centerness"])[..., None]).reshape(b, -1)
    scores, index = ops.top_k(scores, min(most, scores.shape[1]))
    place = (index // classes)[..., None]
    anchors, distances = (
        jnp.take_along_axis(level[name].reshape(b, -1, 4), place, 1) for name in ("anchors", "distances")
    )
    centre, size = _centre_size(anchors)
    boxes = box_ops.clip(box_ops.decode_distances(centre, distances * _twice(size)))
    return boxes, scores, (index % classes).astype(jnp.int32)


def _places(outputs: Outputs) -> dict[str, Array]:
    """Put the places of all levels one after another, `[B, P, ...]`."""

    def joined(name: str) -> Array:
        parts = [level[name] for level in outputs.values()]
        return jnp.concatenate([x.reshape(x.shape[0], -1, *x.shape[3:]) for x in parts], 1)

    return {name: joined(name) for name in next(iter(outputs.values()))}


def _limits(outputs: Outputs) -> tuple[Array, Array]:
    """Return for each place the shortest and longest distance to the farthest side of a box, in strides, `[P]`."""
    counts = [int(np.prod(level["centerness"].shape[1:])) for level in outputs.values()]
    low, high = [REACH / 2] * len(counts), [REACH] * len(counts)
    low[0], high[-1] = 0.0, np.inf
    return jnp.asarray(np.repeat(low, counts), jnp.float32), jnp.asarray(np.repeat(high, counts), jnp.float32)


def _centre_size(anchors: Array) -> tuple[Array, Array]:
    return (anchors[..., :2] + anchors[..., 2:]) / 2, anchors[..., 2:] - anchors[..., :2]


def _twice(size: Array) -> Array:
    return jnp.concatenate([size, size], -1)


def _total(where: Array, values: Array) -> Array:
    return jnp.where(where, values, 0).sum(-1)
