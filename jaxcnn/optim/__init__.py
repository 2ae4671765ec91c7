"""Optimisers, schedules and groups of parameters as optax transforms; a state tells the learning rate in force."""

from jaxcnn.optim.decay import KERNELS, Mask, decay_mask
from jaxcnn.optim.groups import (
    ByGroup,
    by_group,
    first_match,
    freeze,
    gradual_unfreezing,
    layerwise_lr_decay,
    which,
)
from jaxcnn.optim.recipes import OPTIMIZERS, adam, adamw, lamb, learning_rate, muon, sgd
from jaxcnn.optim.schedules import Rate, check_rate, constant, cosine, one_cycle, step

__all__ = [
    "KERNELS", "OPTIMIZERS", "ByGroup", "Mask", "Rate", "adam", "adamw", "by_group", "check_rate", "constant", "cosine",
    "decay_mask", "first_match", "freeze", "gradual_unfreezing", "lamb", "layerwise_lr_decay", "learning_rate", "muon",
    "one_cycle", "sgd", "step", "which",
]  # fmt: skip
