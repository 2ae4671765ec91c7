"""Tasks: functions from a model to a `Task`, the pure functions that training and evaluation call."""

from jaxcnn.tasks.classification import classification, probabilities
from jaxcnn.tasks.detection import detected, detection
from jaxcnn.tasks.model import from_model, prepare, training_pass
from jaxcnn.tasks.pixels import expecting
from jaxcnn.tasks.regression import regression
from jaxcnn.tasks.segmentation import segmentation
from jaxcnn.tasks.sequences import decoded, sequence
from jaxcnn.tasks.tiles import predict_tiled

TASKS = {
    "classification": classification, "detection": detection, "regression": regression, "segmentation": segmentation,
    "sequence": sequence,
}  # fmt: skip

__all__ = [
    "TASKS", "classification", "decoded", "detected", "detection", "expecting", "from_model", "predict_tiled",
    "prepare", "probabilities", "regression", "segmentation", "sequence", "training_pass",
]  # fmt: skip
