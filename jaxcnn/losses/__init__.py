"""Losses per example; nothing in here takes a mean over rows."""

from jaxcnn.losses.classification import binary_cross_entropy, cross_entropy

__all__ = ["binary_cross_entropy", "cross_entropy"]
