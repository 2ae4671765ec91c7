"""Base classes of models: features followed by a head, and the common form with a stem and stages of blocks."""

import dataclasses
import functools
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxcnn import ops
from jaxcnn.core.precision import checked, promote_float32
from jaxcnn.core.remat import recompute
from jaxcnn.core.types import InputError, check_whole
from jaxcnn.layers.core import check_image

Array = jax.Array


def apply_block(block: nn.Module, x: Array, *, train: bool, row_mask: Array | None, remat: bool = False) -> Array:
    """Call `block(x, train=, row_mask=)`.

    Args:
        block: a bound module.
        x: its input.
        train: whether it runs in training mode.
        row_mask: `[B]`, 0 for padding; None for no padding.
        remat: recompute the arrays inside the block for its gradient instead of keeping them.

    """
    if not remat or not train or block.is_initializing():
        return block(x, train=train, row_mask=row_mask)
    module, variables = block.unbind()
    params = variables.pop("params")  # pyright: ignore[reportAttributeAccessIssue] (a dict, typed as a Mapping)
    # the key is drawn once, so that both passes drop the same units
    rngs = {"dropout": block.make_rng("dropout")} if block.has_rng("dropout") else {}
    changing = [collection for collection in variables if block.is_mutable_collection(collection)]

    def pure(x: Array, rest: Any) -> tuple[Array, Any]:
        params, state, rngs, row_mask = rest
        return module.apply({"params": params, **state}, x, train=True, row_mask=row_mask, rngs=rngs, mutable=changing)

    y, changed = recompute(pure)(x, (params, variables, rngs, row_mask))
    for collection, values in changed.items():
        for name, value in values.items():
            block.put_variable(collection, name, value)
    return y


class Network(nn.Module):
    """A model in two parts that can be used separately: `features(x) -> {name: array}` and `head(features) -> outputs`.

    A field `dtype` takes the values of `precision.policy`, names included. Logits are always float32: heads compute
    their last layer from `precision.promote_float32` features.

    Attributes:
        smallest: side of the smallest image that works.
        default_image: height, width and channels of the images that the model was designed for.
        background: 1 if the last layer has a logit for the background in front of those of the classes.

    """

    smallest = 1
    default_image = (224, 224, 3)
    background = 0

    def __post_init__(self) -> None:
        """Turn the name of a dtype into the dtype, or refuse it, as well as sizes that are no whole numbers."""
        if hasattr(self, "dtype"):
            self.dtype = checked(self.dtype)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in (int, "int") and value is not field.default:
                check_whole(field.name, value)
                setattr(self, field.name, int(value))
        super().__post_init__()

    def features(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Return a dict from name to intermediate array; `head` reads the last one."""
        raise TypeError(f"{type(self).__name__} defines no features()")

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return outputs, such as logits `[B, num_classes]`."""
        raise TypeError(f"{type(self).__name__} defines no head()")

    def __call__(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> Array:
        """Map `[B, H, W, C]` float to the outputs of `head`."""
        check_image(x)
        return self.head(self.features(x, train=train, row_mask=row_mask), train=train)


class Staged(Network):
    """A stem, stages of blocks, the mean over all positions, and a linear layer.

    A subclass has the field `num_classes`. Its `setup` makes `stem` (one or more blocks), `stages` (lists of blocks),
    `drop`, `logits` and optionally a `last` block. Blocks are called as `block(x, train=, row_mask=)`.

    Attributes:
        pools: dict from the number of a stage to the pooling before it.
        taps: dict from the numbers of a stage and a block in it to the name of an additional entry of `features`.

    """

    pools = types.MappingProxyType({})
    taps = types.MappingProxyType({})

    def features(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Return `stem`, `stage1`, `stage2`, ... and perhaps `last`, each `[B, h, w, width]` before any pooling."""
        check_side(x, self.smallest, hasattr(self, "cifar_stem") and not self.cifar_stem)
        call = functools.partial(apply_block, train=train, row_mask=row_mask, remat=getattr(self, "remat", False))
        out, stem = {}, self.stem if isinstance(self.stem, Sequence) else [self.stem]
        for i, blocks in enumerate((stem, *self.stages)):
            x = self.pools[i](x) if i in self.pools else x
            for j, block in enumerate(blocks):
                x = call(block, x)
                if (i, j) in self.taps:
                    out[self.taps[i, j]] = x
            out[f"stage{i}" if i else "stem"] = x
        if hasattr(self, "last"):
            out["last"] = call(self.last, x)
        return out

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]`."""
        last = features["last" if "last" in features else f"stage{len(self.stages)}"]
        pooled = ops.global_avg_pool(promote_float32(last))
        return self.logits(self.drop(pooled, train=train))


def check_side(x: Array, smallest: int, cifar_stem: bool = False) -> None:
    """Refuse an image smaller than a network needs.

    Args:
        x: images `[B, H, W, C]`.
        smallest: smallest side in pixels.
        cifar_stem: whether the network has a variant with a smaller minimum, which the message then names.

    """
    check_whole("smallest", smallest)
    if any(n < smallest for n in x.shape[1:3]):  # a size may be symbolic
        hint = ", or use cifar_stem=True" if cifar_stem else ""
        raise InputError(
            f"image shape {tuple(x.shape)}: must be at least {smallest}x{smallest} pixels; enlarge it{hint}"
        )


def feature_levels(encoder: Any, x: Array, features: Mapping[str, Array]) -> dict[int, Array]:
    """Return the last feature of each resolution of a network.

    Args:
        encoder: the network, which messages name.
        x: images `[B, *spatial, C]`.
        features: what its `features` made of them, the finest first.

    Returns:
        Level to feature `[B, *spatial, C]`; level `i` has `2**i` times coarser pixels than the image.

    Raises:
        InputError: a feature has other axes than the image.

    """
    found: dict[int, Array] = {}
    level, before = 0, max(x.shape[1:-1])
    for name, y in features.items():
        if y.ndim != x.ndim:
            raise InputError(
                f"{type(encoder).__name__}: its {name} has shape {tuple(y.shape)}; must have features with the axes of "
                "the image, as residual networks do"
            )
        # level by level, because sizes are rounded: 65 pixels become 33, 17, 9, 5 and 3
        level, before = level + round(math.log2(before / max(y.shape[1:-1]))), max(y.shape[1:-1])
        found[level] = y
    return found
