"""Densely connected networks: everything but the last layer is a feature; blocks and layers count from 1."""

from jaxcnn.weights.preprocessing import TIMM
from jaxcnn.weights.tables.core import Block, Source

LAYER = {"layer{k}.norm": "norm{k}", "layer{k}.conv": "conv{k}"}
TRANSITION = {"layer.norm": "norm", "layer.conv": "conv"}

torchvision = Source(
    {
        "stem.conv": "features.conv0",
        "stem.norm": "features.norm0",
        "last.norm": "features.norm5",
        "logits": "classifier",
    },
    [
        Block("stages_0_{j}", "features.denseblock1.denselayer{j+1}", LAYER),
        Block("stages_{i}_0", "features.transition{i}", TRANSITION),
        Block("stages_{i}_{j}", "features.denseblock{i+1}.denselayer{j}", LAYER),
    ],
    former=[(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.")],
)

BOTH = {"torchvision": torchvision, "timm": torchvision._replace(preprocessing=TIMM)}
NAMES = {"densenet121": BOTH, "densenet169": BOTH}
