"""What images must go through before a network with published weights sees them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NotRequired

from typing_extensions import TypedDict  # typing's own is not enough for pydantic on Python 3.11

from jaxcnn.core.schema import fitted
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in 0..1
HALF = (0.5, 0.5, 0.5)
WIDEST = 10.0  # a larger mean or standard deviation is one of pixels in 0..255
LARGEST = 8192  # side of an image in pixels
INTERPOLATIONS = ("bilinear", "bicubic")


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


# timm's names for our networks, where they differ from ours; other networks of timm, such as tf_efficientnet_b0, have
# the same parameters but a different padding or epsilon
NAMES = {
    "convnext_small": r"convnext_small(_384)?(_in22k|_in22ft1k)?",
    "convnext_tiny": r"convnext_tiny(_384)?(_in22k|_in22ft1k)?",
    "inception_v3": "(tf_|adv_|gluon_)?inception_v3",
    "mobilenet_v2": "mobilenetv2_100",
    "vit_small_patch16_224": r"(vit|deit)_small_patch16_\d+(_in21k)?",
    "vit_tiny_patch16_224": r"(vit|deit)_tiny_patch16_\d+(_in21k)?",
}
TIMM = Preprocessing(interpolation="bicubic")  # what most weights of timm want


class _Pretrained(TypedDict):
    mean: list[float]
    std: list[float]
    input_size: list[int]
    interpolation: str
    crop_pct: NotRequired[float]
    label_names: NotRequired[list[str] | None]


class _Timm(TypedDict):
    architecture: NotRequired[str | None]
    pretrained_cfg: _Pretrained
    label_names: NotRequired[list[str] | None]


class _Own(TypedDict):
    mean: NotRequired[list[float]]
    std: NotRequired[list[float]]
    size: NotRequired[int]
    resize: NotRequired[int]
    interpolation: NotRequired[str]
    classes: NotRequired[list[str]]


def from_timm(config: Mapping[str, Any], where: str = "config.json", name: str | None = None) -> Preprocessing:
    """Read the `config.json` that timm's weights have beside them.

    Args:
        config: its value.
        where: its name, for messages.
        name: our name of the network that the file must belong to; None accepts any.

    Raises:
        InputError: a field is missing or does not fit, or the file belongs to another network; one line that names it.

    """
    said = fitted(_Timm, config, where)
    theirs, trained_by = said.get("architecture"), "(gluon_|ssl_|swsl_|tv_)?"
    known = NAMES.get(name, rf"{trained_by}{re.escape(name)}(_v1b)?") if name else ".*"
    if theirs is not None and not re.fullmatch(known, theirs):
        line = f"{where}: the weights belong to {visible(theirs)[:80]}, which is a different network from {name}"
        raise InputError(f"{line}; use another file, or remove config.json if it is wrong")
    names, said = said.get("label_names"), said["pretrained_cfg"]
    names = (said.get("label_names") if names is None else names) or []
    crop, place = said.get("crop_pct", 0.875), f"{where}: pretrained_cfg"
    if not 0.01 <= crop <= 1:
        raise InputError(f"{place}.crop_pct: {crop}: must be above 0 and at most 1")
    if len(said["input_size"]) != 3:
        raise InputError(f"{place}.input_size: {str(said['input_size'])[:80]}: must be channels, height and width")
    size = said["input_size"][-1]
    found = {name: said[name] for name in ("mean", "std", "interpolation")}
    return checked({**found, "size": size, "resize": round(size / crop), "classes": names}, place)


def checked(values: Any, where: str) -> Preprocessing:
    """Return the preprocessing of values that a file states.

    Args:
        values: by the names of the fields; those that are missing are the usual ones.
        where: what states them, for messages.

    Raises:
        InputError: a value does not fit; one line that names it.

    """
    said = Preprocessing(**fitted(_Own, values, where))
    if len(said.mean) != len(said.std) or len(said.mean) not in (1, 3):
        raise InputError(
            f"{where}: mean {str(said.mean)[:80]} and std {str(said.std)[:80]}: must be one of each, or three"
        )
    if not all(abs(x) <= WIDEST for x in said.mean) or not all(1e-6 < x <= WIDEST for x in said.std):
        line = f"{where}: mean {list(said.mean)} and std {list(said.std)}: must be finite and"
        raise InputError(f"{line} describe pixels in 0..1, with std positive")
    if not (1 <= said.size <= LARGEST and 1 <= said.resize <= LARGEST):
        raise InputError(f"{where}: size {said.size} and resize {said.resize}: must be 1 to {LARGEST} pixels")
    if said.interpolation not in INTERPOLATIONS:
        raise InputError(
            f"{where}: interpolation {visible(said.interpolation)[:80]!r}: must be one of {', '.join(INTERPOLATIONS)}"
        )
    return said._replace(classes=tuple(said.classes))


def for_channels(said: Preprocessing, channels: int) -> Preprocessing:
    """Return the normalisation for images of another number of channels: the means of all, or the one for each."""
    if channels != 1 and len(said.mean) != 1 or len(said.mean) == channels:
        return said
    mean, std = (([sum(x) / len(x)] if channels == 1 else [*x] * channels) for x in (said.mean, said.std))
    return said._replace(mean=mean, std=std)
