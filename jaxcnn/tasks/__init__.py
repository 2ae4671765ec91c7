"""Tasks: functions from a model to a `Task`, the pure functions that training and evaluation call."""

from jaxcnn.tasks.classification import classification, probabilities
from jaxcnn.tasks.model import from_model, prepare, training_pass
from jaxcnn.tasks.pixels import expecting

TASKS = {"classification": classification}

__all__ = ["TASKS", "classification", "expecting", "from_model", "prepare", "probabilities", "training_pass"]
