r"""Contrastive Grad-CAM consistency (CGC): the map should follow its image more closely than other maps do.

.. math::
    C_i = -\ln \frac{\exp(\cos(P(g x_i), g P(x_i)) / \tau)}
    {\exp(\cos(P(g x_i), g P(x_i)) / \tau) + \sum_{j \ne i} \exp(\cos(P(g x_i), P(g x_j)) / \tau)}

with g a known transformation of the image, and the same of its map (:func:`camtrain.loss.consistency.moved`), and j the
other images of which the batch holds a view and whose map is alive. It is 0 where there are none. The gradient goes
through all maps. Costs what :mod:`camtrain.loss.consistency` costs.

Source: Pillai et al., CVPR 2022, arXiv 2110.00527; :math:`\tau` and the weight, both 0.5, are those of their command
for ImageNet. There maps are of the class that is predicted for :math:`x`, products with the gradient cell by cell
(`hirescam`; behind global pooling and one linear layer `gradcam` is the same), and are compared when stretched to the
image; here they are of the true class and compared cell by cell, where both are known. It is their loss with
`cam.term=none cam.contrastive=1 cam.weight=0.5 cam.confidence_exponent=0 cam.conflict=keep cam.score=logit
cam.views_share=1`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from camtrain.cam.stretch import Placement
from camtrain.distributed.ranks import ALONE, Ranks
from camtrain.loss.consistency import compared

TEMPERATURE = 0.5
"""Of the published command."""


def contrastive(
    shares: Tensor,
    of_views: Tensor,
    matrix: Tensor,
    size: tuple[int, int],
    rows: Tensor,
    placement: Placement | None = None,
    ranks: Ranks = ALONE,
) -> Tensor:
    r""":math:`C` of each view, (views,); 0 where one of both maps is dead, or nothing of it in view.

    Args:
        shares: :math:`P(x)`, (views, height, width), of the image of each view.
        of_views: :math:`P(g x)`, the same of the view.
        matrix: (views, 2, 3), see :mod:`camtrain.data.views`.
        size: height and width of the images.
        rows: (views,) number of the image of each view: maps of one image are not contrasted with each other.
        placement: where the cells lie in them; None: in equal tiles.
        ranks: the other images are those of all of them.
    """
    pair = compared(shares, of_views, matrix, size, placement)
    query, key = _of_length_one(pair.found), _of_length_one(pair.expected)
    alike = (query * key).sum(1, keepdim=True) / TEMPERATURE
    everybody, of_image = ranks.gathered(query), ranks.gathered(rows * ranks.size + ranks.rank)
    alive = everybody.detach().square().sum(1) > 0
    others = ((rows * ranks.size + ranks.rank)[:, None] != of_image[None, :]) & alive[None, :]
    against = (query @ everybody.mT / TEMPERATURE).masked_fill(~others, -torch.inf)
    return (torch.cat([alike, against], 1).logsumexp(1) - alike[:, 0]) * pair.both


def _of_length_one(shares: Tensor) -> Tensor:
    """Maps as vectors, (views, cells), those that are not 0 divided by their length."""
    vectors = shares.flatten(1)
    square = vectors.square().sum(1, keepdim=True)
    return vectors / square.masked_fill(square == 0, 1.0).sqrt()
