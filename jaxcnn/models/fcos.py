"""FCOS (Tian et al., 2019, arXiv:1904.01355): a detector of one stage, without anchor boxes, over a feature pyramid.

Every place of every level predicts a score per class, the distances to the four sides of its box, and a centre-ness
that lowers the scores of places far from the centre. Structure, assignment and losses are torchvision's: distances are
in strides and pass through a ReLU, centre-ness comes from the branch of the boxes, centres are sampled (all as in Tian
et al., 2020, arXiv:2006.09214), and the box loss has no weights. Place `i` of a level lies at pixel `i * stride`, where
the receptive fields of a residual network are centred. torchvision spreads the places of the two coarsest levels evenly
over images whose sides are no multiples of 128.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax

from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import Batch, InputError
from jaxcnn.layers import BatchNorm, Conv, GroupNorm, Network, check_image, check_side, feature_levels
from jaxcnn.models import dense
from jaxcnn.models.detections import check_detector
from jaxcnn.models.fpn import FPN
from jaxcnn.models.zoo import Body
from jaxcnn.models.zoo import backbone as network

Array = jax.Array
Outputs = Mapping[str, Mapping[str, Array]]
KERNEL_INIT = nn.initializers.normal(0.01)
PRIOR = 0.01  # score of every class at the start, so that the many places without an object do not drown the rest
NORMS = ("group", "batch")
GROUP = 8  # channels


class Tower(nn.Module):
    """Convolutions that all levels share, each with a norm and ReLU.

    With `norm="group"` the levels share the norms as well, with eight channels a group, as torchvision has: fewer would
    leave little of a level with a single place. Of batch norms each level has its own, because the statistics of levels
    differ.
    """

    width: int
    depth: int = 4
    norm: Literal["group", "batch"] = "group"
    dtype: Any = None

    @nn.compact
    def __call__(self, levels: Mapping[str, Array], *, train: bool, row_mask: Array | None = None) -> dict[str, Array]:
        """Map each `[B, H, W, C]` to `[B, H, W, width]`."""
        out = dict(levels)
        for i in range(self.depth):
            options = {"dtype": self.dtype, "kernel_init": KERNEL_INIT, "use_bias": self.norm == "group"}
            conv = Conv(self.width, (3, 3), **options, name=f"conv_{i}")
            if self.norm == "group":
                shared = GroupNorm(max(self.width // GROUP, 1), dtype=self.dtype, name=f"norm_{i}")
                norms: dict[str, nn.Module] = dict.fromkeys(out, shared)
            else:
                norms = {level: BatchNorm(dtype=self.dtype, name=f"norm_{i}_{level}") for level in out}
            out = {k: nn.relu(norms[k](conv(x), train=train, mask=row_mask)) for k, x in out.items()}
        return out


class FCOS(Network):
    """See `fcos`."""

    num_classes: int = 2
    backbone: Any = None
    width: int = 256
    depth: int = 4
    levels: Sequence[int] = (3, 4, 5)
    extra: int = 2
    pool: bool = False
    norm: Literal["group", "batch"] = "group"
    radius: float = 1.5
    score_threshold: float = 0.05
    iou_threshold: float = 0.6
    candidates: int = 1000
    max_detections: int = 100
    dtype: Any = None

    @property
    def default_image(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return (512, 512, self.backbone.default_image[2])

    @property
    def smallest(self) -> int:
        """Side of the smallest image, that of the backbone."""
        return self.backbone.smallest

    def setup(self) -> None:
        """Make the layers."""
        tower = functools.partial(Tower, self.width, self.depth, self.norm, self.dtype)
        self.pyramid = FPN(self.width, self.levels, self.extra, self.pool, dtype=self.dtype)
        self.classify, self.regress = tower(), tower()
        last = functools.partial(Conv, kernel_size=(3, 3), kernel_init=KERNEL_INIT)
        prior = nn.initializers.constant(math.log(PRIOR / (1 - PRIOR)))
        self.logits, self.distances, self.centerness = last(self.num_classes, bias_init=prior), last(4), last(1)

    def features(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Return the features of the backbone, then `p3`, `p4`, ... of the pyramid, and the image itself."""
        check_side(x, self.smallest)
        found = self.backbone.features(x, train=train, row_mask=row_mask)
        levels = feature_levels(self.backbone, x, found)
        return {"image": x, **found, **self.pyramid(levels, train=train, row_mask=row_mask)}

    def head(
        self, features: Mapping[str, Array], *, train: bool = False, row_mask: Array | None = None
    ) -> dict[str, dict[str, Array]]:
        """Return the outputs of each level: see `__call__`."""
        sides = features["image"].shape[1:3]
        levels = {f"p{i}": features[f"p{i}"] for i in range(self.levels[0], self.levels[-1] + self.extra + 1)}
        classes = self.classify(levels, train=train, row_mask=row_mask)
        boxes = self.regress(levels, train=train, row_mask=row_mask)
        return {
            name: {
                "logits": self.logits(promote_float32(classes[name])),
                "distances": nn.relu(self.distances(promote_float32(boxes[name]))),
                "centerness": self.centerness(promote_float32(boxes[name]))[..., 0],
                "anchors": dense.cells(x.shape[:3], 2 ** int(name[1:]), sides),
            }
            for name, x in levels.items()
        }

    def __call__(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, dict[str, Array]]:
        """Predict from images `[B, H, W, C]`.

        Returns:
            For each level, `p3`, `p4`, ..., a dict of `logits` `[B, h, w, K]`, `distances` `[B, h, w, 4]` (top, left,
            bottom, right, in strides), `centerness` `[B, h, w]` (a logit) and `anchors` `[B, h, w, 4]`, a square of one
            stride around each place, yxyx in 0..1.

        """
        check_image(x)
        return self.head(self.features(x, train=train, row_mask=row_mask), train=train, row_mask=row_mask)

    def losses(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Return the losses of each image, divided by the number of places that have an object to predict.

        Args:
            outputs: of `__call__`.
            batch: with `"boxes"` `[B, N, 4]` yxyx in 0..1, `"box_label"` `[B, N]`, and perhaps `"box_mask"` and
                `"box_crowd"` `[B, N]`; padding may hold anything.

        Returns:
            `classification` (focal loss), `box` (1 - GIoU) and `centerness` (cross-entropy), `[B]` each.

        """
        return dense.losses(outputs, batch, self.num_classes, self.radius)

    def scored(self, outputs: Outputs) -> tuple[Array, Array]:
        """Return all boxes before suppression, `[B, A, 4]` yxyx in 0..1, and their logits of classes `[B, A, K]`."""
        return dense.scored(outputs)

    def detections(self, outputs: Outputs) -> dict[str, Array]:
        """Return what is found, best first: per level the best candidates, then suppression per class.

        Args:
            outputs: of `__call__`.

        Returns:
            `boxes` `[B, M, 4]` yxyx in 0..1, `scores` `[B, M]`, `labels` int32 `[B, M]` and `box_mask` `[B, M]`, with
            M = `max_detections`; entries past the end are zeros.

        """
        return dense.detections(outputs, self.score_threshold, self.iou_threshold, self.candidates, self.max_detections)


def fcos(num_classes: int = 2, backbone: Body = "resnet18", **options: Any) -> FCOS:
    """FCOS over any network whose `features` halve their resolution step by step.

    Args:
        num_classes: number of classes, without a background.
        backbone: the network, its name in `models.MODELS`, or `{"name": NAME, "options": {...}}`.
        **options: `width` (channels of pyramid and heads, 256), `depth` (convolutions of each head, 4), `levels` of the
            backbone (3, 4 and 5: strides 8, 16 and 32), `extra` coarser levels (2) by strided convolutions, or with
            `pool=True` by leaving out pixels, `norm` of the heads (`"group"`, or `"batch"`), `radius` of the centre of
            an object in strides (1.5), `score_threshold` (0.05), `iou_threshold` of suppression (0.6), `candidates` per
            level (1000), `max_detections` (100), `dtype`.

    Returns:
        A detector for `tasks.detection`.

    Raises:
        InputError: a value is out of range.

    """
    made = FCOS(num_classes, network(backbone), **options)
    _check(made)
    return made


def fcos_resnet50_fpn(num_classes: int = 91, backbone: Body = "resnet50", **options: Any) -> FCOS:
    """FCOS with torchvision's layers and thresholds, for torchvision's weights; 32,322,720 parameters.

    torchvision counts 32,269,600, because it freezes the norms of the backbone; `transfer.keep_stats` freezes their
    statistics. The published weights have 91 classes, numbered as in COCO's files; number 0 and those that COCO left
    out never occur.

    Args:
        num_classes: number of logits per place.
        backbone: a residual network, or its name.
        **options: as for `fcos`.

    """
    return fcos(num_classes, backbone, **{"score_threshold": 0.2} | options)


def _check(made: FCOS) -> None:
    check_detector(made, "width", "candidates")
    if made.depth < 0:
        raise InputError(f"depth={made.depth}: must be at least 0")
    if made.norm not in NORMS:
        raise InputError(f"norm={made.norm!r}: must be one of {', '.join(NORMS)}")
    if not made.radius > 0:
        raise InputError(f"radius={made.radius}: must be above 0")
