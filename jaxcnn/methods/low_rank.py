"""Layers of low rank: a convolution or dense layer becomes two smaller ones, the second with a 1x1 kernel.

References: Denton et al., 2014, arXiv:1404.0736; Zhang et al., 2015, arXiv:1505.06798 (the two layers as here).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.types import InputError, Tree, check_numbers
from jaxcnn.layers import Conv, Dense
from jaxcnn.layers.calls import Call, Path, by_path, changed_calls, from_paths
from jaxcnn.models.adapt import Functional, accepted

Array = jax.Array
DOWN, UP = "down", "up"  # the parts of a kernel: [*window, C, rank] and [*1, rank, K]


def factorised(model: Any, variables: Tree, energy: float = 0.9, keep: Sequence[str] = ()) -> tuple[Functional, Tree]:
    """Replace kernels by two parts of low rank, where that takes fewer weights.

    The rank of a layer is the smallest whose singular values hold the share `energy` of the sum of squares. The parts
    are the best approximation of the kernel for that rank; fine-tune them.

    Args:
        model: a Linen module whose layers are `layers.Conv` and `layers.Dense`.
        variables: its trained variables.
        energy: share of the sum of squares that stays, in (0, 1].
        keep: layers that stay whole, such as `"up_1"` or `"stage1.conv"`. Transposed and grouped convolutions and
            layers of other libraries cannot be factorised.

    Returns:
        `(model, variables)`: a model for tasks, which is called like the given one, and its variables.

    Raises:
        InputError: the share is out of range, `keep` names no layer, a kernel is not finite, or no layer would have
            fewer weights. A layer that cannot be factorised is refused when the model is called.

    """
    check_numbers(energy=energy)
    if not 0 < energy <= 1:
        raise InputError(f"energy={energy}: must be above 0 and at most 1")
    flat = by_path(variables["params"])
    kernels = {path[:-1]: np.asarray(x) for path, x in flat.items() if path[-1] == "kernel" and x.ndim > 1}
    for name in keep:
        if kernels.pop(tuple(name.split(".")), None) is None:
            raise InputError(f"keep: {name!r} is no layer with a kernel; use {', '.join('.'.join(p) for p in kernels)}")
    for path, x in kernels.items():
        if not np.isfinite(x).all():
            raise InputError(f"{'.'.join(path)}: the kernel has values that are not finite")
    ranks = {path: rank for path, x in kernels.items() if (rank := _rank(x, energy))}
    if not ranks:
        raise InputError(f"energy={energy}: no layer has fewer weights with this share; give a lower one")

    def make(key: Array, x: Array) -> dict[str, Tree]:
        return _split(dict(model.init(key, x, **accepted(model, {"train": False}))), ranks)

    def call(variables: Tree, x: Array, train: bool, row_mask: Array | None, key: Array | None) -> tuple[Any, Tree]:
        options = accepted(model, {"train": train, "row_mask": row_mask})
        rngs = {} if key is None else {"rngs": {"dropout": key}}
        changing = [name for name in variables if name != "params"]
        with changed_calls(_in_two):
            if not train:
                return model.apply(variables, x, **options), {}
            return model.apply(variables, x, mutable=changing, **options, **rngs)

    return Functional(make, call, model.num_classes), _split(dict(variables), ranks)


def _rank(kernel: np.ndarray, energy: float) -> int:
    """Return the rank for a kernel; 0 where two parts have as many weights as one, or the layer is a depthwise one."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    if kernel.ndim > 2 and kernel.shape[-2] == 1:
        return 0
    squares = np.square(np.linalg.svd(matrix.astype(np.float32), compute_uv=False).astype(np.float64))
    rank = min(int(np.searchsorted(np.cumsum(squares), energy * squares.sum())) + 1, len(squares))
    return rank if rank * sum(matrix.shape) < matrix.size else 0


def _split(variables: dict[str, Tree], ranks: dict[Path, int]) -> dict[str, Tree]:
    flat = by_path(variables["params"])
    for path, rank in ranks.items():
        kernel = flat.pop((*path, "kernel"))
        matrix = kernel.reshape(-1, kernel.shape[-1]).astype(jnp.float32)
        left, sizes, right = jnp.linalg.svd(matrix, full_matrices=False)
        root = jnp.sqrt(sizes[:rank])
        down, up = left[:, :rank] * root[None], right[:rank] * root[:, None]
        flat[*path, DOWN] = down.reshape(*kernel.shape[:-1], rank).astype(kernel.dtype)
        flat[*path, UP] = up.reshape(*[1] * (kernel.ndim - 2), rank, kernel.shape[-1]).astype(kernel.dtype)
    return {**variables, "params": from_paths(flat)}


def _in_two(call: Call) -> Any:
    """Compute a layer whose kernel has two parts."""
    module = call.module
    own: Any = module.variables.get("params", {}) if call.method == "__call__" else {}
    if DOWN not in own:
        return call.run(*call.arguments, **call.keywords)
    if not isinstance(module, Conv | Dense) or getattr(module, "groups", 1) != 1:
        name = ".".join(module.path)
        raise InputError(f"{name}: {type(module).__name__} cannot be factorised; give keep=({name!r},)")
    (x,), last = call.arguments, {name: value for name, value in own.items() if name not in (DOWN, UP)}
    whole: dict[str, Any] = {"dtype": module.dtype, "use_bias": False}
    if isinstance(module, Dense):
        first, second = Dense(own[DOWN].shape[-1], **whole), module.clone(parent=None, name=None)
    else:
        place = {"strides": module.strides, "padding": module.padding, "dilation": module.dilation}
        first = Conv(own[DOWN].shape[-1], module.kernel_size, **place, **whole)
        ones = (1,) * len(module.kernel_size)
        second = Conv(module.features, ones, pool=module.pool, use_bias=module.use_bias, dtype=module.dtype)
    return second.apply({"params": {**last, "kernel": own[UP]}}, first.apply({"params": {"kernel": own[DOWN]}}, x))
