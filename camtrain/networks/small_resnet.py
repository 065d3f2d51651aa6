"""A small residual network for embedded use: the default backbone.

65 thousand weights for eight classes, stride 8, global average pooling and one linear layer, so that its map has the
closed form. Its maps lie in the right place by construction: what halves the grid has an even kernel, centred between
the pixels that it joins, so that the cells are equal tiles of the image, as everybody draws them. With the usual 3 x 3
kernels of stride 2 (and with 1 x 1 kernels of stride 2 in the shortcuts, which see one pixel of four) they lie half a
cell up and left.
"""

from __future__ import annotations

from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions with batch norm and a shortcut (basic block of He et al., CVPR 2016).

    Args:
        channels_in: before the block.
        channels: behind it.
        stride: 1, or 2: the first convolution halves the grid, in the shortcut averages do (as ResNet-D of He et al.,
            CVPR 2019).
        tiles: with even kernels; False: as published.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, tiles: bool) -> None:
        super().__init__()
        kernel, padding = (2, 0) if stride == 2 and tiles else (3, 1)
        self.conv1 = nn.Conv2d(channels_in, channels, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        averages = [nn.AvgPool2d(2)] if stride == 2 and tiles else []
        one = nn.Conv2d(channels_in, channels, 1, 1 if tiles else stride, bias=False)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and channels_in == channels
            else nn.Sequential(*averages, one, nn.BatchNorm2d(channels))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu(y + self.shortcut(x))
        return out


class SmallResNet(nn.Module):
    """Stem of stride 2, three stages of width, 2 x width and 4 x width channels at strides 2, 4 and 8.

    Args:
        num_classes: outputs.
        width: channels of the stem; multiples of 16 suit vector units.
        channels: of the images.
        tiles: the cells of the map are equal tiles of the image; False: the network of former versions.
    """

    def __init__(self, num_classes: int, width: int = 16, channels: int = 3, tiles: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 4 if tiles else 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = Block(width, width, 1, tiles)
        self.layer2 = Block(width, 2 * width, 2, tiles)
        self.layer3 = Block(2 * width, 4 * width, 2, tiles)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits
