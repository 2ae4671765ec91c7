"""A network's variables by path: their shapes from tracing, and the tree that values make."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.core.types import InputError, Tree
from jaxcnn.models import NETWORKS
from jaxcnn.weights.tensors import Tensors


def count(name: str, image: Sequence[int] | None, options: Mapping[str, Any]) -> int:
    """Count the values of a network's variables.

    Args:
        name: of the network.
        image: height, width and perhaps channels; None for the network's usual ones.
        options: of the constructor.

    """
    model = NETWORKS[name](**options)
    return sum(math.prod(leaf.shape) for leaf in shapes(model, image_shape(model, image)).values())


def image_shape(model: Any, image: Sequence[int] | None) -> tuple[int, int, int]:
    """Return height, width and channels of a network's images.

    Args:
        model: the network.
        image: height, width and perhaps channels; what is missing is usual for the network.

    Raises:
        InputError: the network is for volumes or series.

    """
    usual = model.default_image
    if len(usual) != 3:
        raise InputError(f"{type(model).__name__} with {len(usual) - 1} spatial axes: only weights for two are read")
    height, width, channels = (*(image or usual), usual[2])[:3]
    return height, width, channels


def shapes(model: Any, image: Sequence[int]) -> Mapping[str, Any]:
    """Return the shapes and types of all variables, by path such as `params.stem.conv.kernel`.

    Args:
        model: the network.
        image: height, width and channels.

    """
    try:
        hash(model)
    except TypeError:  # an option is a list
        return _traced.__wrapped__(model, tuple(image))
    return _traced(model, tuple(image))


@functools.lru_cache(8)
def _traced(model: Any, image: tuple[int, ...]) -> Mapping[str, Any]:
    """Find the shapes by tracing alone, which takes seconds for a large network."""
    return flat(jax.eval_shape(lambda key: _init(model, image, key), jax.random.key(0)))


def _init(model: Any, image: Sequence[int], key: jax.Array) -> Tree:
    return model.init(key, jnp.zeros((1, *image)), train=False)


def flat(tree: Tree) -> dict[str, Any]:
    """Return the leaves of a tree by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def filled(model: Any, image: Sequence[int], like: Mapping[str, Any], values: Tensors) -> Tree:
    """Nest values by path, and draw at random those that are missing.

    Args:
        model: the network.
        image: height, width and channels.
        like: what the network needs, by path.
        values: what there is, by path.

    """
    lacking = like.keys() - values.keys()

    def draw(key: jax.Array) -> dict[str, Any]:
        return {path: x for path, x in flat(_init(model, image, key)).items() if path in lacking}

    drawn = jax.jit(draw)(jax.random.key(0)) if lacking else {}  # only what is lacking is compiled
    tree: dict[str, Any] = {}
    for path in like:
        *above, last = path.split(".")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[last] = jnp.asarray(values[path]) if path in values else drawn[path]
    return tree
