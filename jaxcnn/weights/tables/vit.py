"""Vision transformers, in timm's names."""

from jaxcnn.weights.preprocessing import HALF, Preprocessing
from jaxcnn.weights.tables.core import Block, Source

PARTS = {
    "norm1": "norm1", "attention.qkv": "attn.qkv", "attention.out": "attn.proj",
    "norm2": "norm2", "dense1": "mlp.fc1", "dense2": "mlp.fc2",
}  # fmt: skip

timm = Source(
    {"stem": "patch_embed.proj", "token": "cls_token", "positions": "pos_embed", "norm": "norm", "logits": "head"},
    [Block("blocks_{i}", "blocks.{i}", PARTS)],
    preprocessing=Preprocessing(HALF, HALF, resize=249, interpolation="bicubic"),
)

NAMES = {"vit_small_patch16_224": {"timm": timm}, "vit_tiny_patch16_224": {"timm": timm}}
