"""Which images serve for what takes long."""

from __future__ import annotations

import torch

from camtrain.evaluation.subset import evenly_spaced


def test_a_part_of_the_images_is_spread_over_all_of_them() -> None:
    chosen = torch.arange(100) % 2 == 0
    some = evenly_spaced(chosen, 10)
    assert some.nonzero().flatten().tolist() == list(range(0, 100, 10))
    assert bool((chosen | ~some).all())
    assert int(evenly_spaced(chosen, 60).sum()) == 50
    assert int(evenly_spaced(chosen, 0).sum()) == 0
    nested = evenly_spaced(some, 3)
    assert int(nested.sum()) == 3
    assert bool((some | ~nested).all())
