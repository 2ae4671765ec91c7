"""What images must go through before a network with published weights sees them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in 0..1
HALF = (0.5, 0.5, 0.5)


class Preprocessing(NamedTuple):
    """The shorter side brought to `resize`, a square of `size` cut from the middle, scaled to 0..1, normalised.

    Attributes:
        mean: of the training pixels in 0..1, one a channel.
        std: likewise, the standard deviation.
        size: side of the square, in pixels.
        resize: what the shorter side is brought to first.
        interpolation: `"bilinear"` or `"bicubic"`.
        classes: names in the order of the logits; empty where the file does not say.

    """

    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD
    size: int = 224
    resize: int = 256
    interpolation: str = "bilinear"
    classes: Sequence[str] = ()


# where they differ from ImageNet's usual: torchvision's first weights of each network
TORCHVISION: dict[str, dict[str, Any]] = {
    "convnext_tiny": {"resize": 236},
    "convnext_small": {"resize": 230},
    "efficientnet_b0": {"interpolation": "bicubic"},
    "efficientnet_b1": {"size": 240, "interpolation": "bicubic"},
    "efficientnet_b2": {"size": 288, "resize": 288, "interpolation": "bicubic"},
    "efficientnet_b3": {"size": 300, "resize": 320, "interpolation": "bicubic"},
    "googlenet": {"mean": HALF, "std": HALF},  # its own normalisation of normalised pixels, in one
    "inception_v3": {"mean": HALF, "std": HALF, "size": 299, "resize": 342},
}


def published(name: str, source: str) -> Preprocessing:
    """Return what torchvision's weights of this network want, or for `"timm"` what most of its weights do.

    timm has several weights of each network; `from_timm` reads what is said beside them.
    """
    if source == "timm":
        half = name.startswith("vit_") or name == "inception_v3"
        size = 299 if name == "inception_v3" else 224
        crop = 0.9 if name.startswith("vit_") else 0.875
        mean, std = (HALF, HALF) if half else (MEAN, STD)
        return Preprocessing(mean, std, size, round(size / crop), "bicubic")
    return Preprocessing(**TORCHVISION.get(name, {}))


def from_timm(config: Mapping[str, Any]) -> Preprocessing:
    """Read the `config.json` that timm's weights have beside them."""
    said = config["pretrained_cfg"]
    size = said["input_size"][-1]
    names = config.get("label_names") or said.get("label_names") or ()
    return Preprocessing(said["mean"], said["std"], size, round(size / said.get("crop_pct", 0.875)), said["interpolation"], tuple(names))
