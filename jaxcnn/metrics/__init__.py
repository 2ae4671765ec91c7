"""Metrics: jittable sums that add across batches and devices, and scores computed from them on the host."""

from jaxcnn.metrics.scores import f1, precision, recall, report, wilson_interval
from jaxcnn.metrics.sums import Confusion, accuracy, confusion, count, mean, multilabel_accuracy, predicted_class, top_k, true_class
from jaxcnn.types import Count, Mean

__all__ = [
    "Confusion", "Count", "Mean", "accuracy", "confusion", "count", "f1", "mean", "multilabel_accuracy", "precision", "predicted_class",
    "recall", "report", "top_k", "true_class", "wilson_interval",
]  # fmt: skip
