"""Oxford-IIIT Pet (Parkhi et al. 2012): 37 breeds of cats and dogs, with trimaps: animal, background, and a
border between them that is void."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import OxfordIIITPet

from camtrain.data.download import Archive
from camtrain.data.listing import Listing, Mask, Region
from camtrain.regions import VOID

_PUBLISHED = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"

ARCHIVES = (
    Archive(f"{_PUBLISHED}/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c", "oxford-iiit-pet"),
    Archive(f"{_PUBLISHED}/annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f", "oxford-iiit-pet"),
)


def list_oxford_pet(root: Path) -> tuple[Listing, Listing]:
    """Training and validation split: the published trainval and test splits."""
    meaning = np.zeros(256, np.uint8)
    meaning[[1, 3]] = 1, VOID  # 1 animal, 2 background, 3 border
    train, val = (OxfordIIITPet(root, split=split) for split in ("trainval", "test"))

    def listed(found: OxfordIIITPet) -> Listing:
        paths, masks = ([Path(path) for path in part] for part in (found._images, found._segs))
        regions: list[Region] = [Mask(mask) if mask.is_file() else None for mask in masks]
        return Listing(train.classes, paths, torch.tensor(found._labels), regions, meaning)

    return listed(train), listed(val)
