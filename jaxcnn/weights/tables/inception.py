"""The first and the third Inception: our units have the names of the paper's code, and blocks are named here."""

from jaxcnn.weights.preprocessing import HALF, Preprocessing
from jaxcnn.weights.tables.core import Block, Source, conv_norm, under

UNITS = {"{unit}.conv": "{unit}.conv", "{unit}.norm": "{unit}.bn"}
STEM = under("stem", "", UNITS) | under("stages_0_0", "", UNITS)  # these units stand alone
V3_BLOCKS = {
    "stages_1_0": "Mixed_5b", "stages_1_1": "Mixed_5c", "stages_1_2": "Mixed_5d",
    "stages_2_0": "Mixed_6a", "stages_2_1": "Mixed_6b", "stages_2_2": "Mixed_6c", "stages_2_3": "Mixed_6d",
    "stages_2_4": "Mixed_6e",
    "stages_3_0": "Mixed_7a", "stages_3_1": "Mixed_7b", "stages_3_2": "Mixed_7c",
}  # fmt: skip
V3_AUXILIARY = (
    under("conv0", "conv0", conv_norm("conv", "bn"))
    | under("conv1", "conv1", conv_norm("conv", "bn"))
    | {"logits": "fc"}
)
V1_BLOCKS = {
    "stages_1_0": "inception3a", "stages_1_1": "inception3b",
    "stages_2_0": "inception4a", "stages_2_1": "inception4b", "stages_2_2": "inception4c", "stages_2_3": "inception4d",
    "stages_2_4": "inception4e",
    "stages_3_0": "inception5a", "stages_3_1": "inception5b",
}  # fmt: skip
# torchvision's branches are lists, but for the first, which is a single unit
V1_UNITS = {
    "branch{b}_{k}.conv": "branch{b}.{k}.conv", "branch{b}_{k}.norm": "branch{b}.{k}.bn",
    "branch{b}.conv": "branch{b}.conv", "branch{b}.norm": "branch{b}.bn",
}  # fmt: skip
V1_AUXILIARY = under("conv", "conv", conv_norm("conv", "bn")) | {"dense": "fc1", "logits": "fc2"}


inception_v3 = Source(
    STEM | {"logits": "fc"} | under("extra_0", "AuxLogits", V3_AUXILIARY),
    [Block(here, there, UNITS) for here, there in V3_BLOCKS.items()],
    auxiliary=("AuxLogits",),
    preprocessing=Preprocessing(HALF, HALF, size=299, resize=342),
)
googlenet = Source(
    STEM | {"logits": "fc"} | under("extra_0", "aux1", V1_AUXILIARY) | under("extra_1", "aux2", V1_AUXILIARY),
    [Block(here, there, V1_UNITS) for here, there in V1_BLOCKS.items()],
    auxiliary=("aux1", "aux2"),
    preprocessing=Preprocessing(HALF, HALF),  # its own normalisation of normalised pixels, in one
)

NAMES = {
    "inception_v3": {
        "torchvision": inception_v3,
        "timm": inception_v3._replace(preprocessing=inception_v3.preprocessing._replace(interpolation="bicubic")),
    },
    "googlenet": {"torchvision": googlenet},
}
