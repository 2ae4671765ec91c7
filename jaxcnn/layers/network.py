"""What a model is: features, then a head; and the usual kind of it, a stem and stages of blocks."""

import functools
import types
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxcnn import ops
from jaxcnn.core.precision import checked, promote_float32
from jaxcnn.core.remat import recompute
from jaxcnn.core.types import InputError
from jaxcnn.layers.core import check_image

Array = jax.Array


def apply_block(block: nn.Module, x: Array, *, train: bool, real: Array | None, remat: bool = False) -> Array:
    """Call `block(x, train=, real=)`; with `remat` its gradient computes the arrays inside anew instead of keeping them."""
    if not remat or not train or block.is_initializing():
        return block(x, train=train, real=real)
    module, variables = block.unbind()
    params = variables.pop("params")  # pyright: ignore[reportAttributeAccessIssue] (a dict, typed as a Mapping)
    rngs = {"dropout": block.make_rng("dropout")} if block.has_rng("dropout") else {}  # one key, so both passes drop the same
    changing = [collection for collection in variables if block.is_mutable_collection(collection)]

    def pure(x: Array, rest: Any) -> tuple[Array, Any]:
        params, state, rngs, real = rest
        return module.apply({"params": params, **state}, x, train=True, real=real, rngs=rngs, mutable=changing)

    y, changed = recompute(pure)(x, (params, variables, rngs, real))
    for collection, values in changed.items():
        for name, value in values.items():
            block.put_variable(collection, name, value)
    return y


class Network(nn.Module):
    """A model in two halves, `features(x) -> {name: array}` and `head(features) -> outputs`, so that others can use either.

    A field `dtype` takes what `precision.policy` takes, names included. Logits are float32 whatever it is: heads compute
    their last layer from `precision.promote_float32` features.

    Attributes:
        sources: whose state dicts `load_weights` reads into it, of `"torchvision"` and `"timm"`.
        smallest: side of the smallest image.
        default_image: height, width and channels of the images that it was made for.

    """

    sources = ()
    smallest = 1
    default_image = (224, 224, 3)

    def __post_init__(self) -> None:
        """Turn the name of a dtype into the dtype, or refuse it."""
        if hasattr(self, "dtype"):
            self.dtype = checked(self.dtype)
        super().__post_init__()

    def features(self, x: Array, *, train: bool = False, real: Array | None = None) -> dict[str, Array]:
        """Return intermediate arrays by name, the last one being what `head` reads."""
        raise TypeError(f"{type(self).__name__} defines no features()")

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return outputs, such as logits `[B, num_classes]`."""
        raise TypeError(f"{type(self).__name__} defines no head()")

    def torch_names(self, source: str) -> dict[str, str]:
        """Return what `source` calls the modules and lone parameters: `{"stem.conv": "conv1"}`; see `jaxcnn.weights`."""
        raise TypeError(f"{type(self).__name__} reads no weights of {source}")

    def __call__(self, x: Array, *, train: bool = False, real: Array | None = None) -> Array:
        """Map `[B, H, W, C]` float to the outputs of `head`."""
        check_image(x)
        return self.head(self.features(x, train=train, real=real), train=train)


class Staged(Network):
    """A stem, stages of blocks, the mean over all places and a linear layer.

    A subclass has the field `num_classes` and makes `stem` (a block or several), `stages` (lists of blocks), `drop`, `logits`
    and perhaps a `last` block in `setup`; a block is called as `block(x, train=, real=)`.

    Attributes:
        pools: the number of a stage to the pooling in front of it.
        taps: numbers of a stage and a block in it to a name, for a further entry of `features`.

    """

    pools = types.MappingProxyType({})
    taps = types.MappingProxyType({})

    def features(self, x: Array, *, train: bool = False, real: Array | None = None) -> dict[str, Array]:
        """Return `stem`, `stage1`, `stage2`, ... and perhaps `last`, each `[B, h, w, width]` and before the pooling that follows."""
        check_side(x, self.smallest, hasattr(self, "small_images") and not self.small_images)
        call = functools.partial(apply_block, train=train, real=real, remat=getattr(self, "remat", False))
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
        """Logits `[B, num_classes]`."""
        pooled = ops.global_avg_pool(promote_float32(features["last" if "last" in features else f"stage{len(self.stages)}"]))
        return self.logits(self.drop(pooled, train=train))


def check_side(x: Array, smallest: int, small_images: bool = False) -> None:
    """Refuse an image of fewer pixels than a network needs; `small_images` is whether it has a form that needs fewer."""
    if any(n < smallest for n in x.shape[1:3]):
        hint = ", or use small_images=True" if small_images else ""
        raise InputError(f"image shape {tuple(x.shape)}: must be at least {smallest}x{smallest} pixels; enlarge it{hint}")
