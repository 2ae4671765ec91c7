"""Losses per example; none of them takes a mean over rows."""

from jaxcnn.losses.classification import binary_cross_entropy, cross_entropy
from jaxcnn.losses.regression import huber, squared_error
from jaxcnn.losses.segmentation import boundary_weights, dice_loss, tversky_loss

__all__ = [
    "binary_cross_entropy", "boundary_weights", "cross_entropy", "dice_loss", "huber", "squared_error", "tversky_loss",
]  # fmt: skip
