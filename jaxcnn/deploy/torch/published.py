"""Networks that torchvision or timm have too: traced there, with our weights by the names that they have there."""

import importlib
from collections.abc import Sequence
from typing import Any

from jaxcnn.core.types import InputError
from jaxcnn.deploy.program import why
from jaxcnn.deploy.torch.traced import written
from jaxcnn.deploy.torch.twin import Twin, Unknown, Values, counters
from jaxcnn.weights.layout import to_theirs
from jaxcnn.weights.tables import TABLES, names

DENSE = ("fcn_", "deeplabv3_")  # beginnings of the names of networks with a class for each pixel


def published(name: str, model: Any, values: Values, shape: Sequence[int]) -> Twin:
    """Return the twin of a network of torchvision or timm.

    Args:
        name: of the network.
        model: the network.
        values: its variables by path.
        shape: height, width and channels of the images that it gets.

    Raises:
        InputError: the library, or PyTorch, is not installed; or it refuses the options.
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
        made = written(library, _network(library, name, model, shape))
        return Twin(library, ("network = Traced()",), tensors | counters(tensors), made)
    raise Unknown(f"neither torchvision nor timm has {name} with these options")


def imported(package: str) -> Any:
    """Import a package, or say how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(f"{package} is not installed ({why(error)}); pip install {package}") from error


def _network(library: str, name: str, model: Any, shape: Sequence[int]) -> Any:
    """Return the library's network, without values."""
    torch, package = imported("torch"), imported(library)
    options = _of_timm(name, model, shape) if library == "timm" else _of_torchvision(name, model)
    make = package.create_model if library == "timm" else package.models.get_model
    with torch.device("meta"):
        try:
            made = make(name, **options)
        except Exception as error:  # of another library, such as dilated blocks that it has not
            raise InputError(f"{library} has no network with these options ({why(error)}); use onnx") from error
        if getattr(model, "cifar_stem", False):
            made.conv1 = torch.nn.Conv2d(shape[2], model.width, 3, 1, 1, bias=False)
            made.maxpool = torch.nn.Identity()
        elif shape[2] != 3 and library == "torchvision":
            _with_channels(torch.nn, made, shape[2])
    return made


def _of_torchvision(name: str, model: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"weights": None, "num_classes": model.num_classes}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": bool(model.aux), "transform_input": False, "init_weights": False}
    if name.startswith(DENSE):
        options |= {"weights_backbone": None, "aux_loss": bool(model.aux)}
    if any(dilated := getattr(model, "replace_stride_with_dilation", ())):
        options["replace_stride_with_dilation"] = list(dilated)
    return options


def _of_timm(name: str, model: Any, shape: Sequence[int]) -> dict[str, Any]:
    sides = {"img_size": tuple(shape[:2])} if name.startswith("vit_") else {}
    return {"pretrained": False, "num_classes": model.num_classes, "in_chans": shape[2], **sides}


def _with_channels(nn: Any, network: Any, channels: int) -> None:
    """Give the first convolution another number of channels."""
    path, old = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    options = {"bias": old.bias is not None, "groups": old.groups, "dilation": old.dilation}
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding, **options)
    parent, _, last = path.rpartition(".")
    setattr(network.get_submodule(parent), last, new)
