"""The file of Python that makes a network in PyTorch."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn.deploy.torch.twin import Twin
from jaxcnn.version import __version__

HEAD = '''"""A network for PyTorch, exported by jaxcnn {version}: `load()` returns it with its weights.

{takes}
The weights lie beside this file, with the same name and the ending .safetensors.
"""

import pathlib

import torch
from torch import nn
{functional}
RUN, STEP = {run}, {step}
CLASSES = {classes}
'''
NETWORK = '''

class Network(nn.Module):
    """The network, and before it what images go through."""

    def __init__(self):
        super().__init__()
{made}
        self.network = network
        self.register_buffer("mean", torch.tensor({mean}).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor({std}).reshape(-1, 1, 1), persistent=False)

    def forward(self, image):
        """Return {returns}."""
{steps}
        return self.network(image)


def load(weights=None, device="cpu"):
    """Return the network in evaluation mode, with the weights of a file, by default the one beside this."""
    from safetensors.torch import load_file

    model = Network()
    path = pathlib.Path(__file__).with_suffix(".safetensors") if weights is None else weights
    model.network.load_state_dict(load_file(str(path)))
    return model.to(device).eval()
'''
INSIDE = """It takes images [B, {c}, {h}, {w}]: float in 0..1, or uint8 in 0..255. It scales, resizes and normalises
them itself, so that gradients reach the pixels."""
OUTSIDE = """It takes images [B, {c}, {h}, {w}], float, that the caller has scaled, resized and normalised."""


def source(twin: Twin, about: Mapping[str, Any], shape: Sequence[int], returns: str, how: Mapping[str, Any]) -> str:
    """Return the file.

    Args:
        twin: the network.
        about: what is known of the run.
        shape: height, width and channels of the images.
        returns: what the network gives.
        how: what the images go through, see `tasks.prepare`; empty if the caller does that.

    """
    height, width, channels = shape
    inside = about["preprocessing"] == "inside"
    takes = (INSIDE if inside else OUTSIDE).format(c=channels, h=height, w=width)
    parts = f"\n{twin.parts.rstrip()}\n" if twin.parts else ""
    steps = _steps(shape, how, inside)
    functional = "from torch.nn import functional\n" if " functional." in parts + "".join(steps) else ""
    head = HEAD.format(
        version=__version__, takes=takes, run=ascii(about.get("run", "model")), step=about["step"],
        classes=ascii(list(about["classes"] or ())), functional=functional,
    )  # fmt: skip
    body = NETWORK.format(
        made=indented(twin.made), mean=_list(how.get("mean", 0.0)), std=_list(how.get("std", 1.0)), returns=returns,
        steps=indented(steps),
    )  # fmt: skip
    return head + parts + body


def _steps(shape: Sequence[int], how: Mapping[str, Any], inside: bool) -> list[str]:
    """Return the lines that prepare images."""
    if not inside:
        return []
    lines = ["if image.dtype == torch.uint8:", "    image = image / 255"]
    if how.get("size"):
        size, resize, sides = tuple(how["size"]), how.get("resize"), shape[:2]
        whole = tuple(max(size[i], round(n * resize / min(sides))) for i, n in enumerate(sides)) if resize else size
        if whole != tuple(sides):
            mode = how.get("interpolation", "bilinear")
            options = f'{whole}, mode="{mode}", antialias=True'
            lines += [f"image = functional.interpolate(image, {options}).clamp(0, 1)"]
        if whole != size:
            top, left = ((n - m) // 2 for n, m in zip(whole, size, strict=True))
            lines += [f"image = image[..., {top} : {top + size[0]}, {left} : {left + size[1]}]"]
    return [*lines, "image = (image - self.mean) / self.std"]


def _list(values: Any) -> str:
    return repr([float(x) for x in (values if isinstance(values, Sequence) else [values])])


def indented(lines: Sequence[str]) -> str:
    """Return lines as the body of a method."""
    return textwrap.indent("\n".join(lines), " " * 8)
