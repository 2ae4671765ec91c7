"""Training methods, one per file, that wrap a task, its loss or the training step."""

from jaxcnn.methods import attacks, federated, one_class, private, prune, quantise, secure_sum, transfer
from jaxcnn.methods.distil import distilled
from jaxcnn.methods.filters import narrowed
from jaxcnn.methods.group_dro import group_dro
from jaxcnn.methods.low_rank import factorised
from jaxcnn.methods.robustness import adversarial, attacked, mart, trades
from jaxcnn.methods.square import square

__all__ = [
    "adversarial", "attacked", "attacks", "distilled", "factorised", "federated", "group_dro", "mart", "narrowed",
    "one_class", "private", "prune", "quantise", "secure_sum", "square", "trades", "transfer",
]  # fmt: skip
