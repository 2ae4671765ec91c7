"""SSD300 (Liu et al., 2015, arXiv:1512.02325) with VGG-16, as torchvision has it: its weights are read by name."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn import ops
from jaxcnn.core.precision import promote_float32
from jaxcnn.layers import Conv, check_side
from jaxcnn.models.detections import check_detector
from jaxcnn.models.ssd import SSD
from jaxcnn.models.vgg import VGG

Array = jax.Array
FIRST = 20.0  # what the features of conv4_3 are scaled to (Liu et al., 2015, arXiv:1506.04579)
# channels before and of each further level, then stride and padding
FURTHER = ((256, 512, 2, 1), (128, 256, 2, 1), (128, 256, 1, 0), (128, 256, 1, 0))


class Trunk(VGG):
    """VGG-16 whose third pooling rounds sizes up, so that 300 pixels become 38 and not 37."""

    blocks: Sequence[int] = (2, 2, 3, 3, 3)

    pools = {**VGG.pools, 3: functools.partial(ops.max_pool, window=2, ceil=True)}


class Rescale(nn.Module):
    """Divide the channels of each place by their norm, and multiply them by learned factors."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to the same shape."""
        gamma = self.param("gamma", nn.initializers.constant(FIRST), (x.shape[-1],), jnp.float32)
        wide = promote_float32(x)
        norm = lax.rsqrt(jnp.maximum(jnp.square(wide).sum(-1, keepdims=True), 1e-24))
        return (wide * norm * lax.broadcast_to_rank(gamma, x.ndim)).astype(x.dtype)


class SSD300(SSD):
    """See `ssd300_vgg16`."""

    ratios: Sequence[Sequence[float]] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
    scales: Sequence[float] = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)

    steps = {side: pixels / 300 for side, pixels in {38: 8, 19: 16, 10: 32, 5: 64, 3: 100, 1: 300}.items()}

    @property
    def default_image(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return (300, 300, 3)

    @property
    def smallest(self) -> int:
        """Side of the smallest image: the last two convolutions have no padding."""
        return 268

    def setup(self) -> None:
        """Make the layers."""
        make = functools.partial(Conv, dtype=self.dtype)

        def thin(width: int) -> int:
            return int(width * self.backbone.width)

        self.rescale = Rescale()
        self.fc6 = make(thin(1024), (3, 3), padding=6, dilation=6)
        self.fc7 = make(thin(1024), (1, 1))
        self.narrow = [make(thin(narrow), (1, 1)) for narrow, *_ in FURTHER]
        self.further = [make(thin(width), (3, 3), strides, padding) for _, width, strides, padding in FURTHER]
        self._heads(len(self.ratios))

    def _scales(self, levels: int) -> Sequence[float]:
        return self.scales

    def features(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Return `level0` to `level5`: conv4_3 rescaled, fc7, conv8_2, conv9_2, conv10_2 and conv11_2."""
        check_side(x, self.smallest)
        found = self.backbone.features(x, train=train, row_mask=row_mask)
        y = ops.max_pool(found["stage4"], 3, strides=1, padding=1)
        y = nn.relu(self.fc7(nn.relu(self.fc6(y))))
        maps = [self.rescale(found["stage3"]), y]
        for narrow, further in zip(self.narrow, self.further, strict=True):
            maps.append(nn.relu(further(nn.relu(narrow(maps[-1])))))
        return {f"level{i}": y for i, y in enumerate(maps)}


def ssd300_vgg16(num_classes: int = 90, width: float = 1.0, remat: bool = False, **options: Any) -> SSD300:
    """SSD for images of 300x300 pixels; 35,641,826 parameters for the 90 classes of COCO.

    `load_weights` reads torchvision's file. Its images are normalised with a deviation of 1/255, and its labels are one
    more than here, where the background has none.

    Args:
        num_classes: number of classes, without the background.
        width: share of the channels.
        remat: less memory in training, more time.
        **options: as for `ssd`, without `levels` and `extras`; `scales` and `ratios` are per level, and there is one
            scale more.

    """
    made = SSD300(num_classes, Trunk(width=width, remat=remat, dtype=options.get("dtype")), **options)
    check_detector(made, "candidates")
    return made
