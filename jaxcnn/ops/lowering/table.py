"""The CPU forms of convolution in order: in each direction, the first one that has it and suits is taken.

XLA's CPU backend brings convolutions into its fast layout only outside loops, runs 1x1 kernels and up to 64 output
channels on one core, and multiplies far more than Winograd does; a matrix product uses every core. The bounds in
`suits` come from `python -m experiments.benchmarks.ops`.
"""

from collections.abc import Callable

import jax

from jaxcnn.ops.geometry import Geometry
from jaxcnn.ops.lowering import depthwise, direct, groups, im2col, matmul, slabs, space_to_depth, volumes, winograd
from jaxcnn.ops.lowering.record import Case, Convolution, Lowering, Shape

Array = jax.Array


def forward(x: Array, w: Array, g: Geometry) -> Array:
    """`[B, *spatial, C_in]` and `[*window, C_in / groups, C_out]` to `[B, *out, C_out]`."""
    return _first("forward", Case.of(x.shape, w.shape, x.dtype, g))(x, w, g)


def input_grad(dy: Array, w: Array, g: Geometry, shape: Shape) -> Array:
    """Gradient to the input, `[B, *spatial, C_in]`."""
    return _first("input_grad", Case.of(shape, w.shape, dy.dtype, g))(dy, w, g, shape)


def kernel_grad(x: Array, dy: Array, g: Geometry, shape: Shape) -> Array:
    """Gradient to the kernel, `[*window, C_in / groups, C_out]`."""
    return _first("kernel_grad", Case.of(x.shape, shape, x.dtype, g))(x, dy, g, shape)


def _first(direction: str, case: Case) -> Callable[..., Array]:
    rows = (row for row in TABLE if getattr(row, direction) is not None)
    return getattr(next(row for row in rows if row.suits(case)), direction)


WHOLE = Convolution(forward, input_grad, kernel_grad)
TABLE: tuple[Lowering, ...] = (
    matmul.LOWERING,
    depthwise.LOWERING,
    groups.lowering(WHOLE),
    *slabs.lowerings(WHOLE),
    winograd.FORWARD,
    winograd.KERNEL_GRAD,
    winograd.INPUT_GRAD,
    volumes.lowering(WHOLE),
    space_to_depth.LOWERING,
    space_to_depth.INPUT_GRAD,
    im2col.FORWARD,
    im2col.INPUT_GRAD,
    im2col.KERNEL_GRAD,
    direct.LOWERING,
)
