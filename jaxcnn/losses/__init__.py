"""Losses per example; none of them takes a mean over rows."""

from jaxcnn.losses.classification import binary_cross_entropy, cross_entropy
from jaxcnn.losses.regression import huber, squared_error

__all__ = ["binary_cross_entropy", "cross_entropy", "huber", "squared_error"]
