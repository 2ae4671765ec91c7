"""Training methods, one per file, that wrap a task, its loss or the training step."""

from jaxcnn.methods import (
    attacks,
    consolidation,
    continual,
    federated,
    one_class,
    private,
    replay,
    secure_sum,
    transfer,
)
from jaxcnn.methods.group_dro import group_dro
from jaxcnn.methods.robustness import adversarial, attacked, mart, trades
from jaxcnn.methods.square import square

__all__ = [
    "adversarial", "attacked", "attacks", "consolidation", "continual", "federated", "group_dro", "mart", "one_class",
    "private", "replay", "secure_sum", "square", "trades", "transfer",
]  # fmt: skip
