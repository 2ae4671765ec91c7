"""A convolutional network for each frame and a recurrent one over time (Donahue et al., 2014, arXiv:1411.4389).

The paper has an LSTM over fully connected features, and averages what all steps predict; here the last state predicts.
"""

from typing import Any

import flax.linen as nn
import jax

from jaxcnn import ops
from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import InputError
from jaxcnn.layers import GRU, LSTM, Dense, Dropout, check_dropout, steps_of
from jaxcnn.models.video import Video
from jaxcnn.models.zoo import Body
from jaxcnn.models.zoo import backbone as network

Array = jax.Array
CELLS = {"gru": GRU, "lstm": LSTM}


class CNNGRU(Video):
    """See `cnn_gru`."""

    num_classes: int = 10
    backbone: Any = None
    hidden: int = 128
    layers: int = 1
    cell: str = "gru"
    bidirectional: bool = False
    flatten: int = 0
    dropout: float = 0.0
    dtype: Any = None

    @property
    def default_image(self) -> tuple[int, int, int, int]:
        """Frames, height, width and channels."""
        return (16, *self.backbone.default_image)

    def setup(self) -> None:
        """Make the layers."""
        make = CELLS[self.cell]
        self.frame = Dense(self.flatten, dtype=self.dtype) if self.flatten else None
        self.recurrent = [make(self.hidden, self.bidirectional, self.dtype) for _ in range(self.layers)]
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())

    def features(
        self, x: Array, *, train: bool = False, row_mask: Array | None = None, length: Array | None = None
    ) -> dict[str, Array]:
        """Return the features of the backbone `[B * T, ...]`, `frames` `[B, T, C]`, `states` and `last` `[B, F]`."""
        steps, lead = steps_of(x, length, row_mask), x.shape[:2]
        frames = steps.keep(x).reshape(-1, *x.shape[2:])
        counted = None if steps.mask is None else steps.mask.reshape(-1).astype(x.dtype)
        out = self.backbone.features(frames, train=train, row_mask=counted)
        y = list(out.values())[-1]
        if self.frame is not None:
            y = nn.relu(self.frame(y.reshape(y.shape[0], -1)))
        elif y.ndim > 2:
            y = ops.global_avg_pool(y)
        y = out["frames"] = y.reshape(*lead, -1)
        for layer in self.recurrent:
            y, last = layer(y, length=length, row_mask=row_mask)
        return {**out, "states": y, "last": last}

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]`."""
        return self.logits(self.drop(promote_float32(features["last"]), train=train))


def cnn_gru(num_classes: int = 10, backbone: Body = "cnn", **options: Any) -> CNNGRU:
    """Any network of `models.MODELS` on each frame, then a GRU over the frames up to `length`.

    Args:
        num_classes: number of logits.
        backbone: the network whose last `features` describe a frame, its name, or `{"name": NAME, "options": {...}}`.
        **options: `hidden` (size of the state, 128), `layers` of recurrent units (1), `cell` (`"gru"` or `"lstm"`),
            `bidirectional` (off), `flatten` (0: the mean over the places of a frame; otherwise the width of a layer
            that sees them all, which keeps where things are but fixes the size of the frames), `dropout` before the
            last layer (0), `dtype`.

    Raises:
        InputError: a value is out of range.

    """
    made = CNNGRU(num_classes, network(backbone), **options)
    if made.cell not in CELLS:
        raise InputError(f"cell={made.cell!r}: must be one of {', '.join(CELLS)}")
    if min(made.hidden, made.layers) < 1 or made.flatten < 0:
        raise InputError(
            f"hidden={made.hidden}, layers={made.layers}, flatten={made.flatten}: must be at least 1, 1 and 0"
        )
    check_dropout(made.dropout)
    return made
