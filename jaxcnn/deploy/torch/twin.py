"""What a network is in PyTorch: how it is made there, and its weights by the names that it has there."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxcnn.weights.tensors import Tensors

Values = Mapping[str, np.ndarray]  # our variables by path


class Twin(NamedTuple):
    """A network in PyTorch.

    Attributes:
        library: the library that has this network, `"torchvision"` or `"timm"`; `"torch"` for one written layer by
            layer. The file needs torch alone either way.
        made: lines of Python that set `network`.
        tensors: its state dict.
        parts: what the lines need besides torch, as Python.

    """

    library: str
    made: tuple[str, ...]
    tensors: Tensors
    parts: str = ""


def counters(tensors: Tensors) -> Tensors:
    """Return the counter of batches that each batch norm of PyTorch has; nothing depends on it."""
    end = "running_mean"
    return {f"{k.removesuffix(end)}num_batches_tracked": np.zeros((), np.int64) for k in tensors if k.endswith(end)}


class Unknown(Exception):  # noqa: N818 (an answer, not an error)
    """The network has no twin; the text says why."""
