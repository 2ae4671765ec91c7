"""Networks that torchvision or timm have too: their constructors, and our weights by their names."""

from collections.abc import Sequence
from typing import Any

from jaxcnn.deploy.torch.twin import Twin, Unknown, Values, counters
from jaxcnn.weights.layout import to_theirs
from jaxcnn.weights.tables import TABLES, names

FIRST = '''
def with_channels(network, channels):
    """Give the first convolution another number of channels."""
    name, old = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    options = {"bias": old.bias is not None, "groups": old.groups, "dilation": old.dilation}
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding, **options)
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, new)
'''
DENSE = ("fcn_", "deeplabv3_")  # beginnings of the names of networks with a class for each pixel


def published(name: str, model: Any, values: Values, shape: Sequence[int]) -> Twin:
    """Return the twin of a network of torchvision or timm.

    Args:
        name: of the network.
        model: the network.
        values: its variables by path.
        shape: height, width and channels of the images that it gets.

    Raises:
        Unknown: no library has the network with these options.

    """
    cifar = getattr(model, "cifar_stem", False)
    for library, table in TABLES.get(name, {}).items():
        if cifar and "cifar_stem" in table.needs:  # the names are the same, and the first layers are replaced below
            table = table._replace(needs={k: v for k, v in table.needs.items() if k != "cifar_stem"})
        called = names(table, model, values)
        if called is None:
            continue
        tensors = {called[path]: to_theirs(x, path, called[path], table) for path, x in values.items()}
        make = _timm if library == "timm" else _torchvision
        return make(name, model, tensors | counters(tensors), shape)
    raise Unknown(f"neither torchvision nor timm has {name} with these options")


def _torchvision(name: str, model: Any, tensors: Any, shape: Sequence[int]) -> Twin:
    options = {"weights": None, "num_classes": model.num_classes}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": bool(model.aux), "transform_input": False, "init_weights": False}
    dense = name.startswith(DENSE)
    if dense:
        options |= {"weights_backbone": None, "aux_loss": bool(model.aux)}
    if any(dilated := getattr(model, "replace_stride_with_dilation", ())):
        options["replace_stride_with_dilation"] = list(dilated)
    given = "".join(f", {key}={value!r}" for key, value in options.items())
    made, parts = [f'network = torchvision.models.get_model("{name}"{given})'], ""
    if getattr(model, "cifar_stem", False):
        made += [f"network.conv1 = nn.Conv2d({shape[2]}, {model.width}, 3, 1, 1, bias=False)"]
        made += ["network.maxpool = nn.Identity()"]
    elif shape[2] != 3:
        made, parts = [*made, f"with_channels(network, {shape[2]})"], FIRST
    return Twin("torchvision", tuple(made), tensors, parts, '["out"]' if dense else "")


def _timm(name: str, model: Any, tensors: Any, shape: Sequence[int]) -> Twin:
    more = f", img_size={tuple(shape[:2])}" if name.startswith("vit_") else ""
    given = f"pretrained=False, num_classes={model.num_classes}, in_chans={shape[2]}{more}"
    made = [f'network = timm.create_model("{name}", {given})']
    if getattr(model, "cifar_stem", False):
        made += [f"network.conv1 = nn.Conv2d({shape[2]}, {model.width}, 3, 1, 1, bias=False)"]
        made += ["network.maxpool = nn.Identity()"]
    return Twin("timm", tuple(made), tensors)
