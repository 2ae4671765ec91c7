"""CPU form of a 1x1 convolution without strides or padding: one matrix product, which uses every core."""

import math

import jax

from jaxcnn.ops.geometry import Geometry
from jaxcnn.ops.lowering.record import Case, Lowering, Shape, dot

Array = jax.Array


def suits(case: Case) -> bool:
    """Whether each place is a product of its own."""
    g = case.geometry
    return math.prod(case.kernel[:-2]) == 1 and g.groups == 1 and max(g.strides) == 1 and not any(map(any, g.padding))


def forward(x: Array, w: Array, g: Geometry) -> Array:
    """`[B, *spatial, C]` and `[1, ..., C, K]` to `[B, *spatial, K]`."""
    del g
    return dot(x, w.reshape(w.shape[-2:]))


def input_grad(dy: Array, w: Array, g: Geometry, shape: Shape) -> Array:
    """Gradient to the input, `[B, *spatial, C]`."""
    del g, shape
    return dot(dy, w.reshape(w.shape[-2:]).T)


LOWERING = Lowering(suits, forward, input_grad)
