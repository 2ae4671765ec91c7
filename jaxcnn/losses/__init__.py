"""Losses per example; none of them takes a mean over rows."""

from jaxcnn.losses.classification import binary_cross_entropy, cross_entropy
from jaxcnn.losses.detection import box_loss, sigmoid_focal_loss, smooth_l1
from jaxcnn.losses.embedding import (
    arcface,
    batch_hard_triplet,
    negative_cosine,
    nt_xent,
    prototypical,
    supervised_contrastive,
)
from jaxcnn.losses.quantile import pinball
from jaxcnn.losses.regression import huber, squared_error
from jaxcnn.losses.segmentation import boundary_weights, dice_loss, tversky_loss
from jaxcnn.losses.sequences import ctc

__all__ = [
    "arcface", "batch_hard_triplet", "binary_cross_entropy", "boundary_weights", "box_loss", "cross_entropy", "ctc",
    "dice_loss", "huber", "negative_cosine", "nt_xent", "pinball", "prototypical", "sigmoid_focal_loss", "smooth_l1",
    "squared_error", "supervised_contrastive", "tversky_loss",
]  # fmt: skip
