"""Detectors of torchvision: a residual network, its pyramid, and heads; and SSD, which cuts VGG in two.

Published files name the convolutions of the pyramid by their number alone. Those of pyramids have frozen norms: the
names are those of norms, and only the published Faster R-CNN adds nothing to their variance, as with `frozen=True`.
"""

from jaxcnn.weights.preprocessing import Preprocessing
from jaxcnn.weights.tables import resnet, vgg
from jaxcnn.weights.tables.core import Source, under

YXYX = (1, 0, 3, 2)  # four numbers of a box lie there as x, y, x, y
FORMER = [(r"\.(inner_blocks|layer_blocks)\.(\d+)\.(weight|bias)$", r".\1.\2.0.\3")]
IMAGES = Preprocessing(size=800, resize=800)

BODY = {here: there for here, there in resnet.MODULES.items() if here != "logits"} | under(*resnet.PLACE, resnet.PARTS)
PYRAMID = {
    "lateral_{i}": "inner_blocks.{i}.0", "output_{i}": "layer_blocks.{i}.0", "p{n}": "extra_blocks.p{n}",
}  # fmt: skip
RESNET_FPN = under("backbone", "backbone.body", BODY) | under("pyramid", "backbone.fpn", PYRAMID)
TOWER = {"conv_{i}": "conv.{3i}", "norm_{i}": "conv.{3i+1}"}
FCOS = {
    "logits": "head.classification_head.cls_logits", "distances": "head.regression_head.bbox_reg",
    "centerness": "head.regression_head.bbox_ctrness",
}  # fmt: skip
FCOS |= under("classify", "head.classification_head", TOWER) | under("regress", "head.regression_head", TOWER)

# of another width, the groups of its norms have another size there
fcos = Source(
    RESNET_FPN | FCOS, needs={"width": 256}, orders={FCOS["distances"]: YXYX}, former=FORMER, preprocessing=IMAGES
)

FASTER_RCNN = {
    "rpn.conv": "rpn.head.conv.0.0", "rpn.logits": "rpn.head.cls_logits", "rpn.deltas": "rpn.head.bbox_pred",
    "dense_0": "roi_heads.box_head.fc6", "dense_1": "roi_heads.box_head.fc7",
    "logits": "roi_heads.box_predictor.cls_score", "deltas": "roi_heads.box_predictor.bbox_pred",
}  # fmt: skip
faster_rcnn = Source(
    RESNET_FPN | FASTER_RCNN,
    orders={FASTER_RCNN[name]: YXYX for name in ("rpn.deltas", "deltas")},
    former=[*FORMER, (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1")],
    preprocessing=IMAGES,
)

# the last convolutions of VGG lie with those that follow them
TRUNK = vgg.convolutions(vgg.PLACES["vgg16"][:4], norm=False)
SSD = under("backbone", "backbone", TRUNK | {"stages_3_{i}.conv": "extra.0.{2i+1}"}) | {
    "rescale.gamma": "backbone.scale_weight", "fc6": "backbone.extra.0.7.1", "fc7": "backbone.extra.0.7.3",
    "narrow_{i}": "backbone.extra.{i+1}.0", "further_{i}": "backbone.extra.{i+1}.2",
    "logits_{i}": "head.classification_head.module_list.{i}", "deltas_{i}": "head.regression_head.module_list.{i}",
}  # fmt: skip
ssd = Source(
    SSD,
    orders={f"head.regression_head.module_list.{i}": YXYX for i in range(6)},
    preprocessing=Preprocessing((0.48235, 0.45882, 0.40784), (1 / 255,) * 3, size=300, resize=300),
)

NAMES = {
    "fasterrcnn_resnet50_fpn": {"torchvision": faster_rcnn}, "fcos_resnet50_fpn": {"torchvision": fcos},
    "ssd300_vgg16": {"torchvision": ssd},
}  # fmt: skip
