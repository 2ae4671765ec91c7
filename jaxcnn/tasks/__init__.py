"""Tasks: functions from a model to a `Task`, the pure functions that training and evaluation call."""

from jaxcnn.tasks.classification import classification, probabilities
from jaxcnn.tasks.detection import detected, detection
from jaxcnn.tasks.embedding import embedding, recall_validation
from jaxcnn.tasks.forecasting import forecasting
from jaxcnn.tasks.model import from_model, prepare, training_pass
from jaxcnn.tasks.pixels import expecting
from jaxcnn.tasks.regression import regression
from jaxcnn.tasks.segmentation import segmentation
from jaxcnn.tasks.sequences import decoded, sequence
from jaxcnn.tasks.tiles import predict_tiled

TASKS = {
    "classification": classification, "detection": detection, "forecasting": forecasting, "regression": regression,
    "segmentation": segmentation, "embedding": embedding, "sequence": sequence,
}  # fmt: skip

__all__ = [
    "classification", "decoded", "detected", "detection", "embedding", "expecting", "forecasting", "from_model",
    "predict_tiled", "prepare", "probabilities", "recall_validation", "regression", "segmentation", "sequence", "TASKS",
    "training_pass",
]  # fmt: skip
