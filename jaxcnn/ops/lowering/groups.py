"""CPU form of grouped convolution: a few dense convolutions, whose kernels are zero between the groups."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.geometry import Geometry
from jaxcnn.ops.lowering.record import Case, Convolution, Lowering, Shape

Array = jax.Array
BLOCK = 16  # channels to which small groups are joined


def suits(case: Case) -> bool:
    """Whether there are groups."""
    return case.geometry.groups > 1


def lowering(conv: Convolution) -> Lowering:
    """Return the form, its blocks computed by `conv`."""

    def forward(x: Array, w: Array, g: Geometry) -> Array:
        kernels = _blocks(w, g.groups)
        parts = zip(jnp.split(x, len(kernels), -1), kernels, strict=True)
        return jnp.concatenate([conv.forward(x, w, g._replace(groups=1)) for x, w in parts], -1)

    def input_grad(dy: Array, w: Array, g: Geometry, shape: Shape) -> Array:
        kernels = _blocks(w, g.groups)
        part = (*shape[:-1], shape[-1] // len(kernels))
        parts = zip(jnp.split(dy, len(kernels), -1), kernels, strict=True)
        return jnp.concatenate([conv.input_grad(dy, w, g._replace(groups=1), part) for dy, w in parts], -1)

    def kernel_grad(x: Array, dy: Array, g: Geometry, shape: Shape) -> Array:
        per, dense = _per(shape, g.groups), g._replace(groups=1)
        part = (*shape[:-2], per * shape[-2], per * shape[-1] // g.groups)
        parts = zip(*(jnp.split(z, g.groups // per, -1) for z in (x, dy)), strict=True)
        return _from_blocks([conv.kernel_grad(x, dy, dense, part) for x, dy in parts], shape, g.groups)

    return Lowering(suits, forward, input_grad, kernel_grad)


def _per(shape: Shape, groups: int) -> int:
    """How many groups are one block."""
    widest = max(shape[-2], shape[-1] // groups)
    return next(n for n in range(groups, 0, -1) if groups % n == 0 and (n == 1 or n * widest <= BLOCK))


def _eye(per: int, dtype: Any) -> Array:
    return jnp.eye(per, dtype=dtype)[:, None, :, None]  # [per, 1, per, 1]


def _blocks(w: Array, groups: int) -> list[Array]:
    """Kernel `[*window, c, K]` as one dense kernel `[*window, per x c, per x k]` for each block."""
    window, c, per = w.shape[:-2], w.shape[-2], _per(w.shape, groups)
    blocks = jnp.split(w.reshape(*window, 1, c, groups, -1), groups // per, -2)  # [*window, 1, c, per, k] each
    return [(lax.broadcast_to_rank(_eye(per, w.dtype), b.ndim) * b).reshape(*window, per * c, -1) for b in blocks]


def _from_blocks(blocks: list[Array], shape: Shape, groups: int) -> Array:
    """Transpose of `_blocks`: what lies between the groups is left out."""
    per = _per(shape, groups)
    split = [b.reshape(*shape[:-2], per, shape[-2], per, -1) for b in blocks]
    parts = [(lax.broadcast_to_rank(_eye(per, b.dtype), b.ndim) * b).sum(-4) for b in split]  # [*window, c, per, k]
    return jnp.concatenate(parts, -2).reshape(shape)
