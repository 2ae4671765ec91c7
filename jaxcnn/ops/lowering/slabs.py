"""CPU form of convolution over volumes that do not fit into the cache: slabs of planes, each a row of its own.

Slabs overlap by what a kernel sees beyond its own plane. Two planes of 16 are then computed twice, which costs less
than reading and writing the transformed tiles of a whole volume from memory: a third of the time is saved.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcnn.ops.geometry import Geometry, as_forward
from jaxcnn.ops.lowering import winograd
from jaxcnn.ops.lowering.record import Case, Convolution, Lowering, Shape

Array = jax.Array
SLAB_BYTES = 21 << 20  # of the tiles of one slab
GRADIENT_BYTES = 40 << 20  # of the tiles of a volume from which the input gradient gains


def suits(least: int) -> Callable[[Case], bool]:
    """Return whether a volume has more than this many bytes of tiles, and a kernel that moves plane by plane."""

    def suits(case: Case) -> bool:
        g = case.geometry
        if len(case.image) != 5 or not winograd.suits(case) or g.strides[0] > 1 or g.dilation[0] > 1:
            return False
        return case.kernel[0] > 1 and winograd.volume_bytes(case.out, case.kernel) > least

    return suits


def lowerings(conv: Convolution) -> tuple[Lowering, ...]:
    """Return the forms, their slabs convolved by `conv`."""

    def forward(x: Array, w: Array, g: Geometry) -> Array:
        planes = x.shape[1] + sum(g.padding[0]) - w.shape[0] + 1
        size, count = _slabs((*x.shape[:1], planes, *x.shape[2:-1], w.shape[-1]), w.shape)
        y = conv.forward(_cut(x, size, count, w.shape[0] - 1, g.padding[0][0]), w, _inside(g, 0))
        return _joined(y, x.shape[0], planes)

    def input_grad(dy: Array, w: Array, g: Geometry, shape: Shape) -> Array:
        (before, _), beyond = as_forward(dy.shape, w.shape, g, shape)[0], w.shape[0] - 1
        size, count = _slabs(dy.shape, w.shape)
        rows = _cut(dy, size, -(-shape[1] // size), beyond, before)
        dx = conv.input_grad(rows, w, _inside(g, beyond), (rows.shape[0], size, *shape[2:]))
        return _joined(dx, shape[0], shape[1])

    def kernel_grad(x: Array, dy: Array, g: Geometry, shape: Shape) -> Array:
        size, count = _slabs(dy.shape, shape)
        rows = _cut(x, size, count, shape[0] - 1, g.padding[0][0])
        return conv.kernel_grad(rows, _cut(dy, size, count, 0, 0), _inside(g, 0), shape)

    return (
        Lowering(suits(SLAB_BYTES), forward=forward, kernel_grad=kernel_grad),
        Lowering(suits(GRADIENT_BYTES), input_grad=input_grad),
    )


def _slabs(out: Shape, kernel: Shape) -> tuple[int, int]:
    """Return planes of a slab, and how many slabs cover all planes."""
    planes = out[1]
    size = -(-planes // -(-winograd.volume_bytes(out, kernel) // SLAB_BYTES))
    return size, -(-planes // size)


def _inside(g: Geometry, beyond: int) -> Geometry:
    """Return the geometry of a slab, of whose image `beyond` planes on both sides are left to other slabs."""
    return g._replace(padding=((beyond, beyond), *g.padding[1:]))


def _cut(x: Array, size: int, count: int, beyond: int, before: int) -> Array:
    """`[B, D, ...]` to `[B x count, size + beyond, ...]`; the first slab begins `before` planes above the volume."""
    after = count * size + beyond - before - x.shape[1]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (before, after, 0)] + [(0, 0, 0)] * (x.ndim - 2))
    return jnp.stack([x[:, i * size : (i + 1) * size + beyond] for i in range(count)], 1).reshape(
        -1, size + beyond, *x.shape[2:]
    )


def _joined(y: Array, batch: int, planes: int) -> Array:
    """`[B x count, size, ...]` to `[B, planes, ...]`."""
    return y.reshape(batch, -1, *y.shape[2:])[:, :planes]
