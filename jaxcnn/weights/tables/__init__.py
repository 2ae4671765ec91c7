"""The names of torchvision and timm: one file per family of networks, and here the table of all of them."""

from collections.abc import Mapping

from jaxcnn.weights.preprocessing import Preprocessing
from jaxcnn.weights.tables import (
    alexnet,
    convnext,
    densenet,
    detection,
    inception,
    mobilenet,
    resnet,
    segmentation,
    squeezenet,
    vgg,
    vit,
)
from jaxcnn.weights.tables.core import Source, current, names

# name of a network to library to table; the first library's names are those that weights are written with
TABLES: Mapping[str, Mapping[str, Source]] = {
    **alexnet.NAMES, **convnext.NAMES, **densenet.NAMES, **detection.NAMES, **inception.NAMES, **mobilenet.NAMES,
    **resnet.NAMES, **segmentation.NAMES, **squeezenet.NAMES, **vgg.NAMES, **vit.NAMES,
}  # fmt: skip


def published(name: str, source: str) -> Preprocessing:
    """Return what the images go through before a library's weights of a network.

    timm has several weights of each network, and these are the values of most of them; what a file has beside it comes
    first, see `preprocessing.from_timm`.

    Args:
        name: of the network.
        source: `"torchvision"` or `"timm"`; for any other the values are torchvision's, or else ImageNet's.

    """
    tables = TABLES.get(name, {})
    table = tables.get(source) or tables.get("torchvision")
    return table.preprocessing if table else Preprocessing()


__all__ = ["TABLES", "Source", "current", "names", "published"]
