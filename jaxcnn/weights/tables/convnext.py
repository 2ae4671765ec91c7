"""ConvNeXt: places in torchvision, where the reductions are stages of their own; words in timm."""

from jaxcnn.weights.preprocessing import TIMM, Preprocessing
from jaxcnn.weights.tables.core import Block, Source

TORCHVISION_PARTS = {
    "conv": "block.0", "norm": "block.2", "dense1": "block.3", "dense2": "block.5", "scale.gamma": "layer_scale",
}  # fmt: skip
TIMM_PARTS = {"conv": "conv_dw", "norm": "norm", "dense1": "mlp.fc1", "dense2": "mlp.fc2", "scale.gamma": "gamma"}
REDUCE = {"norm": "0", "conv": "1"}

torchvision = Source(
    {"stem.conv": "features.0.0", "stem.norm": "features.0.1", "norm_last": "classifier.0", "logits": "classifier.2"},
    [
        Block("stages_0_{j}", "features.1.{j}", TORCHVISION_PARTS),
        Block("stages_{i}_0", "features.{2i}", REDUCE),
        Block("stages_{i}_{j}", "features.{2i+1}.{j-1}", TORCHVISION_PARTS),
    ],
    spatial=("layer_scale",),
)
timm = Source(
    {"stem.conv": "stem.0", "stem.norm": "stem.1", "norm_last": "head.norm", "logits": "head.fc"},
    [
        Block("stages_0_{j}", "stages.0.blocks.{j}", TIMM_PARTS),
        Block("stages_{i}_0", "stages.{i}.downsample", REDUCE),
        Block("stages_{i}_{j}", "stages.{i}.blocks.{j-1}", TIMM_PARTS),
    ],
    preprocessing=TIMM,
)

NAMES = {
    "convnext_tiny": {"torchvision": torchvision._replace(preprocessing=Preprocessing(resize=236)), "timm": timm},
    "convnext_small": {"torchvision": torchvision._replace(preprocessing=Preprocessing(resize=230)), "timm": timm},
}
