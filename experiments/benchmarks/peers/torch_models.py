"""The benchmarked networks of `jaxcnn.models` in PyTorch: the same layers, channels and numbers of parameters."""

from collections.abc import Sequence

import torch
from torch import nn


def conv_norm(c_in: int, c_out: int, window: int, stride: int = 1, groups: int = 1, relu: bool = True) -> nn.Sequential:
    """Return a convolution without bias, batch norm, and optionally ReLU.

    Args:
        c_in: input channels.
        c_out: output channels.
        window: side of the kernel.
        stride: stride of the convolution.
        groups: groups of channels.
        relu: whether to add ReLU.

    """
    layers = [nn.Conv2d(c_in, c_out, window, stride, window // 2, groups=groups, bias=False), nn.BatchNorm2d(c_out)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class Residual(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1, added to their input."""

    def __init__(self, c_in: int, width: int, stride: int, bottleneck: bool):
        """Make the layers."""
        super().__init__()
        out = 4 * width if bottleneck else width
        if bottleneck:
            layers = [conv_norm(c_in, width, 1), conv_norm(width, width, 3, stride)]
            layers.append(conv_norm(width, out, 1, relu=False))
        else:
            layers = [conv_norm(c_in, width, 3, stride), conv_norm(width, width, 3, relu=False)]
        self.body = nn.Sequential(*layers)
        self.shortcut = nn.Identity() if stride == 1 and c_in == out else conv_norm(c_in, out, 1, stride, relu=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[B, C, H, W]` to `[B, C', H / stride, W / stride]`."""
        return self.relu(self.body(x) + self.shortcut(x))


def resnet(blocks: Sequence[int], bottleneck: bool, cifar_stem: bool, num_classes: int, width: int) -> nn.Sequential:
    """Return a residual network (He et al., 2015) like `jaxcnn.models.resnet18`.

    Args:
        blocks: number of blocks in each stage.
        bottleneck: whether blocks are 1x1, 3x3 and 1x1 convolutions.
        cifar_stem: whether the stem suits images of about 32x32.
        num_classes: number of logits.
        width: channels of the first stage.

    """
    stem = [conv_norm(3, width, 3)] if cifar_stem else [conv_norm(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)]
    layers, c_in = stem, width
    for i, count in enumerate(blocks):
        for j in range(count):
            layers.append(Residual(c_in, width << i, 2 if i and not j else 1, bottleneck))
            c_in = (width << i) * (4 if bottleneck else 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_in, num_classes))


def mobilenet(cifar_stem: bool, num_classes: int, width: float) -> nn.Sequential:
    """Return a MobileNet (Howard et al., 2017) like `jaxcnn.models.mobilenet_v1`.

    Args:
        cifar_stem: whether the stem suits images of about 32x32.
        num_classes: number of logits.
        width: factor of the channels.

    """

    def channels(n):
        return max(int(n * width), 8)

    c_in = channels(32)
    layers = [conv_norm(3, c_in, 3, 1 if cifar_stem else 2)]
    for i, widths in enumerate(((64,), (128, 128), (256, 256), (512,) * 6, (1024, 1024))):
        for j, n in enumerate(widths):
            stride = 2 if not j and i >= (2 if cifar_stem else 1) else 1
            layers += [conv_norm(c_in, c_in, 3, stride, groups=c_in), conv_norm(c_in, channels(n), 1)]
            c_in = channels(n)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_in, num_classes))
