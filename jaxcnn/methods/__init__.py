"""Training methods, one per file, that wrap a task, its loss or the training step."""

from jaxcnn.methods import (
    active,
    attacks,
    clients,
    consolidation,
    continual,
    federated,
    flower,
    membership,
    one_class,
    private,
    prune,
    quantise,
    replay,
    scaffold,
    secure_sum,
    smoothing,
    transfer,
)
from jaxcnn.methods.distil import distilled
from jaxcnn.methods.filters import narrowed
from jaxcnn.methods.fixmatch import SemiSupervised, fixmatch, semi_supervised
from jaxcnn.methods.group_dro import group_dro
from jaxcnn.methods.low_rank import factorised
from jaxcnn.methods.robustness import adversarial, attacked, mart, ramped, trades
from jaxcnn.methods.self_supervised import encoder, simclr, simsiam, standard_views
from jaxcnn.methods.square import square

__all__ = [
    "active", "adversarial", "attacked", "attacks", "clients", "consolidation", "continual", "distilled", "encoder",
    "factorised", "federated", "fixmatch", "flower", "group_dro", "mart", "membership", "narrowed", "one_class",
    "private", "prune", "quantise", "ramped", "replay", "scaffold", "secure_sum", "semi_supervised", "SemiSupervised",
    "simclr", "simsiam", "smoothing", "square", "standard_views", "trades", "transfer",
]  # fmt: skip
