"""MobileNets of the second and third kind, and EfficientNets: tables of inverted residuals between two convolutions."""

import itertools
from collections.abc import Iterator, Sequence

from jaxcnn.weights.preprocessing import TIMM, Preprocessing
from jaxcnn.weights.tables.core import Block, Source, conv_norm, under

# by our stages, the number of blocks in each row of the paper's table
ROWS = {
    "mobilenet_v2": ((1,), (2,), (3,), (4, 3), (3, 1)),
    "efficientnet_b0": ((1,), (2,), (2,), (3, 3), (4, 1)),
    "efficientnet_b1": ((2,), (3,), (3,), (4, 4), (5, 2)),
    "efficientnet_b2": ((2,), (3,), (3,), (4, 4), (5, 2)),
    "efficientnet_b3": ((2,), (3,), (3,), (5, 5), (6, 2)),
}
# of networks that only torchvision has like this: those of timm have another epsilon, which no file says
BLOCKS = {"mobilenet_v3_large": (1, 2, 3, 6, 3), "mobilenet_v3_small": (1, 2, 5, 3)}
PIXELS = {
    "mobilenet_v2": Preprocessing(),
    "efficientnet_b0": Preprocessing(interpolation="bicubic"),
    "efficientnet_b1": Preprocessing(size=240, interpolation="bicubic"),
    "efficientnet_b2": Preprocessing(size=288, resize=288, interpolation="bicubic"),
    "efficientnet_b3": Preprocessing(size=300, resize=320, interpolation="bicubic"),
}


def _numbered(*parts: str) -> dict[str, str]:
    """Name the parts of a block by their places in torchvision's list of them."""
    names = {}
    for k, part in enumerate(parts):
        inside = {"reduce": "fc1", "expand": "fc2"} if part == "attention" else conv_norm("0", "1")
        names |= under(part, f"{k}", inside)
    return names


# blocks without a part come first: the others have names for it, too
TORCHVISION = (
    _numbered("depthwise", "project"),
    _numbered("depthwise", "attention", "project"),
    _numbered("expand", "depthwise", "project"),
    _numbered("expand", "depthwise", "attention", "project"),
)
# the last convolution and its norm are in the list of the parts itself
TORCHVISION_V2 = (
    _numbered("depthwise") | under("project", "", conv_norm("1", "2")),
    _numbered("expand", "depthwise") | under("project", "", conv_norm("2", "3")),
)
SQUEEZE = {"attention.reduce": "se.conv_reduce", "attention.expand": "se.conv_expand"}
TIMM_BLOCKS = (
    under("depthwise", "", conv_norm("conv_dw", "bn1")) | SQUEEZE | under("project", "", conv_norm("conv_pw", "bn2")),
    under("expand", "", conv_norm("conv_pw", "bn1"))
    | under("depthwise", "", conv_norm("conv_dw", "bn2"))
    | SQUEEZE
    | under("project", "", conv_norm("conv_pwl", "bn3")),
)


def _by_row(name: str) -> Iterator[tuple[str, int, int]]:
    """Give our path of each block, the number of its row and its number in the row."""
    row = itertools.count()
    for s, rows in enumerate(ROWS[name]):
        places = [(i, j) for count, i in zip(rows, row, strict=False) for j in range(count)]
        yield from ((f"stages_{s}_{b}", i, j) for b, (i, j) in enumerate(places))


def _counted(stages: Sequence[int]) -> list[tuple[str, int]]:
    """Return our path of each block and its number, from 1, among all of them."""
    paths = [f"stages_{s}_{b}" for s, count in enumerate(stages) for b in range(count)]
    return list(zip(paths, itertools.count(1), strict=False))


def _torchvision(
    places: Sequence[tuple[str, str]],
    last: int,
    forms: Sequence[dict[str, str]],
    head: dict[str, str],
    preprocessing: Preprocessing,
) -> Source:
    """Make a table for torchvision.

    Args:
        places: our path of each block, and torchvision's.
        last: the place of the last convolution.
        forms: the parts that blocks may have, those without a part first.
        head: the names of the last layers.
        preprocessing: of the images.

    """
    ends = under("stem", "features.0", conv_norm("0", "1")) | under("last", f"features.{last}", conv_norm("0", "1"))
    blocks = [Block(here, there, parts) for here, there in places for parts in forms]
    return Source(ends | head, blocks, preprocessing=preprocessing)


def _timm(name: str) -> Source:
    modules = {"logits": "classifier"}
    modules |= under("stem", "", conv_norm("conv_stem", "bn1")) | under("last", "", conv_norm("conv_head", "bn2"))
    blocks = [Block(here, f"blocks.{i}.{j}", parts) for here, i, j in _by_row(name) for parts in TIMM_BLOCKS]
    return Source(modules, blocks, preprocessing=TIMM)


def _efficientnet(name: str) -> Source:
    places = [(here, f"features.{i + 1}.{j}.block") for here, i, j in _by_row(name)]
    last = 1 + sum(map(len, ROWS[name]))
    return _torchvision(places, last, TORCHVISION, {"logits": "classifier.1"}, PIXELS[name])


def _mobilenet_v2() -> Source:
    places = _counted([sum(rows) for rows in ROWS["mobilenet_v2"]])
    paths = [(here, f"features.{n}.conv") for here, n in places]
    return _torchvision(paths, 1 + len(places), TORCHVISION_V2, {"logits": "classifier.1"}, PIXELS["mobilenet_v2"])


def _mobilenet_v3(name: str) -> Source:
    places = _counted(BLOCKS[name])
    paths = [(here, f"features.{n}.block") for here, n in places]
    head = {"dense": "classifier.0", "logits": "classifier.3"}
    return _torchvision(paths, 1 + len(places), TORCHVISION, head, Preprocessing())


NAMES = {
    "mobilenet_v2": {"torchvision": _mobilenet_v2(), "timm": _timm("mobilenet_v2")},
    "mobilenet_v3_large": {"torchvision": _mobilenet_v3("mobilenet_v3_large")},
    "mobilenet_v3_small": {"torchvision": _mobilenet_v3("mobilenet_v3_small")},
    "efficientnet_b0": {"torchvision": _efficientnet("efficientnet_b0"), "timm": _timm("efficientnet_b0")},
    "efficientnet_b1": {"torchvision": _efficientnet("efficientnet_b1"), "timm": _timm("efficientnet_b1")},
    "efficientnet_b2": {"torchvision": _efficientnet("efficientnet_b2"), "timm": _timm("efficientnet_b2")},
    "efficientnet_b3": {"torchvision": _efficientnet("efficientnet_b3"), "timm": _timm("efficientnet_b3")},
}
