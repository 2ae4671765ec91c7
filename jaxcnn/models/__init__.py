"""Models by name: each constructor returns a Linen module that is called as `apply(variables, x, train=, row_mask=)`.

Names follow torchvision or, for networks that it lacks, timm.
"""

from jaxcnn.models.adapt import Functional, from_functions, from_nnx
from jaxcnn.models.alexnet import AlexNet, alexnet
from jaxcnn.models.cct import CCT, cct_2_3x2_32, cct_7_3x1_32
from jaxcnn.models.cell import CellNet, cell
from jaxcnn.models.cnn import CNN, cnn
from jaxcnn.models.cnn_gru import CNNGRU, cnn_gru
from jaxcnn.models.convnext import ConvNeXt, convnext_small, convnext_tiny
from jaxcnn.models.deeplab import DeepLabV3, deeplab_v3, deeplabv3_resnet50, deeplabv3_resnet101
from jaxcnn.models.densenet import DenseNet, densenet121, densenet169
from jaxcnn.models.efficientnet import efficientnet_b0, efficientnet_b1, efficientnet_b2, efficientnet_b3
from jaxcnn.models.faster_rcnn import FasterRCNN, faster_rcnn, fasterrcnn_resnet50_fpn
from jaxcnn.models.fcn import FCN, fcn, fcn_resnet50, fcn_resnet101
from jaxcnn.models.fcos import FCOS, fcos, fcos_resnet50_fpn
from jaxcnn.models.fold import fold_batchnorm
from jaxcnn.models.fpn import FPN
from jaxcnn.models.fusion import BRANCHES, Fusion, fusion
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
from jaxcnn.models.series import InceptionTime, SeriesResNet, inception_time, series_resnet
from jaxcnn.models.sound import SoundCNN, WaveCNN, sound_cnn, wave_cnn
from jaxcnn.models.speednet import SpeedNet, speednet, whitening
from jaxcnn.models.squeezenet import SqueezeNet, squeezenet1_0, squeezenet1_1
from jaxcnn.models.ssd import SSD, ssd
from jaxcnn.models.ssd300 import SSD300, ssd300_vgg16
from jaxcnn.models.tcn import TCN, tcn
from jaxcnn.models.text_cnn import TextCNN, text_cnn
from jaxcnn.models.text_line import TextLine, text_line
from jaxcnn.models.tutorial import Tutorial, tutorial
from jaxcnn.models.unet import UNet, unet
from jaxcnn.models.vgg import VGG, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn
from jaxcnn.models.video import C3D, R2Plus1D, c3d, cnn3d, r2plus1d_18
from jaxcnn.models.vit import ViT, vit_small_patch16_224, vit_tiny_patch16_224
from jaxcnn.models.zoo import MODELS, backbone

# networks for segmentation, with a class for each pixel
SEGMENTERS = {
    "deeplabv3_resnet50": deeplabv3_resnet50, "deeplabv3_resnet101": deeplabv3_resnet101, "fcn_resnet50": fcn_resnet50,
    "fcn_resnet101": fcn_resnet101, "unet": unet,
}  # fmt: skip
DETECTORS = {
    "faster_rcnn": faster_rcnn, "fasterrcnn_resnet50_fpn": fasterrcnn_resnet50_fpn, "fcos": fcos,
    "fcos_resnet50_fpn": fcos_resnet50_fpn, "ssd": ssd, "ssd300_vgg16": ssd300_vgg16,
}  # fmt: skip
TEXTS = {"text_cnn": text_cnn}  # networks for numbers of words or bytes
# networks for time series [B, T, C], with a class for each series or with a forecast
SERIES = {"inception_time": inception_time, "series_resnet": series_resnet, "tcn": tcn}
SOUNDS = {"sound_cnn": sound_cnn, "wave_cnn": wave_cnn}  # networks for `"audio"` with `"length"`
# networks for videos and volumes of one label
VIDEO = {"c3d": c3d, "cnn3d": cnn3d, "cnn_gru": cnn_gru, "r2plus1d_18": r2plus1d_18}
# networks that read a string of symbols, with a blank or a symbol for each column
READERS = {"text_line": text_line}
FUSIONS = {"fusion": fusion}  # networks of several inputs
# what a configuration may name, and weights are read into
NETWORKS = MODELS | SEGMENTERS | DETECTORS | TEXTS | SERIES | SOUNDS | VIDEO | READERS | FUSIONS

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll] (the names of `NETWORKS`)
    "AlexNet", "backbone", "BRANCHES", "C3D", "CCT", "CellNet", "CNN", "CNNGRU", "ConvNeXt", "deeplab_v3", "DeepLabV3",
    "DenseNet", "DETECTORS", "FasterRCNN", "FCN", "fcn", "FCOS", "fold_batchnorm", "FPN", "from_functions", "from_nnx",
    "Functional", "Fusion", "FUSIONS", "GoogLeNet", "InceptionTime", "InceptionV3", "Inverted", "LeNet5", "MLP",
    "MobileNet", "MODELS", "NETWORKS", "Plain", "R2Plus1D", "READERS", "ResNet", "SEGMENTERS", "SERIES", "SeriesResNet",
    "SoundCNN", "SOUNDS", "SpeedNet", "SqueezeNet", "SSD", "SSD300", "TCN", "TextCNN", "TextLine", "TEXTS", "Tutorial",
    "UNet", "VGG", "VIDEO", "ViT", "WaveCNN", "whitening", *NETWORKS,
]  # fmt: skip
