"""Explain what a network does: pure functions of `(model, variables)` and images in the form that the model takes."""

from jaxcnn.explain.cam import grad_cam, grad_cam_plus_plus, occlusion
from jaxcnn.explain.checks import Curves, blurred, deletion_insertion, layers_from_head, randomised, rank_correlation
from jaxcnn.explain.chosen import at_box, at_pixel, coarsest
from jaxcnn.explain.erasure import erasure
from jaxcnn.explain.gradients import (
    Integrated,
    guided_backprop,
    heat,
    input_gradient,
    integrated_gradients,
    prepared,
    smooth_grad,
)
from jaxcnn.explain.lrp import Relevance, lrp
from jaxcnn.explain.over_time import over_time
from jaxcnn.explain.sound import on_spectrogram
from jaxcnn.explain.summary import Row, Summary, summary
from jaxcnn.explain.visualize import feature_maps, filters, grid, linear_probe, maximise, pooled_features

__all__ = [
    "at_box", "at_pixel", "blurred", "coarsest", "Curves", "deletion_insertion", "erasure", "feature_maps", "filters",
    "grad_cam", "grad_cam_plus_plus", "grid", "guided_backprop", "heat", "input_gradient", "Integrated",
    "integrated_gradients", "layers_from_head", "linear_probe", "lrp", "maximise", "occlusion", "on_spectrogram",
    "over_time", "pooled_features", "prepared", "randomised", "rank_correlation", "Relevance", "Row", "smooth_grad",
    "Summary", "summary",
]  # fmt: skip
