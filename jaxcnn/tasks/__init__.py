"""Tasks: functions from a model to a `Task`, the pure functions that training and evaluation call."""

from jaxcnn.tasks.classification import classification, probabilities
from jaxcnn.tasks.model import from_model, prepare, training_pass
from jaxcnn.tasks.pixels import expecting
from jaxcnn.tasks.robust import group_dro

TASKS = {"classification": classification}

__all__ = ["TASKS", "classification", "expecting", "from_model", "group_dro", "prepare", "probabilities", "training_pass"]
