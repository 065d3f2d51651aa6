"""Figures of maps and images as they come in, batch by batch, and their means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Measured(NamedTuple):
    """What was measured, by arm (or sharpened baseline) and tag."""

    means: dict[str, dict[str, float]]  # over maps or images; those that are not defined are left out, nan if all are
    each: dict[str, dict[str, Tensor]]  # (images,) float64, an image's mean over its maps; nan where not defined


class Values:
    """Figures of maps and images as they come in, batch by batch."""

    def __init__(self, names: Iterable[str], images: int) -> None:
        self.images = images
        self.rows: dict[str, dict[str, list[tuple[Tensor, Tensor]]]] = {name: {} for name in names}

    def add(self, name: str, numbers: Tensor, figures: Mapping[str, Tensor]) -> None:
        """Values by tag, of an arm or a map of that name, with the numbers of their images."""
        for tag, value in figures.items():
            self.rows[name].setdefault(tag, []).append((numbers, value))

    def measured(self) -> Measured:
        joined = {
            name: {
                tag: tuple(torch.cat(part).cpu() for part in zip(*parts, strict=True)) for tag, parts in of_arm.items()
            }
            for name, of_arm in self.rows.items()
        }
        means = {
            name: {tag: float(value.double().nanmean()) for tag, (_, value) in tags.items()}
            for name, tags in joined.items()
        }
        each = {
            name: {tag: self._each(numbers, value.double()) for tag, (numbers, value) in tags.items()}
            for name, tags in joined.items()
        }
        return Measured(means, each)

    def _each(self, numbers: Tensor, values: Tensor) -> Tensor:
        known = ~values.isnan()
        total, count = torch.zeros(2, self.images, dtype=torch.float64)
        total.index_add_(0, numbers[known], values[known])
        count.index_add_(0, numbers[known], torch.ones_like(values[known]))
        return torch.where(count > 0, total / count, torch.nan)


def joined(parts: Iterable[Measured]) -> Measured:
    """Several measurements as one; names and tags in the order in which they first come."""
    whole = Measured({}, {})
    for means, each in parts:
        for name in means:
            whole.means.setdefault(name, {}).update(means[name])
            whole.each.setdefault(name, {}).update(each[name])
    return whole


def tagged(group: str, figures: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the group in front of each name."""
    return {f"{group}/{name}": value for name, value in figures.items()}
