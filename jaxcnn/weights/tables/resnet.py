"""Residual networks: both libraries use the names of torchvision, and timm alone has squeeze and excitation."""

from jaxcnn.weights.preprocessing import TIMM
from jaxcnn.weights.tables.core import Block, Source

MODULES = {"stem.conv": "conv1", "stem.norm": "bn1", "logits": "fc"}
PARTS = {
    "conv{k}.conv": "conv{k}", "conv{k}.norm": "bn{k}",
    "shortcut.conv": "downsample.0", "shortcut.norm": "downsample.1",
}  # fmt: skip
ATTENTION = {"attention.reduce": "se.fc1", "attention.expand": "se.fc2"}
PLACE = "stages_{i}_{j}", "layer{i+1}.{j}"
FORM = {"cifar_stem": False}  # neither library has the networks for small images

torchvision = Source(MODULES, [Block(*PLACE, PARTS)], needs=FORM)
timm = torchvision._replace(preprocessing=TIMM)
timm_attention = timm._replace(blocks=[Block(*PLACE, PARTS | ATTENTION)])

BOTH = {"torchvision": torchvision, "timm": timm}
NAMES = {
    "resnet18": BOTH, "resnet34": BOTH, "resnet50": BOTH, "resnet101": BOTH, "resnet152": BOTH,
    "resnext50_32x4d": BOTH, "wide_resnet50_2": BOTH,
    "seresnet18": {"timm": timm_attention}, "seresnet50": {"timm": timm_attention},
}  # fmt: skip
