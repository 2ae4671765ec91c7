"""Flax Linen blocks over `ops`, for any number of spatial axes; with `models/`, the only place that imports Linen."""

from jaxcnn.layers.blocks import CBAM, ConvNorm, SeparableConv, SqueezeExcite
from jaxcnn.layers.core import KERNEL_INIT, Conv, ConvTranspose, Dense, Dropout, DropPath, check_dropout, check_image
from jaxcnn.layers.network import Network, Staged, apply_block, check_side, feature_levels
from jaxcnn.layers.norm import BatchNorm, GroupNorm, LayerNorm, LayerScale

__all__ = [
    "CBAM", "KERNEL_INIT", "BatchNorm", "Conv", "ConvNorm", "ConvTranspose", "Dense", "DropPath", "Dropout",
    "GroupNorm", "LayerNorm", "LayerScale", "Network", "SeparableConv", "SqueezeExcite", "Staged", "apply_block",
    "check_dropout", "check_image", "check_side", "feature_levels",
]  # fmt: skip
