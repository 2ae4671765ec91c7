"""A network of equal cells, whose operations are chosen; and the network of all choices, which shares their weights.

A cell has four nodes, in the form of NAS-Bench-201 (Dong and Yang, 2020, arXiv:2001.00326): node 0 is its input, and
every other node adds up one operation on each node before it, and then has one norm and ReLU. The paper has a norm and
ReLU in each operation instead. With `mixed=True` all operations are there, and the numbers in the collection
`"path"` say which of them a call uses (single path one-shot: Guo et al., 2019, arXiv:1904.00420). The norms of such a
network have no running statistics that would suit every path: measure it with those of the batch, as in training.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn import ops
from jaxcnn.core.precision import promote_float32
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.layers import BatchNorm, Conv, ConvNorm, Dense, Dropout, Network, check_side

Array = jax.Array
OPERATIONS = ("zero", "skip", "conv1", "conv3", "pool")
KERNELS = {"conv1": (1, 1), "conv3": (3, 3)}
NODES = 4
EDGES = tuple((i, j) for j in range(1, NODES) for i in range(j))  # (0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)
USUAL = ("conv3", "skip", "conv3", "skip", "skip", "conv3")
PATH = "path"  # collection with the number of the operation on each edge


def check_operations(operations: Sequence[str]) -> tuple[str, ...]:
    """Return the operations of a cell.

    Args:
        operations: a name of `OPERATIONS` for each of the six edges 0-1, 0-2, 1-2, 0-3, 1-3 and 2-3.

    Raises:
        InputError: an unknown name, another number of them, or a cell whose output does not depend on its input.

    """
    for name in operations:
        if name not in OPERATIONS:
            raise InputError(f"operations: {visible(str(name))!r} is unknown; must be one of {', '.join(OPERATIONS)}")
    if len(operations) != len(EDGES):
        raise InputError(f"operations: {len(operations)} names; must be {len(EDGES)}, one for each edge")
    if not connected(operations):
        raise InputError(f"operations {' '.join(operations)}: cut the output off from the input; use fewer zero")
    return tuple(operations)


def connected(operations: Sequence[str]) -> bool:
    """Whether the last node of a cell depends on the first."""
    reached = {0}
    for (i, j), name in zip(EDGES, operations, strict=True):
        if i in reached and name != "zero":
            reached.add(j)
    return NODES - 1 in reached


class Edge(nn.Module):
    """One operation of `OPERATIONS`, or all of them, of which a number chooses one; it keeps shape and channels."""

    width: int
    operation: str | None = None
    dtype: Any = None

    def setup(self) -> None:
        """Make the convolutions."""
        wanted = KERNELS if self.operation is None else {self.operation} & KERNELS.keys()
        for name in wanted:
            setattr(self, name, Conv(self.width, KERNELS[name], use_bias=False, dtype=self.dtype))

    def __call__(self, x: Array, choice: Array | None = None) -> Array:
        """Map `[B, H, W, width]` to the same shape; `choice` is the number of the operation, if all are there."""
        if self.operation is not None:
            return self._apply(self.operation, x)
        if self.is_initializing():
            return sum((self._apply(name, x) for name in KERNELS), jnp.zeros_like(x))
        # a pure function for each operation, so that one alone is computed
        forms = [self._pure(name) for name in OPERATIONS]
        return lax.switch(jnp.asarray(choice, jnp.int32), forms, x)

    def _apply(self, name: str, x: Array) -> Array:
        if name in KERNELS:
            return getattr(self, name)(x)
        return _plain(name, x)

    def _pure(self, name: str) -> Callable[[Array], Array]:
        if name not in KERNELS:
            return lambda x: _plain(name, x)
        module, variables = getattr(self, name).unbind()
        return lambda x: module.apply(variables, x)


def _plain(name: str, x: Array) -> Array:
    """Return what an operation without weights makes of `[B, H, W, C]`."""
    if name == "zero":
        return jnp.zeros_like(x)
    return ops.avg_pool(x, 3, strides=1, padding="SAME") if name == "pool" else x


class Cell(nn.Module):
    """Four nodes and the six edges between them."""

    width: int
    operations: Sequence[str] = ()
    dtype: Any = None

    def setup(self) -> None:
        """Make the edges and the norms."""
        names = self.operations or (None,) * len(EDGES)
        self.edges = [Edge(self.width, name, self.dtype) for name in names]
        self.norms = [BatchNorm(dtype=self.dtype) for _ in range(NODES - 1)]

    def __call__(self, x: Array, path: Array | None, *, train: bool, row_mask: Array | None) -> Array:
        """Map `[B, H, W, width]` to the same shape; `path` has the number of an operation for each edge."""
        nodes = [x]
        for j in range(1, NODES):
            into = [k for k, (_, end) in enumerate(EDGES) if end == j]
            parts = [self.edges[k](nodes[EDGES[k][0]], None if path is None else path[k]) for k in into]
            nodes.append(nn.relu(self.norms[j - 1](sum(parts[1:], parts[0]), train=train, mask=row_mask)))
        return nodes[-1]


class CellNet(Network):
    """See `cell`."""

    num_classes: int = 10
    operations: Sequence[str] = USUAL
    width: int = 16
    cells: int = 1
    mixed: bool = False
    dropout: float = 0.0
    dtype: Any = None

    smallest = 4
    default_image = (32, 32, 3)

    def setup(self) -> None:
        """Make the layers."""
        operations = () if self.mixed else check_operations(self.operations)
        widths = [self.width * 2**i for i in range(3)]
        if self.mixed:
            self.chosen = self.variable(PATH, "numbers", jnp.zeros, (len(EDGES),), jnp.int32)
        self.stem = ConvNorm(self.width, dtype=self.dtype)
        self.stages = [[Cell(width, operations, self.dtype) for _ in range(self.cells)] for width in widths]
        self.steps = [ConvNorm(width, strides=2, padding=1, dtype=self.dtype) for width in widths[1:]]
        self.drop = Dropout(self.dropout)
        self.logits = Dense(self.num_classes, kernel_init=nn.initializers.lecun_normal())

    def features(self, x: Array, *, train: bool = False, row_mask: Array | None = None) -> dict[str, Array]:
        """Return `stem` and `stage1` to `stage3`, each `[B, h, w, width]`; from stage to stage, h and w are halved."""
        check_side(x, self.smallest)
        path = self.chosen.value if self.mixed else None
        x = self.stem(x, train=train, row_mask=row_mask)
        out = {"stem": x}
        for i, (step, cells) in enumerate(itertools.zip_longest([None, *self.steps], self.stages)):
            x = x if step is None else step(x, train=train, row_mask=row_mask)
            for cell in cells:
                x = cell(x, path, train=train, row_mask=row_mask)
            out[f"stage{i + 1}"] = x
        return out

    def head(self, features: dict[str, Array], *, train: bool = False) -> Array:
        """Return logits `[B, num_classes]` from the mean of the last stage."""
        pooled = ops.global_avg_pool(promote_float32(features["stage3"]))
        return self.logits(self.drop(pooled, train=train))


def cell(num_classes: int = 10, **options: Any) -> CellNet:
    """Three stages of equal cells; the operations are arguments, so that `jaxcnn tune --search cell` can choose them.

    Args:
        num_classes: number of logits.
        **options: `operations` (one of `"zero"`, `"skip"`, `"conv1"`, `"conv3"` and `"pool"` for each of the edges
            0-1, 0-2, 1-2, 0-3, 1-3 and 2-3), `width` (channels of the first stage, 16; doubled from stage to stage),
            `cells` (in each stage, 1), `mixed` (all operations, see above), `dropout` before the last layer, `dtype`.

    """
    return CellNet(num_classes, **options)
