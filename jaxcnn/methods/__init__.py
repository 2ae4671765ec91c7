"""Training methods, one per file, that wrap a task, its loss or the training step."""

from jaxcnn.methods import (
    attacks,
    clients,
    federated,
    membership,
    one_class,
    private,
    scaffold,
    secure_sum,
    smoothing,
    transfer,
)
from jaxcnn.methods.group_dro import group_dro
from jaxcnn.methods.robustness import adversarial, attacked, mart, ramped, trades
from jaxcnn.methods.square import square

__all__ = [
    "adversarial", "attacked", "attacks", "clients", "federated", "group_dro", "mart", "membership", "one_class",
    "private", "ramped", "scaffold", "secure_sum", "smoothing", "square", "trades", "transfer",
]  # fmt: skip
