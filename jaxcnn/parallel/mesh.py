"""Meshes of devices, how the leaves of a state are divided among them, and communication between processes."""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcnn.core.collectives import AXIS
from jaxcnn.core.types import InputError, Tree

MODEL = "model"  # the second axis of a mesh: devices along it have the same rows and different parameters
Device = Any  # a `jax.Device`, which JAX declares as a variable and not as a type
LARGE = 2**12  # elements; gathering a smaller leaf costs more than a copy on every device
Rule = Callable[[tuple[int, ...], Mesh], P]  # (shape of a leaf, mesh) -> how the leaf is divided


def make_mesh(devices: Sequence[Device], model_devices: int = 1) -> Mesh:
    """Arrange devices as `[data, model]`.

    Raises:
        InputError: `model_devices` does not divide the number of devices, or the number in one process.

    """
    mine = len([d for d in devices if d.process_index == devices[0].process_index])
    if model_devices < 1 or mine % model_devices:
        raise InputError(
            f"model_devices={model_devices}: must divide the {mine} devices"
            + (" of a process" if mine < len(devices) else "")
        )
    return Mesh(np.array(devices).reshape(-1, model_devices), (AXIS, MODEL))


def replicate(shape: tuple[int, ...], mesh: Mesh) -> P:
    """Keep every leaf whole on every device."""
    del shape, mesh
    return P()


def split_model(shape: tuple[int, ...], mesh: Mesh) -> P:
    """Divide the last axis (the output channels) of large leaves over the model axis of the mesh."""
    n = mesh.shape[MODEL]
    if n == 1 or math.prod(shape) < LARGE or shape[-1] % n:
        return P()
    return P(*[None] * (len(shape) - 1), MODEL)


def split_all(shape: tuple[int, ...], mesh: Mesh) -> P:
    """Divide large leaves over the whole mesh, so that each device holds a part of parameters and optimiser state.

    The longest axis that can be divided is divided over the data axis, as in ZeRO (Rajbhandari et al., 2020,
    arXiv:1910.02054) and FSDP (Zhao et al., 2023, arXiv:2304.11277); the last axis over the model axis, as in
    `split_model`.
    """
    axes, n = [*split_model(shape, mesh)] or [None] * len(shape), mesh.shape[AXIS]
    free = [i for i, name in enumerate(axes) if name is None and shape[i] % n == 0]
    if n == 1 or math.prod(shape) < LARGE or not free:
        return P(*axes) if any(axes) else P()
    axes[max(free, key=lambda i: shape[i])] = AXIS
    return P(*axes)


def layout(tree: Tree, rule: Rule, mesh: Mesh) -> Tree:
    """Return the sharding of each leaf."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, rule(np.shape(leaf), mesh)), tree)


def put(tree: Tree, shardings: Tree) -> Tree:
    """Move a tree, which is equal in all processes, to the devices; leaves that have their sharding already stay."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    return jax.tree.map(_put, tree, shardings)


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
        return leaf
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    whole = fetch(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def shard(tree: Tree, sharding: NamedSharding) -> Tree:
    """Split arrays over the devices; each process contributes its own rows."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)


def whole_here(leaf: Any) -> bool:
    """Return whether this process holds all of an array."""
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated


def fetch(leaf: Any) -> np.ndarray:
    """Copy an array to the host; in a run of several processes, all of them must call this."""
    if whole_here(leaf):
        return np.array(leaf)
    from jax.experimental import multihost_utils

    return np.array(multihost_utils.process_allgather(leaf, tiled=True))


def to_host(tree: Tree) -> Tree:
    """Copy a tree to the host; random keys stay keys."""

    def is_key(x):
        return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)

    def copied(x: Any) -> Any:
        if not is_key(x):
            return fetch(x)
        bits = cast(jax.Array, fetch(jax.random.key_data(x)))  # a NumPy array works as well
        return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(x))

    return jax.tree.map(copied, tree)


def process_shard() -> tuple[int, int]:
    """Return which part of each batch this process reads, and the number of parts."""
    return jax.process_index(), jax.process_count()


def all_max(*values: int) -> list[int]:
    """Return the maximum of each value over all processes, so that all of them decide alike."""
    if jax.process_count() == 1:
        return [int(value) for value in values]
    from jax.experimental import multihost_utils

    return [int(x) for x in multihost_utils.process_allgather(np.array(values, np.int32)).max(0)]


def broadcast_text(text: str) -> str:
    """Return process 0's text in every process."""
    return gather_texts(text)[0]


def gather_texts(text: str) -> list[str]:
    """Return the text of each process, in every process."""
    if jax.process_count() == 1:
        return [text]
    from jax.experimental import multihost_utils

    raw = text.encode()
    (size,) = all_max(len(raw))
    rows = multihost_utils.process_allgather(np.frombuffer(raw.ljust(size, b" "), np.uint8))
    return [bytes(row).rstrip(b" ").decode() for row in np.asarray(rows)]


def barrier(name: str) -> None:
    """Wait until all processes have reached this point."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
