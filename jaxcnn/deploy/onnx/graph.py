"""An ONNX graph in the making: nodes, constants, and values that may lie in another order of axes than JAX's."""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcnn.core.types import InputError

OPSET = 17
Axes = tuple[int, ...]


@dataclasses.dataclass
class Node:
    """One operation of a graph.

    Attributes:
        op: its name in ONNX.
        inputs: names of what it reads.
        outputs: names of what it makes.
        attributes: its attributes.

    """

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Value:
    """A value of the traced program.

    Attributes:
        shape: its shape in JAX; a dimension may be symbolic.
        dtype: its dtype in JAX.
        name: of the tensor in the graph; "" for a constant.
        axes: place i of the tensor holds axis `axes[i]` of the value.
        sizes: size of each axis as it is stored: that of the shape, or 1 where all elements along the axis are equal.
        constant: the array `[*sizes]` of a constant, in JAX's order of axes.

    """

    shape: tuple[Any, ...]
    dtype: np.dtype
    name: str = ""
    axes: Axes = ()
    sizes: tuple[Any, ...] = ()
    constant: np.ndarray | None = None

    @property
    def is_whole(self) -> bool:
        """Whether every axis is stored with all its elements."""
        return all(same(a, b) for a, b in zip(self.shape, self.sizes, strict=True))


def same(a: Any, b: Any) -> bool:
    """Whether two dimensions, numbers or symbolic ones, are known to be equal."""
    return isinstance(a, int) == isinstance(b, int) and bool(a == b)


def constant(array: Any, shape: Sequence[Any] | None = None) -> Value:
    """Return a constant, of this shape if its array is meant to be repeated along axes of size 1."""
    array = np.asarray(array)
    return Value(
        tuple(array.shape if shape is None else shape), array.dtype, "", tuple(range(array.ndim)), array.shape, array
    )


class Graph:
    """Nodes in the order in which they run, with constants and the shapes of tensors."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.shapes: dict[str, tuple[Any, ...]] = {}
        self.inputs: list[tuple[str, Value]] = []
        self.outputs: list[str] = []
        self.results: dict[str, Value] = {}
        self.reduced: dict[str, tuple[Node, Axes, list[int]]] = {}  # by result: order of the axes before, axes gone
        self.batch: Any = None  # the symbolic dimension, if there is one
        self._known: dict[Any, str] = {}
        self._count = 0

    def fresh(self, op: str) -> str:
        """Return a name that is not in use."""
        self._count += 1
        return f"{op}_{self._count}"

    def emit(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Append a node and return the name of its first output; the same node is not appended twice."""
        key = (op, inputs, outputs, repr(sorted(attributes.items())))
        if key not in self._known:
            names = [self.fresh(op) for _ in range(outputs)]
            self.nodes.append(Node(op, list(inputs), names, attributes))
            self._known[key] = names[0]
        return self._known[key]

    def several(self, op: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Append a node with several outputs and return their names."""
        return self.node(self.emit(op, *inputs, outputs=outputs, **attributes)).outputs

    def node(self, name: str) -> Node:
        """Return the node that makes a tensor."""
        return next(node for node in reversed(self.nodes) if name in node.outputs)

    def store(self, array: Any, dtype: Any = None) -> str:
        """Return the name of a constant tensor, which is stored once."""
        if np.asarray(array).dtype == jnp.bfloat16:
            array = np.asarray(array, np.float32)
        array = np.ascontiguousarray(array, dtype) if np.ndim(array) else np.asarray(array, dtype)
        key = (array.shape, array.dtype.str, hashlib.blake2b(array.reshape(-1).view(np.uint8)).digest())
        if key not in self._known:
            name = self.fresh("constant")
            self.constants[name], self._known[key] = array, name
        return self._known[key]

    def store_own(self, array: np.ndarray) -> str:
        """Return the name of a constant tensor that nothing else reads, even if it has the same values."""
        name = self.fresh("constant")
        self.constants[name] = array
        return name

    def made(self, name: str, like: Any, axes: Axes | None = None, sizes: Sequence[Any] | None = None) -> Value:
        """Return the value of a tensor, with the shape and dtype of an abstract value."""
        shape = tuple(like.shape)
        axes = tuple(range(len(shape))) if axes is None else tuple(axes)
        sizes = shape if sizes is None else tuple(sizes)
        self.shapes[name] = tuple(sizes[a] for a in axes)
        return Value(shape, np.dtype(like.dtype), name, axes, sizes)

    def tensor(self, value: Value, axes: Axes | None = None, whole: bool | Sequence[int] = True) -> str:
        """Return the name of a tensor that holds a value.

        Args:
            value: the value.
            axes: the order of axes that is wanted; by default JAX's.
            whole: whether all axes must have their size, or which of them.

        """
        axes = tuple(range(len(value.shape))) if axes is None else tuple(axes)
        need = range(len(value.shape)) if whole is True else () if whole is False else whole
        repeated = [a for a in need if not same(value.sizes[a], value.shape[a])]
        if value.constant is not None:
            array = value.constant
            if all(isinstance(value.shape[a], int) for a in repeated):
                array = np.broadcast_to(
                    array, [value.shape[i] if i in repeated else n for i, n in enumerate(array.shape)]
                )
                return self.store(array.transpose(axes))
            name = self.store(array.transpose(axes))
        else:
            name = self._ordered(value, axes)
        if repeated:
            name = self.emit("Expand", name, self.dims([value.shape[a] if a in repeated else 1 for a in axes]))
            self.shapes[name] = tuple(value.shape[a] if a in repeated else value.sizes[a] for a in axes)
        return name

    def _ordered(self, value: Value, axes: Axes) -> str:
        if value.axes == axes:
            return value.name
        moved = tuple(value.axes.index(a) for a in axes)
        sizes = tuple(value.sizes[a] for a in axes)
        long = [a for a in value.axes if not same(value.sizes[a], 1)]
        if long == [a for a in axes if not same(value.sizes[a], 1)] and _known(sizes) <= 1:
            name = self.emit("Reshape", value.name, self.target(sizes))  # only axes of size 1 move
        else:
            name = self.emit("Transpose", value.name, perm=list(moved))
        self.shapes[name] = sizes
        return name

    def target(self, sizes: Sequence[Any]) -> str:
        """Return the second operand of Reshape; one dimension may be symbolic."""
        if _known(sizes) > 1:
            return self.dims(sizes)
        return self.store([n if isinstance(n, int) else -1 for n in sizes], np.int64)

    def dims(self, sizes: Sequence[Any]) -> str:
        """Return the name of a tensor that holds these dimensions when the program runs."""
        if all(isinstance(n, int) for n in sizes):
            return self.store(sizes, np.int64)
        return self.emit("Concat", *(self._dim(n) for n in sizes), axis=0)

    def _dim(self, size: Any) -> str:
        if isinstance(size, int):
            return self.store([size], np.int64)
        name, place = next(
            (name, value.shape.index(self.batch)) for name, value in self.inputs if self.batch in value.shape
        )
        shape = self.emit("Shape", name)
        batch = self.emit("Gather", shape, self.store([place], np.int64), axis=0)
        if same(size, self.batch):
            return batch
        for times in range(2, 4096):
            if same(size, self.batch * times):
                return self.emit("Mul", batch, self.store([times], np.int64))
        raise InputError(f"a dimension of {size} in the traced program has no form in ONNX; export with a fixed batch")


def _known(sizes: Sequence[Any]) -> int:
    return sum(not isinstance(n, int) for n in sizes)


def numbers(sizes: Sequence[Any]) -> int:
    """Return the product of dimensions that are numbers."""
    return math.prod(n for n in sizes if isinstance(n, int))
