"""Training methods, one per file, that wrap a task, its loss or the training step."""

from jaxcnn.methods import (<<<<<<< HEAD
    clients, =======
    consolidation, >>>>>>> 1e85c619202c97de5dfbe9844befa8a26f7ee9a8
    transfer, attacks, continual, federated, membership, one_class, private, replay, scaffold, secure_sum, smoothing)
from jaxcnn.methods.group_dro import (group_dro)
from jaxcnn.methods.robustness import (adversarial, attacked, mart, ramped, trades)
from jaxcnn.methods.square import (square)

__all__ = [
    "<<<<<<< HEAD
    clients", "=======
    consolidation",
    ">>>>>>> 1e85c619202c97de5dfbe9844befa8a26f7ee9a8
    transfer", "adversarial", "attacked", "attacks",
    "continual", "federated", "group_dro", "mart", "membership", "one_class", "private", "ramped", "replay",
    "scaffold", "secure_sum", "smoothing", "square", "trades",
]  # fmt: skip
