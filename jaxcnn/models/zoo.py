"""Networks for images of one label by name; names follow torchvision or, for networks that it lacks, timm."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from jaxcnn.core.types import InputError
from jaxcnn.models.alexnet import alexnet
from jaxcnn.models.cct import cct_2_3x2_32, cct_7_3x1_32
from jaxcnn.models.cell import cell
from jaxcnn.models.cnn import cnn
from jaxcnn.models.convnext import convnext_small, convnext_tiny
from jaxcnn.models.densenet import densenet121, densenet169
from jaxcnn.models.efficientnet import efficientnet_b0, efficientnet_b1, efficientnet_b2, efficientnet_b3
from jaxcnn.models.googlenet import googlenet
from jaxcnn.models.inception import inception_v3
from jaxcnn.models.lenet import lenet5
from jaxcnn.models.mlp import mlp
from jaxcnn.models.mobilenet import mobilenet_v1, mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small
from jaxcnn.models.plain import plain
from jaxcnn.models.resnet import (
    cbam_resnet18,
    cbam_resnet20,
    resnet18,
    resnet20,
    resnet34,
    resnet50,
    resnet56,
    resnet101,
    resnet152,
    resnext50_32x4d,
    seresnet18,
    seresnet20,
    seresnet50,
    wide_resnet50_2,
)
from jaxcnn.models.speednet import speednet
from jaxcnn.models.squeezenet import squeezenet1_0, squeezenet1_1
from jaxcnn.models.tutorial import tutorial
from jaxcnn.models.vgg import vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn
from jaxcnn.models.vit import vit_small_patch16_224, vit_tiny_patch16_224

Body = str | Mapping[str, Any] | nn.Module  # what `backbone` accepts
MODELS = {
    "alexnet": alexnet, "cbam_resnet18": cbam_resnet18, "cbam_resnet20": cbam_resnet20, "cct_2_3x2_32": cct_2_3x2_32,
    "cct_7_3x1_32": cct_7_3x1_32, "cell": cell, "cnn": cnn,
    "convnext_small": convnext_small, "convnext_tiny": convnext_tiny, "densenet121": densenet121,
    "densenet169": densenet169,
    "efficientnet_b0": efficientnet_b0, "efficientnet_b1": efficientnet_b1, "efficientnet_b2": efficientnet_b2,
    "efficientnet_b3": efficientnet_b3, "googlenet": googlenet, "inception_v3": inception_v3, "lenet5": lenet5,
    "mlp": mlp,
    "mobilenet_v1": mobilenet_v1, "mobilenet_v2": mobilenet_v2, "mobilenet_v3_large": mobilenet_v3_large,
    "mobilenet_v3_small": mobilenet_v3_small, "plain": plain, "resnet18": resnet18, "resnet20": resnet20,
    "resnet34": resnet34, "resnet50": resnet50,
    "resnet56": resnet56, "resnet101": resnet101, "resnet152": resnet152, "resnext50_32x4d": resnext50_32x4d,
    "seresnet18": seresnet18, "seresnet20": seresnet20, "seresnet50": seresnet50, "speednet": speednet,
    "squeezenet1_0": squeezenet1_0, "squeezenet1_1": squeezenet1_1, "tutorial": tutorial, "vgg11": vgg11,
    "vgg11_bn": vgg11_bn,
    "vgg13": vgg13, "vgg13_bn": vgg13_bn, "vgg16": vgg16, "vgg16_bn": vgg16_bn, "vgg19": vgg19, "vgg19_bn": vgg19_bn,
    "vit_small_patch16_224": vit_small_patch16_224, "vit_tiny_patch16_224": vit_tiny_patch16_224,
    "wide_resnet50_2": wide_resnet50_2,
}  # fmt: skip


def backbone(
    network: Body, table: Mapping[str, Callable[..., Any]] | None = None, where: str = "jaxcnn.models.MODELS"
) -> nn.Module:
    """Return a network that another one builds on.

    Args:
        network: a name in `table`, which takes its default options; `{"name": NAME, "options": {...}}`, which a run's
            `config.json` can hold; or a Linen module.
        table: the networks that can be named; by default `MODELS`.
        where: name of the table, for messages.

    Raises:
        InputError: no such name, or another key.

    """
    if isinstance(network, nn.Module):
        return network
    described: dict[str, Any] = {"name": network} if isinstance(network, str) else dict(network)
    name, options = described.pop("name", None), described.pop("options", {})
    if described or not isinstance(name, str):
        raise InputError(f'{network!r}: must be a name, a network, or {{"name": NAME, "options": {{...}}}}')
    known = MODELS if table is None else table
    if name not in known:
        close = difflib.get_close_matches(name, known, 3) or sorted(known)
        raise InputError(f"{name!r}: not one of {where}; did you mean {' or '.join(close)}?")
    return known[name](**options)
