"""Flax Linen blocks over `ops`, for any number of spatial axes; with `models/`, the only place that imports Linen."""

from jaxcnn.layers.blocks import CBAM, ConvNorm, DenseNorms, SeparableConv, SqueezeExcite
from jaxcnn.layers.core import KERNEL_INIT, Conv, ConvTranspose, Dense, Dropout, DropPath, check_dropout, check_image
from jaxcnn.layers.network import Network, Staged, apply_block, check_side, feature_levels
from jaxcnn.layers.norm import BatchNorm, GroupNorm, LayerNorm, LayerScale
from jaxcnn.layers.recurrent import GRU, LSTM, Steps, steps_of

__all__ = [
    "CBAM", "GRU", "KERNEL_INIT", "LSTM", "BatchNorm", "Conv", "ConvNorm", "ConvTranspose", "Dense", "DenseNorms",
    "DropPath", "Dropout", "GroupNorm", "LayerNorm", "LayerScale", "Network", "SeparableConv", "SqueezeExcite",
    "Staged", "Steps", "apply_block", "check_dropout", "check_image", "check_side", "feature_levels", "steps_of",
]  # fmt: skip
