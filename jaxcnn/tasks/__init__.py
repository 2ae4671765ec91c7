"""Tasks: functions from a model to a `Task`, the pure functions that training and evaluation call."""

from jaxcnn.tasks.classification import classification, probabilities
from jaxcnn.tasks.model import from_model, prepare, training_pass
from jaxcnn.tasks.pixels import expecting
from jaxcnn.tasks.regression import regression
from jaxcnn.tasks.segmentation import segmentation

TASKS = {"classification": classification, "regression": regression}

__all__ = [
    "TASKS", "classification", "expecting", "from_model", "prepare", "probabilities", "regression",
    "segmentation", "training_pass",
]  # fmt: skip
