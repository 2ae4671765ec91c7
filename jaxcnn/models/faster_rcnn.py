"""Faster R-CNN (Ren et al., 2015, arXiv:1506.01497): a first stage proposes boxes, a second classifies each of them.

Both read a feature pyramid (Lin et al., 2016, arXiv:1612.03144), and the second samples it inside each proposal with
RoIAlign (He et al., 2017, arXiv:1703.06870). Structure and constants are torchvision's, with these differences: the
number of proposals is the same in training and in prediction, the loss of an image is divided by its own numbers of
anchors and proposals, and that of anchors is the mean over all samples that torchvision might draw.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import losses, ops
from jaxcnn.core.collectives import draw
from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import Batch
from jaxcnn.layers import BatchNorm, Dense, Network, check_image, check_side, feature_levels
from jaxcnn.models import matching
from jaxcnn.models.detections import best_boxes, check_detector, without_padding
from jaxcnn.models.fpn import FPN
from jaxcnn.models.rpn import BETA, RPN, proposal_losses, propose
from jaxcnn.models.zoo import MODELS, Body
from jaxcnn.models.zoo import backbone as found_backbone
from jaxcnn.ops import boxes as box

Array = jax.Array
OVERLAP = 0.5  # with a true box, from which on a proposal is an object and below which it is background
POSITIVES = 0.25  # the largest share of objects among the proposals of a loss
CELLS = 7  # of a proposal, along each side
CANONICAL, CANONICAL_LEVEL = 224, 4  # a proposal of this side in pixels is sampled from this level


class FasterRCNN(Network):
    """See `faster_rcnn`."""

    num_classes: int = 20
    backbone: Any = None
    levels: Sequence[int] = (2, 3, 4, 5)
    width: int = 256
    hidden: int = 1024
    anchor_size: float = 8.0
    ratios: Sequence[float] = (0.5, 1.0, 2.0)
    candidates: int = 1000
    proposals: int = 1000
    sampled: int = 512
    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    max_detections: int = 100
    dtype: Any = None

    background = 1

    @property
    def default_image(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return (800, 800, self.backbone.default_image[2])

    @property
    def smallest(self) -> int:
        """Side of the smallest image: that of the backbone."""
        return self.backbone.smallest

    def setup(self) -> None:
        """Make the layers."""
        levels = range(self.levels[0], self.levels[-1] + 2)
        self.pyramid = FPN(self.width, self.levels, extra=1, pool=True, dtype=self.dtype)
        self.rpn = RPN({i: (self.anchor_size * 2**i,) for i in levels}, self.ratios, dtype=self.dtype)
        self.dense = [Dense(self.hidden, dtype=self.dtype) for _ in range(2)]
        self.logits = Dense(self.num_classes + 1, kernel_init=nn.initializers.normal(0.01))
        self.deltas = Dense(4 * (self.num_classes + 1), kernel_init=nn.initializers.normal(0.001))

    def features(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Return the image, the features of the backbone, then `p2`, `p3`, ... of the pyramid."""
        check_side(x, self.smallest)
        found = self.backbone.features(x, train=train, row_mask=row_mask)
        return {"image": x, **found, **self.pyramid(feature_levels(self.backbone, x, found), train=train)}

    def head(
        self, features: Mapping[str, Array], *, train: bool = False, truths: matching.Truths | None = None
    ) -> dict[str, Array]:
        """Return what `__call__` returns; with `truths`, the second stage sees a sample for training."""
        image = features["image"].shape[1:3]
        levels = {i: features[f"p{i}"] for i in range(self.levels[0], self.levels[-1] + 2)}
        first = self.rpn(levels, image)
        per_place = len(self.ratios)
        counts = [math.prod(x.shape[1:3]) * per_place for x in levels.values()]
        boxes, mask = propose(first, counts, image, self.candidates, self.proposals)
        if train and truths is not None:
            boxes, mask = self.sample(boxes, mask, truths)
        return {**first, **self.classify({i: levels[i] for i in self.levels}, image, boxes), "proposal_mask": mask}

    def sample(self, boxes: Array, mask: Array, truths: matching.Truths) -> tuple[Array, Array]:
        """Add the true boxes to the proposals, and choose those that the second stage learns from.

        Args:
            boxes: `[B, P, 4]`, proposals, the best first.
            mask: bool `[B, P]`, false for padding.
            truths: the true boxes.

        Returns:
            Boxes `[B, S, 4]` and their mask `[B, S]`, with S = `sampled`, or all there are if these are fewer.

        """
        boxes = jnp.concatenate([boxes, truths.boxes], 1)
        mask = jnp.concatenate([mask, truths.real], 1)
        found = _matched(truths, boxes, mask)
        if self.has_rng("dropout"):
            order = draw(jax.random.uniform, self.make_rng("dropout"), mask.shape)
        else:  # the best proposals first
            order = jnp.broadcast_to(jnp.arange(mask.shape[1], dtype=jnp.float32)[None], mask.shape)
        index, mask = matching.sample(order, found, min(self.sampled, mask.shape[1]), POSITIVES)
        return jnp.where(mask[..., None], jnp.take_along_axis(boxes, index[..., None], 1), 0), mask

    def classify(self, levels: Mapping[int, Array], image: tuple[int, ...], boxes: Array) -> dict[str, Array]:
        """Run the second stage on given boxes.

        Args:
            levels: of the pyramid, `[B, h, w, C]` by number.
            image: its height and width in pixels.
            boxes: `[B, P, 4]`, yxyx in 0..1.

        Returns:
            `"proposals"`, the boxes, `"logits"` `[B, P, num_classes + 1]`, the background first, and `"deltas"`
            `[B, P, num_classes + 1, 4]`.

        """
        level, scaled = placed(boxes, levels, image)
        x = ops.roi_align(list(levels.values()), scaled, size=CELLS, level=level)
        x = x.transpose(0, 1, 4, 2, 3).reshape(*x.shape[:2], -1)  # channels first, as in the published weights
        for layer in self.dense:
            x = nn.relu(layer(x))
        x = promote_float32(x)
        return {
            "proposals": boxes,
            "logits": self.logits(x),
            "deltas": self.deltas(x).reshape(*boxes.shape[:2], -1, 4),
        }

    def __call__(
        self,
        x: Array,
        *,
        train: bool = False,
        row_mask: Array | None = None,
        boxes: Array | None = None,
        box_label: Array | None = None,
        box_mask: Array | None = None,
        box_crowd: Array | None = None,
    ) -> dict[str, Array]:
        """Propose boxes and classify them.

        In training with true boxes, these join the proposals, and the second stage sees a random sample, at most a
        quarter of it objects. The random key is that of `"dropout"`; without it, the best proposals are taken. The
        sample is the same on any number of devices.

        Args:
            x: images `[B, H, W, C]`, floating point.
            train: whether it runs in training mode.
            row_mask: `[B]`, 0 for padding.
            boxes: true boxes `[B, N, 4]`, yxyx in 0..1; only read in training.
            box_label: not read.
            box_mask: `[B, N]`, 1 for a box and 0 for padding, which may hold anything.
            box_crowd: `[B, N]`, 1 for a region that is neither an object nor background.

        Returns:
            `"objectness"` `[B, A]`, `"offsets"` and `"anchors"` `[B, A, 4]` of the first stage; of the second
            `"proposals"` `[B, P, 4]`, `"proposal_mask"` `[B, P]`, `"logits"` `[B, P, num_classes + 1]` and `"deltas"`
            `[B, P, num_classes + 1, 4]`, which differ from each other as in `ops.boxes.encode_deltas`.

        """
        del box_label
        check_image(x)
        x, known = without_padding(x, row_mask), None
        if train and boxes is not None:
            given = {"boxes": boxes, "box_mask": box_mask, "box_crowd": box_crowd, "row_mask": row_mask}
            known = matching.truths({name: value for name, value in given.items() if value is not None})
        return self.head(self.features(x, train=train, row_mask=row_mask), train=train, truths=known)

    def losses(self, outputs: Mapping[str, Array], batch: Batch) -> dict[str, Array]:
        """Compute the losses of each image.

        Args:
            outputs: of `__call__`.
            batch: `"boxes"` `[B, N, 4]` and `"box_label"` `[B, N]`, perhaps `"box_mask"`, `"box_crowd"`, `"row_mask"`.

        Returns:
            `"objectness"` and `"proposal_box"` of the first stage, `"classification"` and `"box"` of the second, `[B]`
            each: means over a sample of anchors and one of proposals.

        """
        known, boxes = matching.truths(batch), outputs["proposals"]
        found = _matched(known, boxes, outputs["proposal_mask"])
        weight = matching.expected_sample(found, self.sampled, POSITIVES)
        count = jnp.maximum(weight.sum(-1), 1)
        label = jnp.where(found.positive, jnp.take_along_axis(known.label, found.truth, 1) + 1, 0)
        each = losses.cross_entropy(outputs["logits"], label)
        deltas = jnp.take_along_axis(outputs["deltas"], label[..., None, None], 2)[..., 0, :]
        target = box.encode_deltas(jnp.take_along_axis(known.boxes, found.truth[..., None], 1), boxes)
        gap = losses.smooth_l1(deltas, target, BETA).sum(-1)
        return proposal_losses(outputs, known) | {
            "classification": jnp.where(weight > 0, weight * each, 0).sum(-1) / count,
            "box": jnp.where(found.positive, weight * gap, 0).sum(-1) / count,
        }

    def scored(self, outputs: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return all boxes before suppression, `[B, P, K, 4]` yxyx in 0..1, and their logits `[B, P, K]`."""
        boxes = box.decode_deltas(outputs["deltas"][:, :, 1:], outputs["proposals"][:, :, None])
        return box.clip(boxes), outputs["logits"][..., 1:]

    def detections(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Turn outputs into detections `"boxes"`, `"scores"`, `"labels"` and `"box_mask"`; see `best_boxes`."""
        boxes = box.decode_deltas(outputs["deltas"][:, :, 1:], outputs["proposals"][:, :, None])
        scores = jax.nn.softmax(promote_float32(outputs["logits"]), -1)[..., 1:]
        options = {"candidates": self.proposals, "score_threshold": self.score_threshold}
        return best_boxes(
            boxes,
            scores,
            mask=outputs["proposal_mask"],
            iou_threshold=self.iou_threshold,
            max_detections=self.max_detections,
            **options,
        )


def _matched(known: matching.Truths, boxes: Array, mask: Array) -> matching.Matches:
    """Match proposals to true boxes."""
    overlap = matching.overlaps(known, boxes)
    found = matching.match(known, boxes, overlap, high=OVERLAP, low=OVERLAP)
    mask = mask > 0
    return matching.Matches(found.truth, found.positive & mask, found.negative & mask)


def placed(boxes: Array, levels: Mapping[int, Array], image: tuple[int, ...]) -> tuple[Array, Array]:
    """Choose the level that each box is sampled from, and give boxes as shares of the level.

    Args:
        boxes: `[B, P, 4]`, as shares of the image.
        levels: `[B, h, w, C]` by number.
        image: its height and width in pixels.

    Returns:
        int32 `[B, P]`, counted from the first level, and `[B, P, 4]`.

    """
    side = jnp.sqrt(box.area(boxes) * math.prod(image))
    level = jnp.floor(CANONICAL_LEVEL + jnp.log2(jnp.maximum(side, 1e-3) / CANONICAL) + 1e-6)
    first, last = min(levels), max(levels)
    level = jnp.clip(level, first, last).astype(jnp.int32) - first
    # a level is larger than its share of the image where sizes were rounded up
    share = np.array([[n / (2**i * m) for n, m in zip(image, x.shape[1:3], strict=True)] for i, x in levels.items()])
    return level, boxes * jnp.asarray(np.tile(share, 2), jnp.float32)[level]


def faster_rcnn(num_classes: int = 20, backbone: Body = "resnet18", **options: Any) -> FasterRCNN:
    """Faster R-CNN over any network whose `features` halve their resolution step by step.

    Args:
        num_classes: number of classes, without the background.
        backbone: a network of `jaxcnn.models`, its name in `models.MODELS`, or `{"name": NAME, "options": {...}}`.
        **options: `levels` of the backbone (2 to 5: strides 4 to 32; one more follows), `width` (channels of the
            pyramid, 256), `hidden` (units of both dense layers, 1024), `anchor_size` (side of a square anchor, in
            pixels of its level, 8), `ratios` (height over width of anchors), `candidates` (per level before
            suppression, 1000), `proposals` (of an image, 1000), `sampled` (proposals of an image in training, 512),
            `score_threshold` (0.05), `iou_threshold` (of suppression, 0.5), `max_detections` (100), `dtype`. With
            `levels=(3, 4, 5), width=64, hidden=128, candidates=200, proposals=128, sampled=64` it trains on a CPU.

    Returns:
        A detector for `tasks.detection`.

    Raises:
        InputError: an option is out of range, or there is no such network.

    """
    made = FasterRCNN(num_classes, found_backbone(backbone), **options)
    check_detector(made, "candidates", "proposals", "sampled", "width", "hidden")
    return made


def fasterrcnn_resnet50_fpn(
    num_classes: int = 90,
    backbone: Body = "resnet50",
    frozen: bool = True,
    remat: bool = False,
    **options: Any,
) -> FasterRCNN:
    """Faster R-CNN with ResNet-50, as torchvision has it: its weights are read by name; 41,808,406 parameters for COCO.

    torchvision counts 41,755,286, without the norms. Its labels are one more than here, where the background has none.

    Args:
        num_classes: number of classes, without the background.
        backbone: name of a residual network in `models.MODELS`, or a network, which is taken as it is.
        frozen: whether the norms of the backbone never change, in training neither, and add nothing to the variance, as
            the published weights need it. Otherwise they are the usual ones, as in torchvision without weights.
        remat: less memory in training, more time.
        **options: as for `faster_rcnn`.

    """
    if not isinstance(backbone, str) or backbone not in MODELS:
        return faster_rcnn(num_classes, backbone, **options)
    norm = {"norm": functools.partial(BatchNorm, frozen=True, epsilon=0.0)} if frozen else {}
    body = MODELS[backbone](remat=remat, dtype=options.get("dtype"), **norm)
    return faster_rcnn(num_classes, body, **options)
