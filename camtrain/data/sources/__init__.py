"""The table of data sets.

A source is a module, or an object, with the two functions of :class:`Source`. To add a data set, name it in
`camtrain.config.options.DatasetName` and in `conf/dataset/`, write how its splits are listed or generated, and give it
a row here. A published set needs one function from its folder to both splits, and the archives it is fetched from.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

from torchvision.datasets import CIFAR10, CIFAR100

from camtrain.config.options import DatasetName
from camtrain.data.images import Split
from camtrain.data.sources import class_folders, cub200, fake, folder, oxford_pet, python, shapes, small_arrays, voc
from camtrain.data.sources.published import Published


class Source(Protocol):
    """Where a data set comes from. Both functions raise UserError where files are missing or make no sense."""

    def splits(self, config: Any, seed: int, /) -> tuple[Split, Split]:
        """Training and validation split; generated ones are functions of the seed."""

    def validation(self, config: Any, seed: int, /) -> Split:
        """The validation split alone, which may be there without the other."""


SOURCES: Mapping[DatasetName, Source] = {
    DatasetName.shapes: shapes,
    DatasetName.fake: fake,
    DatasetName.folder: folder,
    DatasetName.python: python,
    DatasetName.voc2007: Published(partial(voc.list_voc, year="2007"), voc.ARCHIVES["2007"]),
    DatasetName.voc2012: Published(partial(voc.list_voc, year="2012"), voc.ARCHIVES["2012"]),
    DatasetName.oxford_pet: Published(oxford_pet.list_oxford_pet, oxford_pet.ARCHIVES),
    DatasetName.cub200: Published(cub200.list_cub200, cub200.ARCHIVES),
    DatasetName.cifar10: Published(partial(small_arrays.read_cifar, kind=CIFAR10), small_arrays.CIFAR10_ARCHIVES),
    DatasetName.cifar100: Published(partial(small_arrays.read_cifar, kind=CIFAR100), small_arrays.CIFAR100_ARCHIVES),
    DatasetName.fashion_mnist: Published(small_arrays.read_fashion_mnist, small_arrays.FASHION_MNIST_ARCHIVES),
    DatasetName.imagenette: Published(class_folders.list_imagenette, class_folders.IMAGENETTE_ARCHIVES),
    DatasetName.imagenet: Published(class_folders.list_imagenet),  # its publisher asks for an account
    DatasetName.eurosat: Published(class_folders.list_eurosat, class_folders.EUROSAT_ARCHIVES),
}
