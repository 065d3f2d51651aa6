"""Masks of regions."""

from __future__ import annotations

import torch

from camtrain.regions import VOID, has_object, known_mask, object_mask


def test_void_is_neither_object_nor_known() -> None:
    regions = torch.tensor([[[0, 1], [VOID, 7]], [[0, 0], [VOID, 0]]], dtype=torch.uint8)
    assert object_mask(regions).tolist() == [[[False, True], [False, True]], [[False, False], [False, False]]]
    assert known_mask(regions)[0].tolist() == [[True, True], [False, True]]
    assert has_object(regions).tolist() == [True, False]
