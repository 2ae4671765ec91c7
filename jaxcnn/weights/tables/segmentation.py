"""FCN and DeepLab-v3 on residual networks: torchvision's names of the encoder, and places in lists of layers."""

from jaxcnn.weights.preprocessing import Preprocessing
from jaxcnn.weights.tables import resnet
from jaxcnn.weights.tables.core import Source, conv_norm, under

HERE, THERE = resnet.PLACE
ENCODER = under("encoder", "backbone", {"stem.conv": "conv1", "stem.norm": "bn1"})
ENCODER |= under(f"encoder.{HERE}", f"backbone.{THERE}", resnet.PARTS)
AUXILIARY = under("extra_0", "aux_classifier", under("decoder.hidden", "", conv_norm("0", "1")) | {"logits": "4"})
# without a placeholder, so that a network with more branches is not torchvision's
BRANCHES = {
    "branch0.conv": "0.convs.0.0", "branch0.norm": "0.convs.0.1", "branch1.conv": "0.convs.1.0",
    "branch1.norm": "0.convs.1.1", "branch2.conv": "0.convs.2.0", "branch2.norm": "0.convs.2.1",
    "branch3.conv": "0.convs.3.0", "branch3.norm": "0.convs.3.1",
    "pooled.conv": "0.convs.4.1", "pooled.norm": "0.convs.4.2",  # behind the pooling
}  # fmt: skip
PIXELS = Preprocessing(size=520, resize=520)  # torchvision cuts no square: the shorter side gets this length

fcn = Source(
    ENCODER | AUXILIARY | under("decoder.hidden", "classifier", conv_norm("0", "1")) | {"logits": "classifier.4"},
    auxiliary=("aux_classifier",),
    preprocessing=PIXELS,
)
deeplab_v3 = Source(
    ENCODER
    | AUXILIARY
    | under("decoder", "classifier", BRANCHES)
    | under("decoder.project", "classifier.0.project", conv_norm("0", "1"))
    | under("decoder.hidden", "classifier", conv_norm("1", "2"))
    | {"logits": "classifier.4"},
    auxiliary=("aux_classifier",),
    preprocessing=PIXELS,
)

NAMES = {
    "deeplabv3_resnet50": {"torchvision": deeplab_v3}, "deeplabv3_resnet101": {"torchvision": deeplab_v3},
    "fcn_resnet50": {"torchvision": fcn}, "fcn_resnet101": {"torchvision": fcn},
}  # fmt: skip
