"""An arm of the experiment: a network, its optimiser and its criterion."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from camtrain.arms import BASELINE, REGULARISED
from camtrain.cam.routes import Routes
from camtrain.config.schema import OptimConfig
from camtrain.loss.balance import Balance
from camtrain.networks.classifier import Classifier
from camtrain.training.optim import make_optimiser


@dataclass
class Arm:
    """A network in training.

    `regularised` says whether the CAM term is in its loss; `balance` finds the term's weight where that is automatic.
    """

    name: str
    model: Classifier
    optimiser: torch.optim.Optimizer
    regularised: bool
    paths: Routes
    balance: Balance | None = None


def make_arms(
    model: Classifier, optim: OptimConfig, peak: float, paths: Routes, balance: Balance | None = None
) -> list[Arm]:
    """Both arms with the same initial weights, trained at the `peak` rate. The model itself becomes the baseline's."""
    other = copy.deepcopy(model)
    return [
        Arm(BASELINE, model, make_optimiser(model, optim, peak), False, paths),
        Arm(REGULARISED, other, make_optimiser(other, optim, peak), True, paths, balance),
    ]
