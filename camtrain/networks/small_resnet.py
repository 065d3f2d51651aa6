"""A small residual network for embedded use: the default backbone.

78 thousand weights for eight classes, stride 8, global average pooling and one linear layer, so that its map has the
closed form. Its maps lie in the right place by construction: what halves the grid is even, a kernel of 4 x 4 and pools
of 2 x 2, and so centred between the pixels that it joins; the cells are equal tiles of the image, as everybody draws
them. With the usual 3 x 3 kernels of stride 2 they lie half a cell up and left.
"""

from __future__ import annotations

from torch import Tensor, nn


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch norm and a shortcut (basic block of He et al., CVPR 2016).

    Args:
        channels_in: before the block.
        channels: behind it.
        stride: 1, or 2: the grid is halved by a max pool before the block, or as published by the first convolution.
        tiles: by a pool.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, tiles: bool) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2) if stride == 2 and tiles else nn.Identity()
        stride = 1 if tiles else stride
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        same = stride == 1 and channels_in == channels
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
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
