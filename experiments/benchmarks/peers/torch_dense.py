"""The benchmarked networks of segmentation and detection in PyTorch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class UNet(nn.Module):
    """The same layers, channels and parameters as `jaxcnn.models.unet`, in two or three dimensions."""

    def __init__(self, channels: int, classes: int, widths: Sequence[int], dims: int):
        """Make the layers."""
        super().__init__()
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        up = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
        self.pool = nn.MaxPool2d(2) if dims == 2 else nn.MaxPool3d(2)

        def block(c_in: int, c_out: int) -> nn.Sequential:
            layers = []
            for c in (c_in, c_out):
                layers += [conv(c, c_out, 3, padding=1, bias=False), norm(c_out), nn.ReLU(inplace=True)]
            return nn.Sequential(*layers)

        pairs = list(zip(widths, widths[1:], strict=False))
        self.down = nn.ModuleList(block(a, b) for a, b in [(channels, widths[0]), *pairs])
        self.up = nn.ModuleList(up(b, a, 2, 2) for a, b in pairs)
        self.merge = nn.ModuleList(block(2 * a, a) for a, _ in pairs)
        self.logits = conv(widths[0], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[B, C, *spatial]` to logits `[B, K, *spatial]`."""
        found = []
        for i, block in enumerate(self.down):
            x = block(self.pool(x) if i else x)
            found.append(x)
        for i in reversed(range(len(self.up))):
            x = self.merge[i](torch.cat([found[i], self.up[i](x)], 1))
        return self.logits(x)


def fcos(classes: int, width: int, shape: Sequence[int]) -> Any:
    """Return torchvision's FCOS on a ResNet-18 whose norms are trained, for images of one size."""
    from torchvision.models import resnet18
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    levels = {f"layer{i}": str(i - 2) for i in (2, 3, 4)}
    body = BackboneWithFPN(resnet18(weights=None), levels, [128, 256, 512], width, LastLevelP6P7(width, width))
    return FCOS(body, classes, min_size=min(shape), max_size=max(shape))
