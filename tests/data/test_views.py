"""Views: which pixels they show, whose regions go with them, and that they depend on seed, epoch and step alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from camtrain.config.options import DatasetName, ViewKind
from camtrain.config.schema import FakeConfig
from camtrain.data.augment import Augmentation
from camtrain.data.batches import Batch, Batching, training_batches
from camtrain.data.build import build
from camtrain.data.views import draw_views, with_views
from camtrain.regions import VOID

IMAGES = torch.rand(14, 3, 12, 12)
REGIONS = torch.randint(0, 3, (14, 12, 12), dtype=torch.uint8)
TARGETS = torch.arange(14) % 3


def test_symmetries_are_turns_and_mirror_images() -> None:
    views = draw_views(ViewKind.symmetries, 1.0, TARGETS, (12, 12), np.random.default_rng(0))
    images, regions = with_views(IMAGES, REGIONS, views)
    assert torch.equal(images[:14], IMAGES)
    assert torch.equal(regions[:14], REGIONS)
    found = set()
    for number in range(14):
        all_eight = {
            (turns, mirrored): torch.rot90(torch.cat([IMAGES[number], REGIONS[number, None]]), turns, (1, 2)).flip(
                (2,) if mirrored else ()
            )
            for turns in range(4)
            for mirrored in (False, True)
        }
        (which,) = (
            key
            for key, whole in all_eight.items()
            if torch.equal(whole, torch.cat([images[14 + number], regions[14 + number, None]]))
        )
        found.add(which)
    assert (0, False) not in found
    assert len(found) > 4


def test_a_mirror_on_images_of_any_shape_and_share() -> None:
    images, regions = IMAGES[:, :, :7], REGIONS[:, :7]
    views = draw_views(ViewKind.mirror, 0.25, TARGETS, (7, 12), np.random.default_rng(0))
    together, with_regions = with_views(images, regions, views)
    assert views.rows.tolist() == [0, 1, 2, 3]
    assert views.classified
    assert torch.equal(together[14:], images[:4].flip(3))
    assert torch.equal(with_regions[14:], regions[:4].flip(2))
    assert len(draw_views(ViewKind.mirror, 0.001, TARGETS, (7, 12), np.random.default_rng(0)).rows) == 1


def test_pasted_images_lie_before_one_of_another_class() -> None:
    views = draw_views(ViewKind.paste, 1.0, TARGETS, (12, 12), np.random.default_rng(0))
    assert not views.classified
    assert views.behind is not None
    assert (TARGETS[views.behind] != TARGETS[views.rows]).all()
    flat = torch.arange(14.0)[:, None, None, None].expand(14, 1, 12, 12)
    together, regions = with_views(flat, REGIONS, views)
    own, behind = flat[views.rows], flat[views.behind]
    of_views = together[14:]
    assert ((of_views - own).abs().minimum((of_views - behind).abs()) < 1e-4).all()
    free = ((of_views - behind).abs() < 1e-4)[:, 0]
    assert (regions[14:][free] == VOID).all()
    assert 0.1 < free.float().mean() < 0.9
    zoom = 1 / views.matrix[:, 0, 0]
    assert ((zoom >= 0.5) & (zoom <= 1.2)).all()
    assert (views.matrix[:, 1, 1] < 0).any()


@pytest.mark.parametrize("kind", [ViewKind.mirror, ViewKind.paste])
def test_views_do_not_depend_on_where_training_begins(kind: ViewKind) -> None:
    train_set, _ = build(FakeConfig(name=DatasetName.fake, image_size=16, train=20), 0)

    def batches(threads: int, start: tuple[int, int]) -> list[Batch]:
        batching = Batching(4, threads=threads, views=kind, views_share=0.5)
        return list(training_batches(train_set, batching, 2, 0, Augmentation(flip=True), (16, 16), start))

    whole, rest = batches(1, (0, 0)), batches(3, (1, 2))
    for one, other in zip(whole[-len(rest) :], rest, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets, other.targets)
        assert len(one.images) == 6
        assert one.classified == (4 if kind is ViewKind.paste else 6)
