"""Which parameters weight decay touches, and the transform that adds it."""

import math
import warnings
from collections.abc import Callable

import jax
import optax

from jaxcnn.core.types import InputError, Tree, check_numbers, named

# what kernels are called, and the fewest axes they have: norms call their scale "weight", too
KERNELS = {"kernel": 0, "weight": 2, "w": 2}
Mask = Tree | Callable[[Tree], Tree]


def decay_mask(params: Tree) -> Tree:
    """Return True for kernels of convolutions and dense layers, and False for all other parameters.

    Kernels are recognised by name: `kernel`, or `weight` or `w` with two axes or more. Biases, scales of norms and
    layers, positions, class tokens and embeddings are not decayed, whatever their shape, as in published recipes for
    transformers. For modules that call their kernels otherwise, give a recipe a `mask` of your own. A recipe that finds
    nothing to decay warns.
    """
    return jax.tree.unflatten(jax.tree.structure(params), [is_kernel(name, p) for name, p in named(params)])


def is_kernel(name: str, p: jax.Array) -> bool:
    """Whether a parameter is the kernel of a layer, by its dotted name and its number of axes."""
    last = name.split(".")[-1]
    return last in KERNELS and p.ndim >= KERNELS[last]


def decayed(weight_decay: float, mask: Mask) -> optax.GradientTransformation:
    """Add a share of the masked parameters to the updates.

    Args:
        weight_decay: the share; 0 changes nothing.
        mask: which parameters are decayed, a tree of booleans or a function from the parameters to one.

    Raises:
        InputError: a negative share, or one that is not finite.

    """
    check_numbers(weight_decay=weight_decay)
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise InputError(f"weight_decay={weight_decay}: must be a finite number of at least 0")
    if not weight_decay:
        return optax.identity()
    decay = optax.add_decayed_weights(weight_decay, mask)

    def init(params: Tree) -> Tree:
        if mask is decay_mask:
            _warn_of_nothing(weight_decay, params)
        return decay.init(params)

    return optax.GradientTransformation(init, decay.update)


def _warn_of_nothing(weight_decay: float, params: Tree) -> None:
    """Warn where no parameter has the name of a kernel, although some have the shape of one."""
    names = [name or "array" for name, p in named(params) if p.ndim > 1]
    if names and not any(jax.tree.leaves(decay_mask(params))):
        warnings.warn(
            f"weight_decay={weight_decay} touches nothing: none of {', '.join(KERNELS)} among {', '.join(names[:3])}; "
            "give mask=",
            stacklevel=3,
        )
