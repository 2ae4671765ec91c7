"""Initial weights for `--weights`: a run, a file, or weights published for ImageNet."""

import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.cli.flags import flag_of, one_of
from jaxcnn.core.types import InputError
from jaxcnn.models import MODELS, NETWORKS
from jaxcnn.models.cell import check_operations
from jaxcnn.runs import load_run
from jaxcnn.weights import load_weights

OWN_OPTIONS = ("num_classes", "dropout", "dtype", "remat")  # not taken over from the pretrained network
SHAPE = ("depth", "width", "kernel_size")  # flags that are options of the networks which have them
IMAGENET, DEFAULT = "imagenet", "resnet18"
# repositories of timm on the Hugging Face Hub; the Hub names each file by its SHA-256, which is checked
HUB = {
    "convnext_small": "convnext_small.fb_in1k", "convnext_tiny": "convnext_tiny.fb_in1k",
    "densenet121": "densenet121.ra_in1k", "densenet169": "densenet169.tv_in1k",
    "efficientnet_b0": "efficientnet_b0.ra_in1k", "efficientnet_b1": "efficientnet_b1.ft_in1k",
    "efficientnet_b2": "efficientnet_b2.ra_in1k", "efficientnet_b3": "efficientnet_b3.ra2_in1k",
    "inception_v3": "inception_v3.tv_in1k", "mobilenet_v2": "mobilenetv2_100.ra_in1k", "resnet18": "resnet18.a1_in1k",
    "resnet34": "resnet34.a1_in1k", "resnet50": "resnet50.a1_in1k", "resnet101": "resnet101.a1_in1k",
    "resnet152": "resnet152.a1_in1k", "resnext50_32x4d": "resnext50_32x4d.a1_in1k",
    "seresnet50": "seresnet50.ra2_in1k", "vgg11": "vgg11.tv_in1k", "vgg11_bn": "vgg11_bn.tv_in1k",
    "vgg13": "vgg13.tv_in1k", "vgg13_bn": "vgg13_bn.tv_in1k", "vgg16": "vgg16.tv_in1k", "vgg16_bn": "vgg16_bn.tv_in1k",
    "vgg19": "vgg19.tv_in1k", "vgg19_bn": "vgg19_bn.tv_in1k",
    "vit_small_patch16_224": "vit_small_patch16_224.augreg_in21k_ft_in1k",
    "vit_tiny_patch16_224": "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "wide_resnet50_2": "wide_resnet50_2.racm_in1k",
}  # fmt: skip
# file names on torchvision's server, with the first digits of the SHA-256, for networks that timm does not have
TORCHVISION = {
    "alexnet": "alexnet-owt-7be5be79.pth", "googlenet": "googlenet-1378be20.pth",
    "mobilenet_v3_large": "mobilenet_v3_large-8738ca79.pth", "mobilenet_v3_small": "mobilenet_v3_small-047dcff4.pth",
    "squeezenet1_0": "squeezenet1_0-b66bff10.pth", "squeezenet1_1": "squeezenet1_1-b8a52dc0.pth",
}  # fmt: skip


class Origin(NamedTuple):
    """A pretrained network: its name and options, the preparation of its pixels, its image size and its variables."""

    model: str
    options: dict[str, Any]
    pixels: dict[str, Any]
    size: tuple[int, int]
    variables: Any


def published(name: str) -> str:
    """Return the address of a network's ImageNet weights, for `weights.fetch`.

    Raises:
        InputError: no weights are known for the network.

    """
    if name in HUB:
        return f"hf:timm/{HUB[name]}"
    if name in TORCHVISION:
        return f"https://download.pytorch.org/models/{TORCHVISION[name]}"
    raise InputError(
        f"--weights imagenet: no known weights for --model {name}; use another network, such as {DEFAULT}, or a file"
    )


def origin(config: Any, channels: int = 3) -> Origin | None:
    """Read `--weights`: the folder of a run, a file, or `imagenet`.

    Args:
        config: flags `weights`, `model`, `cifar_stem` and `image_size`.
        channels: number of image channels, to which weights from a file are adapted.

    Returns:
        The network, or None without `--weights`.

    Raises:
        InputError: the weights cannot be read, or belong to a different network.

    """
    if not config.weights:
        return None
    if not os.path.isdir(config.weights):
        return _from_file(config, channels)
    found = load_run(config.weights)
    model, image, task = (found.config["build"][part] for part in ("model", "image", "task"))
    if config.model not in ("", model["name"]):
        raise InputError(
            f"--model {config.model}: --weights {config.weights} is a run of {model['name']}; leave --model out"
        )
    for flag, given in form_of(config, model["name"]).items():
        if model["options"].get(flag) != given:
            raise InputError(
                f"{flag_of(flag)} {given}: the network of --weights {config.weights} is fixed; leave it out"
            )
    options = {k: v for k, v in model["options"].items() if k not in OWN_OPTIONS}
    pixels = {k: task["options"][k] for k in ("mean", "std", "size") if task["options"].get(k) is not None}
    return Origin(model["name"], options, pixels, tuple(image["shape"][:2]), found.variables)


def _from_file(config: Any, channels: int) -> Origin:
    name = config.model or DEFAULT
    if name not in MODELS:
        raise InputError(f"--weights {config.weights}: --model {name} starts from the folder of a run only")
    side: dict[str, Any] = {"image": (config.image_size,) * 2} if config.image_size else {}
    form = form_of(config, name)
    path = published(name) if config.weights == IMAGENET else config.weights
    found = load_weights(name, path, channels=channels, **form, **side)
    how, usual = found.preprocessing, _plain_fields(MODELS[name]())
    options = {field: value for field, value in _plain_fields(found.model).items() if value != usual[field]}
    one = (lambda values: [float(np.mean(values))]) if channels == 1 else list
    pixels = {"mean": one(how.mean), "std": one(how.std)}
    return Origin(name, options, pixels, (how.size, how.size), found.variables)


def _plain_fields(model: Any) -> dict[str, Any]:
    """Return the options that a network was made with, as JSON values."""
    names = [f.name for f in dataclasses.fields(model) if f.name not in ("parent", "name", *OWN_OPTIONS)]
    fields = {name: getattr(model, name) for name in names}
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
    return {k: v for k, v in fields.items() if isinstance(v, bool | int | float | str | list)}


def form_of(config: Any, name: str) -> dict[str, Any]:
    """Return the options of a network that the flags set.

    Raises:
        InputError: an unknown name, or a variant that the network does not have.

    """
    one_of("--model", name, NETWORKS)
    if config.cifar_stem and not hasattr(NETWORKS[name](), "cifar_stem"):
        raise InputError(f"--cifar-stem: {name} has no such variant; leave it out")
    form: dict[str, Any] = {"cifar_stem": True} if config.cifar_stem else {}
    for option in SHAPE:
        value = getattr(config, option, 0)  # experiments do not have these flags
        if value and not takes(name, option):
            given, able = f"{flag_of(option)} {value}", [known for known in MODELS if takes(known, option)]
            raise InputError(f"{given}: {name} has no such option; leave it out, or use one of {', '.join(able)}")
        form |= {option: value} if value else {}
    if operations := getattr(config, "operations", ()):
        if name != "cell":
            raise InputError(f"--operations {' '.join(operations)}: {name} has none; use --model cell")
        form["operations"] = list(check_operations(operations))
    return form


def takes(name: str, option: str) -> bool:
    """Whether a network has an option that is a whole number, as `width` is for some and a factor for others."""
    return type(getattr(NETWORKS[name](), option, None)) is int
