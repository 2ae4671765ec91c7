"""AlexNet: places in torchvision's two lists of layers."""

from jaxcnn.weights.tables.core import Source

torchvision = Source({
    "convs_0": "features.0", "convs_1": "features.3", "convs_2": "features.6", "convs_3": "features.8",
    "convs_4": "features.10", "dense_0": "classifier.1", "dense_1": "classifier.4", "logits": "classifier.6",
})  # fmt: skip

NAMES = {"alexnet": {"torchvision": torchvision}}
