"""Training methods, one per file, that wrap a task, its loss or the training step."""

from jaxcnn.methods import one_class, transfer
from jaxcnn.methods.group_dro import group_dro

__all__ = ["group_dro", "one_class", "transfer"]
