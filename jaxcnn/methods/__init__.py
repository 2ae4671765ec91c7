"""Training methods, one per file, that wrap a task, its loss or the training step."""

from jaxcnn.methods import active, attacks, federated, one_class, private, secure_sum, transfer
from jaxcnn.methods.fixmatch import SemiSupervised, fixmatch, semi_supervised
from jaxcnn.methods.group_dro import group_dro
from jaxcnn.methods.robustness import adversarial, attacked, mart, trades
from jaxcnn.methods.self_supervised import encoder, simclr, simsiam, standard_views
from jaxcnn.methods.square import square

__all__ = [
    "SemiSupervised", "active", "adversarial", "attacked", "attacks", "encoder", "federated", "fixmatch", "group_dro",
    "mart", "one_class", "private", "secure_sum", "semi_supervised", "simclr", "simsiam", "square", "standard_views",
    "trades", "transfer",
]  # fmt: skip
