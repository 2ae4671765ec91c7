"""Trees as flat dicts, `{path: array}`: the form in which a state is saved, compared and rebuilt."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, Tree, named
from jaxcnn.parallel import mesh


def flatten(tree: Tree) -> dict[str, np.ndarray]:
    """Copy a tree to the host as `{path: array}`; random keys become integer arrays."""
    return {path: mesh.fetch(leaf) for path, leaf in _leaves(tree)}


def _leaves(tree: Tree) -> list[tuple[str, Any]]:
    return [(path, _plain(leaf)) for path, leaf in named(tree)]


def unflatten(like: Tree, flat: Mapping[str, np.ndarray]) -> Tree:
    """Rebuild a tree from `{path: array}`.

    Args:
        like: a tree with the same structure, shapes and dtypes as the result.
        flat: the arrays, as `flatten` returns them.

    Returns:
        The tree.

    Raises:
        InputError: a leaf is missing or unexpected, or has a different shape or dtype. The message names the first.

    """
    compare(like, {path: (str(x.dtype), list(x.shape)) for path, x in flat.items()})
    leaves = []
    for path, leaf in named(like):
        saved = flat[path]
        leaves.append(
            jax.random.wrap_key_data(jnp.asarray(saved), impl=jax.random.key_impl(leaf)) if _is_key(leaf) else saved
        )
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def compare(like: Tree, found: Mapping[str, Any]) -> None:
    """Make the checks of `unflatten` from dtypes and shapes alone.

    Args:
        like: the tree to compare with.
        found: `{path: (dtype, shape, ...)}`.

    Raises:
        InputError: a leaf is missing or unexpected, or has a different shape or dtype. The message names the first.

    """
    expected = {path: jax.eval_shape(_plain, leaf) if _is_key(leaf) else leaf for path, leaf in named(like)}
    wrong = sorted(set(expected) ^ set(found))
    if wrong:
        raise InputError(
            f"the checkpoint {'has' if wrong[0] in found else 'lacks'} {visible(wrong[0])}: "
            "it was written by a different model or optimiser"
        )
    for path, leaf in expected.items():
        dtype, shape, *_ = found[path]
        if (str(leaf.dtype), list(leaf.shape)) != (dtype, shape):
            raise InputError(f"the checkpoint has {path} {dtype}{shape}, this model {leaf.dtype}{list(leaf.shape)}")


def digest(flat: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of all arrays: their paths, dtypes, shapes and bytes, sorted by path."""
    total = hashlib.sha256()
    for path in sorted(flat):
        array = np.ascontiguousarray(flat[path])
        total.update(f"{path} {array.dtype} {array.shape}\n".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def copies(state: Tree) -> dict[str, Any]:
    """Copy a state as `{path: array}`, because its buffers are donated to the next dispatch.

    Arrays that this process holds in full are copied to the host; the others are copied on their devices.
    """
    leaves = dict(_leaves(state))
    divided = {path: leaf for path, leaf in leaves.items() if not mesh.whole_here(leaf)}
    divided = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))(divided) if divided else {}
    return {path: divided[path] if path in divided else np.array(leaf) for path, leaf in leaves.items()}


def _plain(leaf: Any) -> Any:
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
