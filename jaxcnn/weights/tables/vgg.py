"""VGG: places in a list of layers that also counts activations and poolings."""

from collections.abc import Sequence

from jaxcnn.weights.preprocessing import TIMM
from jaxcnn.weights.tables.core import Source, conv_norm, under

# the place of each convolution in its list, by our stages; the stem is the first
PLACES = {
    "vgg11": ((0,), (3,), (6, 8), (11, 13), (16, 18)),
    "vgg13": ((0, 2), (5, 7), (10, 12), (15, 17), (20, 22)),
    "vgg16": ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)),
    "vgg19": ((0, 2), (5, 7), (10, 12, 14, 16), (19, 21, 23, 25), (28, 30, 32, 34)),
}
# with a norm behind each convolution
PLACES_BN = {
    "vgg11_bn": ((0,), (4,), (8, 11), (15, 18), (22, 25)),
    "vgg13_bn": ((0, 3), (7, 10), (14, 17), (21, 24), (28, 31)),
    "vgg16_bn": ((0, 3), (7, 10), (14, 17, 20), (24, 27, 30), (34, 37, 40)),
    "vgg19_bn": ((0, 3), (7, 10), (14, 17, 20, 23), (27, 30, 33, 36), (40, 43, 46, 49)),
}
HEADS = {
    "torchvision": {"dense_0": "classifier.0", "dense_1": "classifier.3", "logits": "classifier.6"},
    "timm": {"dense_0": "pre_logits.fc1", "dense_1": "pre_logits.fc2", "logits": "head.fc"},
}


def convolutions(places: Sequence[Sequence[int]], norm: bool) -> dict[str, str]:
    """Name the convolutions of all stages, by their places in the list of layers."""
    names = {}
    for i, stage in enumerate(places):
        for j, at in enumerate(stage):
            here = f"stages_{i - 1}_{j}" if i else f"stem_{j}"
            parts = conv_norm(f"{at}", f"{at + 1}") if norm else {"conv": f"{at}"}
            names |= under(here, "features", parts)
    return names


def _sources(modules: dict[str, str]) -> dict[str, Source]:
    return {
        "torchvision": Source(modules | HEADS["torchvision"]),
        "timm": Source(modules | HEADS["timm"], preprocessing=TIMM),
    }


NAMES = {name: _sources(convolutions(places, norm=False)) for name, places in PLACES.items()}
NAMES |= {name: _sources(convolutions(places, norm=True)) for name, places in PLACES_BN.items()}
