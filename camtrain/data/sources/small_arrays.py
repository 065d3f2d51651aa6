"""Published sets of small images that are stored as arrays, without masks or boxes, read by torchvision."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.datasets import CIFAR10, CIFAR100, FashionMNIST

from camtrain.data.download import Archive
from camtrain.data.images import StoredImages

_TORONTO = "https://www.cs.toronto.edu/~kriz"

_ZALANDO = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"

CIFAR10_ARCHIVES = (Archive(f"{_TORONTO}/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),)

CIFAR100_ARCHIVES = (Archive(f"{_TORONTO}/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),)

FASHION_MNIST_ARCHIVES = tuple(
    Archive(f"{_ZALANDO}/{name}", md5, "FashionMNIST/raw")
    for name, md5 in (
        ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
        ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
        ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
    )
)


def read_cifar(root: Path, kind: type[CIFAR10] | type[CIFAR100], size: int) -> tuple[StoredImages, StoredImages]:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009): the published training and test images."""
    train, test = (kind(root, train=training) for training in (True, False))
    first, second = (
        _stored(found.classes, torch.from_numpy(found.data).permute(0, 3, 1, 2), torch.tensor(found.targets), size)
        for found in (train, test)
    )
    return first, second


def read_fashion_mnist(root: Path, size: int) -> tuple[StoredImages, StoredImages]:
    """Fashion-MNIST (Xiao et al. 2017), grey as three equal channels: the published training and test images."""
    train, test = (FashionMNIST(root, train=training) for training in (True, False))
    first, second = (
        _stored(found.classes, found.data[:, None].expand(-1, 3, -1, -1), found.targets.long(), size)
        for found in (train, test)
    )
    return first, second


def _stored(classes: list[str], images: Tensor, targets: Tensor, size: int) -> StoredImages:
    """Stretched to the network's size where they have another."""
    if images.shape[-1] != size:
        parts = [
            interpolate(
                images[at : at + 1000].float(), (size, size), mode="bilinear", antialias=True, align_corners=False
            )
            for at in range(0, len(images), 1000)
        ]
        images = torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])
    sizes = torch.tensor([[size, size]]).expand(len(images), 2)
    return StoredImages(classes, images, targets, None, sizes, with_region=0)
