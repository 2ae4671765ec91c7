"""Models by name: each constructor returns a Linen module that is called as `apply(variables, x, train=, row_mask=)`.

Names follow torchvision or, for networks that it lacks, timm.
"""

from jaxcnn.models.adapt import Functional, from_functions, from_nnx
from jaxcnn.models.alexnet import AlexNet, alexnet
from jaxcnn.models.cct import CCT, cct_2_3x2_32, cct_7_3x1_32
from jaxcnn.models.cnn import CNN, cnn
from jaxcnn.models.convnext import ConvNeXt, convnext_small, convnext_tiny
from jaxcnn.models.densenet import DenseNet, densenet121, densenet169
from jaxcnn.models.efficientnet import efficientnet_b0, efficientnet_b1, efficientnet_b2, efficientnet_b3
from jaxcnn.models.fold import fold_batchnorm
from jaxcnn.models.googlenet import GoogLeNet, googlenet
from jaxcnn.models.inception import InceptionV3, inception_v3
from jaxcnn.models.lenet import LeNet5, lenet5
from jaxcnn.models.mlp import MLP, mlp
from jaxcnn.models.mobilenet import (
    Inverted,
    MobileNet,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3_large,
    mobilenet_v3_small,
)
from jaxcnn.models.plain import Plain, plain
from jaxcnn.models.resnet import (
    ResNet,
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
from jaxcnn.models.speednet import SpeedNet, speednet, whitening
from jaxcnn.models.squeezenet import SqueezeNet, squeezenet1_0, squeezenet1_1
from jaxcnn.models.tutorial import Tutorial, tutorial
from jaxcnn.models.unet import UNet, unet
from jaxcnn.models.vgg import VGG, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn
from jaxcnn.models.vit import ViT, vit_small_patch16_224, vit_tiny_patch16_224

MODELS = {
    "alexnet": alexnet, "cbam_resnet18": cbam_resnet18, "cbam_resnet20": cbam_resnet20, "cct_2_3x2_32": cct_2_3x2_32,
    "cct_7_3x1_32": cct_7_3x1_32, "cnn": cnn,
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

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll] (the names of `MODELS`)
    "CCT", "CNN", "MLP", "MODELS", "VGG", "AlexNet", "ConvNeXt", "DenseNet", "Functional", "GoogLeNet",
    "InceptionV3", "Inverted", "LeNet5", "MobileNet", "Plain", "ResNet", "SpeedNet", "SqueezeNet", "Tutorial",
    "UNet", "ViT", "fold_batchnorm", "from_functions", "from_nnx", "unet", "whitening", *MODELS,
]  # fmt: skip
