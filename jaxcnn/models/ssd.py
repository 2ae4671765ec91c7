"""SSD (Liu et al., 2015, arXiv:1512.02325): one stage, default boxes on feature maps of several sizes.

Every place of every map predicts, for each of its default boxes, a class or the background and how the object's box
differs. `ssd` puts this on any backbone; `ssd300_vgg16` is the paper's network. Unlike the
paper, the loss of an image is divided by its own number of matched boxes, and images without objects are learned from.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import losses
from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import Batch, InputError
from jaxcnn.layers import BatchNorm, Conv, ConvNorm, Network, check_image
from jaxcnn.models import matching
from jaxcnn.models.anchors import Grid, default_boxes
from jaxcnn.models.detections import best_boxes, check_detector, levels_of, without_padding
from jaxcnn.models.zoo import Body
from jaxcnn.models.zoo import backbone as found_backbone
from jaxcnn.ops import boxes as box

Array = jax.Array
GLOROT = nn.initializers.glorot_uniform()


class Extra(nn.Module):
    """A 1x1 convolution of half the channels, then a 3x3 one of stride 2, each with norm and ReLU."""

    width: int
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> Array:
        """Map `[B, H, W, C]` to `[B, H / 2, W / 2, width]`, sizes rounded up."""
        make = functools.partial(ConvNorm, norm=self.norm, dtype=self.dtype)
        x = make(self.width // 2, (1, 1), name="reduce")(x, train=train, row_mask=row_mask)
        return make(self.width, (3, 3), 2, 1, name="conv")(x, train=train, row_mask=row_mask)


class SSD(Network):
    """See `ssd`."""

    num_classes: int = 20
    backbone: Any = None
    levels: Sequence[int] = (3, 4, 5)
    extras: Sequence[int] = (256, 128, 128)
    scales: Sequence[float] = (0.1, 0.9)
    ratios: Sequence[float] | Sequence[Sequence[float]] = (2.0, 3.0)
    overlap: float = 0.5
    negatives: float = 3.0
    candidates: int = 400
    score_threshold: float = 0.01
    iou_threshold: float = 0.45
    max_detections: int = 200
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    background = 1
    steps = None  # distance of default boxes by the side of a feature map, where it is not 1 over the side

    @property
    def default_image(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return (256, 256, self.backbone.default_image[2])

    @property
    def smallest(self) -> int:
        """Side of the smallest image: that of the backbone."""
        return self.backbone.smallest

    def setup(self) -> None:
        """Make the layers."""
        self.further = [Extra(width, norm=self.norm, dtype=self.dtype) for width in self.extras]
        self._heads(len(self.levels) + len(self.extras))

    def _heads(self, levels: int) -> None:
        per_place = [2 + 2 * len(ratios) for ratios in self._ratios(levels)]
        make = functools.partial(Conv, kernel_size=(3, 3), padding=1, kernel_init=GLOROT)
        self.logits = [make(n * (self.num_classes + 1)) for n in per_place]
        self.deltas = [make(n * 4) for n in per_place]

    def _ratios(self, levels: int) -> Sequence[Sequence[float]]:
        given = [r if isinstance(r, Sequence) else None for r in self.ratios]
        if None in given:
            given = [self.ratios] * levels
        if len(given) != levels:
            raise InputError(
                f"ratios={self.ratios}: for {len(given)} levels, but there are {levels}; give one list each"
            )
        return given  # pyright: ignore[reportReturnType] (all are sequences)

    def _scales(self, levels: int) -> Sequence[float]:
        """Return a scale per level and one more: from the smallest to the largest in equal steps, then 1."""
        low, high = self.scales
        return [*np.linspace(low, high, levels).tolist(), 1.0]

    def features(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Return `level0`, `level1`, ..., `[B, h, w, C]`: maps of the backbone, then of the extra layers."""
        maps = levels_of(self.backbone, x, self.backbone.features(x, train=train, row_mask=row_mask), self.levels)
        for layer in self.further:
            maps.append(layer(maps[-1], train=train, row_mask=row_mask))
        return {f"level{i}": x for i, x in enumerate(maps)}

    def head(self, features: dict[str, Array], *, train: bool = False) -> dict[str, Array]:
        """Return what `__call__` returns."""
        del train
        maps = [promote_float32(x) for x in features.values()]
        logits, deltas = (
            jnp.concatenate([layer(x).reshape(x.shape[0], -1, n) for layer, x in zip(layers, maps, strict=True)], 1)
            for layers, n in ((self.logits, self.num_classes + 1), (self.deltas, 4))
        )
        anchors = self.anchors([x.shape[1:3] for x in maps])
        return {
            "logits": logits,
            "deltas": deltas,
            "anchors": jnp.broadcast_to(jnp.asarray(anchors), (logits.shape[0], *anchors.shape)),
        }

    def anchors(self, grids: Sequence[Grid]) -> np.ndarray:
        """Return the default boxes `[A, 4]` for feature maps of these heights and widths."""
        return default_boxes(grids, self._scales(len(grids)), self._ratios(len(grids)), self.steps)

    def __call__(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Predict for every default box.

        Args:
            x: images `[B, H, W, C]`, floating point.
            train: whether it runs in training mode.
            row_mask: `[B]`, 0 for padding.

        Returns:
            `"logits"` `[B, A, num_classes + 1]`, the background first; `"deltas"` `[B, A, 4]` (dy, dx, dh, dw), as in
            `ops.boxes.encode_deltas`; `"anchors"` `[B, A, 4]`, the default boxes.

        """
        check_image(x)
        return self.head(self.features(without_padding(x, row_mask), train=train, row_mask=row_mask), train=train)

    def losses(self, outputs: dict[str, Array], batch: Batch) -> dict[str, Array]:
        """Compute the losses of each image.

        Default boxes stand for the true box that they overlap most, if by at least `overlap`; the one that overlaps a
        true box most stands for it in any case. Of the others, those with the largest loss count as background,
        `negatives` for each that stands for an object, and as many as for one where there is no object.

        Args:
            outputs: of `__call__`.
            batch: `"boxes"` `[B, N, 4]` and `"box_label"` `[B, N]`, perhaps `"box_mask"`, `"box_crowd"`, `"row_mask"`.

        Returns:
            `"classification"` `[B]`, the cross-entropy, and `"box"` `[B]`, the smooth L1 loss, each divided by the
            number of default boxes that stand for an object, at least 1.

        """
        known, anchors = matching.truths(batch), outputs["anchors"]
        overlap = matching.overlaps(known, anchors)
        found = matching.match(known, anchors, overlap, high=self.overlap, low=self.overlap)
        found = matching.claim_best(found, overlap)
        label = jnp.where(found.positive, jnp.take_along_axis(known.label, found.truth, 1) + 1, 0)
        each = losses.cross_entropy(outputs["logits"], label)
        counted = found.positive | matching.hardest(each, found.positive, found.negative, self.negatives)
        target = box.encode_deltas(jnp.take_along_axis(known.boxes, found.truth[..., None], 1), anchors)
        gap = losses.smooth_l1(outputs["deltas"], target).sum(-1)
        count = jnp.maximum(found.positive.sum(-1), 1)
        return {
            "classification": jnp.where(counted, each, 0).sum(-1) / count,
            "box": jnp.where(found.positive, gap, 0).sum(-1) / count,
        }

    def scored(self, outputs: dict[str, Array]) -> tuple[Array, Array]:
        """Return all boxes before suppression, `[B, A, 4]` yxyx in 0..1, and their logits of classes `[B, A, K]`."""
        return box.clip(box.decode_deltas(outputs["deltas"], outputs["anchors"])), outputs["logits"][..., 1:]

    def detections(self, outputs: dict[str, Array]) -> dict[str, Array]:
        """Turn outputs into detections `"boxes"`, `"scores"`, `"labels"` and `"box_mask"`; see `best_boxes`."""
        boxes = box.decode_deltas(outputs["deltas"], outputs["anchors"])
        scores = jax.nn.softmax(promote_float32(outputs["logits"]), -1)[..., 1:]
        options = {"candidates": self.candidates, "score_threshold": self.score_threshold}
        return best_boxes(
            boxes, scores, iou_threshold=self.iou_threshold, max_detections=self.max_detections, **options
        )


def ssd(num_classes: int = 20, backbone: Body = "mobilenet_v3_small", **options: Any) -> SSD:
    """SSD on the features of any network that has them.

    Args:
        num_classes: number of classes, without the background.
        backbone: a network of `jaxcnn.models`, its name in `models.MODELS`, or `{"name": NAME, "options": {...}}`.
        **options: `levels` of the backbone (3, 4 and 5: strides 8, 16 and 32), `extras` (channels of further levels,
            each of half the size), `scales` (sides of the smallest and largest default boxes as shares of the image),
            `ratios` (of their sides, for all levels or for each), `overlap` (from which on a default box stands for an
            object, 0.5), `negatives` (per positive in the loss, 3), `candidates` (per class before suppression, 400),
            `score_threshold` (0.01), `iou_threshold` (of suppression, 0.45), `max_detections` (200), `norm` (of the
            further levels), `dtype`.

    Returns:
        A detector for `tasks.detection`.

    Raises:
        InputError: an option is out of range, or there is no such network.

    """
    made = SSD(num_classes, found_backbone(backbone), **options)
    check_detector(made, "candidates")
    return made
