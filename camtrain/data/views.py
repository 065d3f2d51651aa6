r"""Further views of some images of a batch, by known transformations.

A view :math:`g x` is given by a matrix for each image: the pixel at :math:`(r, c)` of the view, counted from its
middle, shows what lies at :math:`M (r, c, 1)` in the image, counted from its own. The same matrix moves the image's map
(:mod:`camtrain.loss.consistency`), so that the two can be compared.

Views are made once, as a part of the batch: every arm gets the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from camtrain.config.options import ViewKind
from camtrain.errors import UserError
from camtrain.regions import VOID

ZOOM = (0.5, 1.2)
"""Smallest and largest side of a pasted image, as a share of the view's."""

REACH = 0.25
"""Share of the view's side over which the place of a pasted image varies, beyond what leaves it whole or fills it."""


class Views(NamedTuple):
    """Views of images of a batch; in a batch they stand behind these."""

    rows: Tensor  # (views,) int64, numbers of the images
    matrix: Tensor  # (views, 2, 3) float32: from pixels of the view to pixels of the image, rows first
    size: tuple[int, int]  # height and width of the images
    behind: Tensor | None = None  # (views,) int64, numbers of the images that fill what a view leaves free

    @property
    def classified(self) -> bool:
        """Whether the classification loss counts them: not where two images are in one."""
        return self.behind is None

    def select(self, chosen: Tensor) -> Views:
        """Some of them, by (views,) bool."""
        behind = None if self.behind is None else self.behind[chosen]
        return Views(self.rows[chosen], self.matrix[chosen], self.size, behind)

    def behind_rows(self) -> list[int]:
        """Numbers of the images that fill what views leave free, each once."""
        return [] if self.behind is None else sorted(set(self.behind.tolist()))

    def renumbered(self, number: Mapping[int, int]) -> Views:
        """The same in a batch in which the images have other numbers."""
        rows, behind = (
            None if part is None else torch.tensor([number[row] for row in part.tolist()], dtype=torch.int64)
            for part in (self.rows, self.behind)
        )
        assert rows is not None
        return Views(rows, self.matrix, self.size, behind)


def check_view_kind(kind: ViewKind, size: tuple[int, int], multilabel: bool, key: str) -> None:
    """Raise :class:`UserError` for views that cannot be made of such images.

    Args:
        kind: how.
        size: height and width of the images.
        multilabel: whether they have several classes.
        key: of the setting.
    """
    if kind in (ViewKind.auto, ViewKind.none):
        raise UserError(f"{key}={kind.value} does not fit; it must be mirror, symmetries or paste")
    if kind is ViewKind.symmetries and size[0] != size[1]:
        raise UserError(f"{key}=symmetries needs square images, not {size[0]} x {size[1]}: use mirror")
    if kind is ViewKind.paste and multilabel:
        raise UserError(f"{key}=paste: images have several classes, so that none is of another class; use mirror")


def draw_views(
    kind: ViewKind, share: float, targets: Tensor, size: tuple[int, int], generator: np.random.Generator
) -> Views:
    """Views of a share of the images, but at least of one: of the first ones, a batch being in random order.

    Args:
        kind: mirror: left and right exchanged; symmetries: one of the seven symmetries of the square that change it;
            paste: the image, mirrored or not, at another size and place before an image of another class.
        share: of the images that get a view.
        targets: (batch,) int64, or (batch, classes), of the images.
        size: height and width of the images.
        generator: of what is drawn.
    """
    count = min(len(targets), max(1, round(share * len(targets))))
    rows, draws = torch.arange(count), torch.from_numpy(generator.random((count, 4)))
    matrix = torch.zeros(count, 2, 3, dtype=torch.float64)
    if kind is ViewKind.paste:
        zoom = ZOOM[0] * (ZOOM[1] / ZOOM[0]) ** draws[:, 0]
        matrix[:, 0, 0] = 1 / zoom
        matrix[:, 1, 1] = (1 - 2 * (draws[:, 1] < 0.5).double()) / zoom
        reach = ((1 - zoom).abs() + REACH) / zoom
        matrix[:, :, 2] = (draws[:, 2:] - 0.5) * reach[:, None] * torch.tensor(size)
        return Views(rows, matrix.float(), size, _of_another_class(targets, rows))
    number = torch.ones(count) if kind is ViewKind.mirror else 1 + (7 * draws[:, 0]).floor()
    across, down, straight = (1.0 - 2.0 * (number.long() >> bit & 1) for bit in range(3))
    matrix[:, 0, 0], matrix[:, 1, 1] = down * (straight > 0), across * (straight > 0)
    matrix[:, 0, 1], matrix[:, 1, 0] = down * (straight < 0), across * (straight < 0)
    return Views(rows, matrix.float(), size)


def _of_another_class(targets: Tensor, rows: Tensor) -> Tensor:
    """For each image the next one of another class, or, where there is none, the next one."""
    order = (rows[:, None] + torch.arange(1, len(targets) + 1)) % len(targets)
    other = targets[order] != targets[rows][:, None]
    return order[torch.arange(len(rows)), other.int().argmax(1)]


def with_views(images: Tensor, regions: Tensor, views: Views) -> tuple[Tensor, Tensor]:
    """The images and their regions with those of the views behind them.

    Args:
        images: (batch, channels, height, width) floats.
        regions: (batch, height, width) uint8; of what fills a view they know nothing: void.
        views: of these images.

    Returns:
        (batch + views, channels, height, width); (batch + views, height, width).
    """
    rows, matrix = (part.to(images.device, non_blocking=True) for part in (views.rows, views.matrix))
    matrix = matrix.to(images.dtype)
    middle = [(side - 1) / 2 for side in views.size]
    down, across = (
        torch.arange(side, device=images.device, dtype=images.dtype) - half
        for side, half in zip(views.size, middle, strict=True)
    )
    place = torch.stack(torch.meshgrid(down, across, indexing="ij"), -1)
    at = place @ matrix[:, None, :, :2].mT + matrix[:, None, None, :, 2]
    inside = (at[..., 0].abs() <= middle[0] + 0.5) & (at[..., 1].abs() <= middle[1] + 0.5)
    # As grid_sample counts: columns first, from -1 to 1 between the centres of the outermost pixels.
    grid = torch.stack([at[..., axis] / max(middle[axis], 0.5) for axis in (1, 0)], -1)

    def sampled(values: Tensor, exact: bool) -> Tensor:
        mode = "nearest" if exact else "bilinear"
        return grid_sample(values, grid, mode=mode, padding_mode="border", align_corners=True)

    seen = sampled(images[rows], exact=views.classified)
    if views.behind is not None:
        seen = torch.where(inside[:, None], seen, images[views.behind.to(images.device, non_blocking=True)])
    of_views = sampled(regions[rows][:, None].to(images.dtype), exact=True)[:, 0].to(regions.dtype)
    return torch.cat([images, seen]), torch.cat([regions, torch.where(inside, of_views, VOID)])
