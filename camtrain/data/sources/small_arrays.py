"""Published sets of small images that are stored as arrays, without masks or boxes, read by torchvision."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.datasets import CIFAR10, CIFAR100, FashionMNIST

from camtrain.data.download import Archive
from camtrain.data.images import StoredImages, in_memory

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


def read_cifar(root: Path, kind: type[CIFAR10] | type[CIFAR100]) -> tuple[StoredImages, StoredImages]:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009): the published training and test images."""

    def stored(found: CIFAR10 | CIFAR100) -> StoredImages:
        return in_memory(found.classes, torch.from_numpy(found.data).permute(0, 3, 1, 2), torch.tensor(found.targets))

    return stored(kind(root, train=True)), stored(kind(root, train=False))


def read_fashion_mnist(root: Path) -> tuple[StoredImages, StoredImages]:
    """Fashion-MNIST (Xiao et al. 2017), grey as three equal channels: the published training and test images."""

    def stored(found: FashionMNIST) -> StoredImages:
        return in_memory(found.classes, found.data[:, None].expand(-1, 3, -1, -1), found.targets.long())

    return stored(FashionMNIST(root, train=True)), stored(FashionMNIST(root, train=False))
