"""An arm of the experiment: a network, its optimiser and its criterion."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from camtrain.cam.routes import Routes
from camtrain.config.options import CamConfig, ViewKind
from camtrain.config.schema import OptimConfig
from camtrain.distributed.ranks import ALONE, Ranks
from camtrain.loss.balance import default_share
from camtrain.loss.criterion import CamLoss, Criterion
from camtrain.networks.classifier import Classifier
from camtrain.training.checks import check_routes
from camtrain.training.optim import make_optimiser


@dataclass
class Arm:
    """A network in training."""

    name: str
    network: Classifier
    optimiser: torch.optim.Optimizer
    criterion: Criterion
    views: bool = True
    """Whether it learns from the views in its batches."""

    anchor: Classifier | None = None
    """In evaluation mode, what its predictions are held to; arms share it. None: they are not."""

    ranks: Ranks = ALONE
    """The processes that train it together."""

    failed: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Scalar: 1 once the loss or a gradient was not finite, from when on no step changes the weights; else 0."""

    def train_with(self, ranks: Ranks) -> None:
        """Let other processes train it too, each on its rows of every batch."""
        self.ranks = self.criterion.ranks = ranks


def make_arms(
    network: Classifier,
    cams: Mapping[str, CamConfig],
    routes: Routes,
    optim: OptimConfig,
    rate: float,
    pretrained: bool,
    head: str | None = None,
) -> list[Arm]:
    """Arms with the same initial weights, which are also those of the anchor until training says what it is to be. The
    network itself becomes the first one's.

    Args:
        network: with its initial weights.
        cams: of each arm, by name, the settings of its CAM term.
        routes: of the network, by :func:`camtrain.networks.capture.probe_routes`.
        optim: of all arms.
        rate: learning rate at the top of its schedule.
        pretrained: whether the weights are.
        head: part of the network that learns at its own rate, see :func:`camtrain.training.optim.make_optimiser`.

    Raises:
        UserError: an arm's map cannot be made, or not trained through, at the target layer.
    """
    held = {name for name, cam in cams.items() if cam.anchor and cam.weight != 0}
    anchor = copy.deepcopy(network).requires_grad_(False).eval() if held else None
    arms = []
    for number, (name, cam) in enumerate(cams.items()):
        own = network if number == 0 else copy.deepcopy(network)
        own.routes = check_routes(routes, cam, network.layer)
        criterion = CamLoss(only_loss=True, **{**vars(cam), "share": cam.share or default_share(pretrained)})
        views = cam.views is not ViewKind.none
        optimiser = make_optimiser(own, optim, rate, head)
        arms.append(Arm(name, own, optimiser, criterion, views, anchor if name in held else None))
    return arms
