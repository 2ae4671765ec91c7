"""SqueezeNet: places in torchvision's list of layers, which also counts an activation and the poolings."""

from collections.abc import Sequence

from jaxcnn.weights.tables.core import Source, under

# the place of each fire module in the list, by our stages
PLACES = {
    "squeezenet1_0": ((3, 4, 5), (7, 8, 9, 10), (12,)),
    "squeezenet1_1": ((3, 4), (6, 7), (9, 10, 11, 12)),
}
PARTS = {"squeeze": "squeeze", "expand1x1": "expand1x1", "expand3x3": "expand3x3"}


def _torchvision(places: Sequence[Sequence[int]]) -> Source:
    modules = {"stem.conv": "features.0", "logits": "classifier.1"}
    for i, stage in enumerate(places):
        for j, at in enumerate(stage):
            modules |= under(f"stages_{i}_{j}", f"features.{at}", PARTS)
    return Source(modules)


NAMES = {name: {"torchvision": _torchvision(places)} for name, places in PLACES.items()}
