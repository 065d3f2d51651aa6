"""Which images are measured, drawn, and serve for what takes long: of every class its share."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from camtrain.config.schema import EvaluateConfig
from camtrain.data.images import rarest_class
from camtrain.evaluation.subset import choose_images, stratified


def of_sizes(*sizes: int) -> Tensor:
    """Class numbers, shuffled."""
    classes = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return classes[torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))]


def some(classes: Tensor, count: int, seed: int = 0) -> Tensor:
    return stratified(torch.ones(len(classes), dtype=torch.bool), count, classes, seed)


def allocated(classes: Tensor, count: int) -> list[int]:
    chosen = classes[some(classes, count)]
    assert len(chosen) == min(count, len(classes))
    return chosen.bincount(minlength=int(classes.max()) + 1).tolist()


def test_classes_get_their_share_and_one_at_least() -> None:
    assert allocated(of_sizes(50, 30, 20), 10) == [5, 3, 2]
    assert allocated(of_sizes(53, 24, 23), 7) == [3, 2, 2]  # by largest remainders 4, 2, 1
    assert allocated(of_sizes(90, 9, 1), 10) == [8, 1, 1]
    assert allocated(of_sizes(90, 9, 1), 2) == [1, 1, 0]
    assert allocated(of_sizes(5, 5), 10) == [5, 5]
    assert allocated(of_sizes(5, 5), 0) == [0, 0]
    assert sorted(allocated(torch.arange(1000) % 8, 500)) == [62] * 4 + [63] * 4


def test_every_class_has_its_share_whatever_the_order_of_the_images() -> None:
    sizes = (40, 25, 10, 5)
    for classes in (of_sizes(*sizes), of_sizes(*sizes).sort().values):
        assert allocated(classes, 16) == [8, 5, 2, 1]
    turned = 3 - of_sizes(*sizes)  # the classes in another order are the same classes
    assert torch.equal(some(turned, 17), some(of_sizes(*sizes), 17))


def test_a_choice_contains_every_smaller_one_and_depends_on_the_seed_alone() -> None:
    classes = of_sizes(37, 22, 9, 3, 1)
    choices = [some(classes, count) for count in range(len(classes) + 2)]
    for smaller, larger in itertools.pairwise(choices):
        assert bool((larger | ~smaller).all())
    chosen = choices[30]
    assert torch.equal(some(classes, 30), chosen)
    assert not torch.equal(some(classes, 30, seed=1), chosen)
    within = stratified(chosen, 10, classes, 0)
    assert int(within.sum()) == 10
    assert bool((chosen | ~within).all())
    assert stratified(chosen, 30, classes, 0) is chosen


def test_of_several_classes_the_rarest_counts() -> None:
    targets = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 0, 0]])
    assert rarest_class(targets).tolist() == [0, 1, 2, -1, 0]
    common = torch.ones(100, dtype=torch.int64)
    rare = (torch.arange(100) % 25 == 3).long()
    measured, shown = choose_images(torch.stack([common, rare], 1), EvaluateConfig(max_images=50, images=4), 0)
    assert int(rare[measured].sum()) == 2
    assert int(rare[shown].sum()) == 1


def test_shown_images_are_measured_ones_of_all_classes() -> None:
    targets = torch.arange(200) % 4
    measured, shown = choose_images(targets, EvaluateConfig(max_images=100, images=8), 0)
    assert targets[measured].bincount().tolist() == [25] * 4
    assert targets[shown].bincount().tolist() == [2] * 4
    assert bool(measured[shown].all())
    assert shown == sorted(shown)
    every, _ = choose_images(targets, EvaluateConfig(), 0)
    assert bool(every.all())
