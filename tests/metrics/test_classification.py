"""Balanced accuracy against scikit-learn, and what chance gives by hand."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from camtrain.metrics.classification import balanced, chance, images_per_class


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("classes", [3, 6])
def test_balanced_accuracy_is_that_of_scikit_learn(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    target = torch.rand(60, generator=generator).square().mul(classes).long()
    target[target == 1] = 0  # a class without images
    predicted = torch.randint(classes, (60,), generator=generator)
    correct = (predicted == target).float()
    expected = balanced_accuracy_score(target.numpy(), predicted.numpy())
    assert 0 < expected < 1
    assert float(balanced(correct, target).mean()) == pytest.approx(expected, abs=1e-12)


def test_it_is_the_accuracy_where_classes_are_equally_frequent() -> None:
    correct = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    assert torch.equal(balanced(correct, torch.tensor([0, 3, 2, 3, 0, 2])), correct.double())


def test_always_saying_the_large_class_is_one_half() -> None:
    target = torch.tensor([0] * 57 + [1] * 3)
    assert float(balanced((target == 0).float(), target).mean()) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize(
    ("per_class", "images", "multilabel", "expected"),
    [
        ([57, 3], 60, False, 0.95),
        ([5, 5, 5, 5], 20, False, 0.25),
        ([0, 7, 0], 7, False, 1.0),
        ([4, 4, 0], 8, False, 0.5),
        ([10, 30, 0], 40, True, 0.5),  # a class without a positive has no average precision
    ],
)
def test_what_chance_gives(per_class: list[int], images: int, multilabel: bool, expected: float) -> None:
    assert chance(per_class, images, multilabel) == expected


def test_images_of_each_class_are_counted() -> None:
    assert images_per_class(torch.tensor([2, 0, 2]), 4).tolist() == [1, 0, 2, 0]
    assert images_per_class(torch.tensor([[1, 1, 0], [0, 1, 0]]), 3).tolist() == [1, 2, 0]
