"""A reader of lines of text: convolutions that keep columns, and a blank or a symbol for each of them.

It is the network of Shi et al. (2015, arXiv:1507.05717) without recurrence: one-dimensional convolutions along the
columns take the place of its recurrent layers. Height is reduced more often than width, so that narrow symbols keep
columns of their own.
"""

from collections.abc import Sequence
from typing import Any

import jax

from jaxcnn import ops
from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import InputError
from jaxcnn.layers import Conv, ConvNorm, Dropout, Network, apply_block

Array = jax.Array


class TextLine(Network):
    """See `text_line`."""

    num_classes: int = 10
    widths: Sequence[int] = (24, 48, 96, 128)
    line_width: int = 128
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = None

    default_image = (32, 192, 1)
    background = 1  # the blank, in front of the symbols
    smallest = 8

    def setup(self) -> None:
        """Make the layers; the first two pool both axes, and the height is pooled once more before the fourth."""
        stem, first, *rest = self.widths
        self.stem = ConvNorm(stem, (5, 5), pool=2, dtype=self.dtype)
        self.stages = [
            ConvNorm(first, pool=2, dtype=self.dtype),
            *(ConvNorm(width, dtype=self.dtype) for width in rest),
        ]
        self.line = [ConvNorm(self.line_width, (3,), dtype=self.dtype) for _ in range(2)]
        self.drop = Dropout(self.dropout)
        self.logits = Conv(self.num_classes + 1, (1,))

    def features(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Return `stem` and `stage1`, `stage2`, ... `[B, h, w, width]`, then `line` `[B, columns, line_width]`."""
        if min(x.shape[1:3]) < self.smallest:
            raise InputError(
                f"image shape {tuple(x.shape)}: must be at least {self.smallest} pixels high and wide; enlarge it"
            )
        out = {}
        for i, block in enumerate([self.stem, *self.stages]):
            x = ops.max_pool(x, (2, 1)) if i == 3 else x  # strides of a convolution would be slower
            x = apply_block(block, x, train=train, row_mask=row_mask, remat=self.remat)
            out[f"stage{i}" if i else "stem"] = x
        b, h, w, c = x.shape
        x = x.transpose(0, 2, 1, 3).reshape(b, w, h * c)  # all of a column at one place
        for block in self.line:
            x = block(x, train=train, row_mask=row_mask)
        return {**out, "line": x}

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, columns, 1 + num_classes]`, the blank first."""
        return self.logits(self.drop(promote_float32(features["line"]), train=train))


def text_line(num_classes: int = 10, **options: Any) -> TextLine:
    """A reader of lines, for `tasks.sequence`: gray or colour images of one height, of any width.

    A column of the output stands for four pixels of width and sees about forty.

    Args:
        num_classes: number of symbols, the blank not among them.
        **options: `widths` (channels of the stem and of each stage, at least four), `line_width` (channels of the
            layers along the columns, 128), `dropout` before the last layer, `remat`, `dtype`.

    """
    made = TextLine(num_classes, **options)
    if len(made.widths) < 4 or min(*made.widths, made.line_width, made.num_classes) < 1:
        raise InputError(
            f"num_classes={made.num_classes}, widths={tuple(made.widths)}, line_width={made.line_width}: must be at "
            "least 1, with at least four widths"
        )
    return made
