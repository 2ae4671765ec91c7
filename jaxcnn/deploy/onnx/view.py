"""How passes look at a graph: who makes and who reads each tensor."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxcnn.deploy.onnx.graph import Graph, Node


class View:
    """Who makes and who reads each tensor of a graph; it is made again after each change."""

    def __init__(self, g: Graph) -> None:
        self.g = g
        self.made: dict[str, Node] = {name: node for node in g.nodes for name in node.outputs}
        self.count: dict[str, int] = dict.fromkeys(g.outputs, 1)
        self.readers: dict[str, list[Node]] = {}
        for node in g.nodes:
            for name in node.inputs:
                self.count[name] = self.count.get(name, 0) + 1
                self.readers.setdefault(name, []).append(node)

    def only(self, name: str, op: str, reads: int = 1) -> Node | None:
        """Return the node that makes a tensor, if it is of this kind and no more than `reads` others read it."""
        node = self.made.get(name)
        return node if node is not None and node.op == op and self.count.get(name, 0) <= reads else None

    def split(self, node: Node) -> tuple[str, np.ndarray] | None:
        """Return the tensor and the constant that a node of two operands reads."""
        for x, c in (node.inputs, node.inputs[::-1]) if len(node.inputs) == 2 else ():
            if c in self.g.constants and x not in self.g.constants:
                return x, self.g.constants[c]
        return None

    def scalar(self, node: Node, value: float | None = None) -> tuple[str, float] | None:
        """Return the tensor and the number that a node reads, if the constant is a single number (this one)."""
        found = self.split(node)
        if found is None or found[1].size != 1:
            return None
        number = float(found[1].reshape(()))
        return (found[0], number) if value is None or math.isclose(number, value, rel_tol=1e-6) else None


Pass = Callable[[View, Node], bool]


def replaced(g: Graph, node: Node, op: str, inputs: list[str], **attributes: Any) -> None:
    """Let a node compute something else."""
    node.op, node.inputs, node.attributes = op, inputs, attributes
