"""What a CPU form of convolution is: which cases it suits, and up to three functions."""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxcnn.ops.geometry import Geometry, is_known, out_sizes, typical

Array = jax.Array
Shape = tuple[int, ...]


@functools.cache
def cores() -> int:
    """Return how many cores this process may use when a program is first lowered; XLA has a thread for each."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Case(NamedTuple):
    """What a form is chosen by; the same in all three directions.

    Attributes:
        image: shape of the image, `[B, *spatial, C_in]`.
        kernel: shape of the kernel, `[*window, C_in / groups, C_out]`.
        dtype: of both.
        geometry: strides, padding, dilation and groups.
        sized: whether the spatial sizes and the padding are known; where they are not, and where the number of rows is
            not, the case has typical ones.

    """

    image: Shape
    kernel: Shape
    dtype: Any
    geometry: Geometry
    sized: bool = True

    @classmethod
    def of(cls, image: Any, kernel: Shape, dtype: Any, g: Geometry) -> "Case":
        """Make a case of shapes with symbolic dimensions, perhaps."""
        padding = tuple((low if is_known(low) else 0, high if is_known(high) else 0) for low, high in g.padding)
        sized = is_known(*image[1:-1], *(n for pair in g.padding for n in pair))
        return cls(typical(image), tuple(kernel), dtype, g._replace(padding=padding), sized)

    @property
    def out(self) -> Shape:
        """Shape of the result of the convolution, `[B, *out, C_out]`."""
        return (self.image[0], *out_sizes(self.image[1:-1], self.kernel[:-2], self.geometry), self.kernel[-1])


class Lowering(NamedTuple):
    """One form of convolution; a direction that is None is left to the next form that suits.

    Attributes:
        suits: whether the form measured fastest for a case.
        forward: `(x, w, geometry)` to `[B, *out, C_out]`.
        input_grad: `(dy, w, geometry, shape)` to the gradient of the image, which has this shape.
        kernel_grad: `(x, dy, geometry, shape)` to the gradient of the kernel, which has this shape.

    """

    suits: Callable[[Case], bool]
    forward: Callable[[Array, Array, Geometry], Array] | None = None
    input_grad: Callable[[Array, Array, Geometry, Shape], Array] | None = None
    kernel_grad: Callable[[Array, Array, Geometry, Shape], Array] | None = None


class Convolution(NamedTuple):
    """The three functions of a table, for forms that make one convolution out of others."""

    forward: Callable[[Array, Array, Geometry], Array]
    input_grad: Callable[[Array, Array, Geometry, Shape], Array]
    kernel_grad: Callable[[Array, Array, Geometry, Shape], Array]


def dot(a: Array, b: Array) -> Array:
    """Product of the last axis of `a` with the first one of `b`."""
    return jax.lax.dot_general(a, b, (((a.ndim - 1,), (0,)), ((), ())))
