"""What has to hold before training starts: the map can be made, trained through, and moves the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence

import torch

from camtrain.cam.head import LINEAR_HEAD
from camtrain.cam.routes import GradientRoute, Routes
from camtrain.config.options import CamConfig, CamVariant, GradientPath, Score, ViewKind
from camtrain.data.batches import Batch
from camtrain.errors import Diverged, UserError
from camtrain.loss.criterion import CamLoss
from camtrain.loss.layer_gradient import gradient_at
from camtrain.loss.terms import NEED_REGIONS
from camtrain.networks.classifier import Classifier
from camtrain.regions import has_object


def check_routes(routes: Routes, cam: CamConfig, layer: str) -> Routes:
    """The routes that an arm is to use, given those that a probe found.

    Raises:
        UserError: the map cannot be made, or not trained through, at this layer.
    """
    closed = routes.training is routes.evaluation is GradientRoute.closed
    if routes.training is GradientRoute.mixed and cam.weight != 0:
        raise UserError(
            f"model.layer={layer}: a batch norm behind it takes its statistics from the batch, so that no image has"
            " a map of its own in training; choose a layer behind the last batch norm, or, with pretrained weights,"
            " model.batch_norm=frozen"
        )
    if cam.variant is CamVariant.cam and not closed:
        raise UserError(f"cam.variant=cam needs {LINEAR_HEAD}, which is not what follows {layer}; use cam=gradcam")
    if cam.path is GradientPath.closed and not closed:
        raise UserError(f"cam.path=closed needs {LINEAR_HEAD}, which is not what follows {layer}; use cam.path=auto")
    if cam.path is GradientPath.autograd:
        return Routes(*(GradientRoute.autograd if route is GradientRoute.closed else route for route in routes))
    return routes


def check_maps(maps: Sequence[CamVariant], routes: Routes, layer: str) -> None:
    """Refuse to measure CAM where it is not defined.

    Raises:
        UserError: `evaluate.maps` has `cam` for a head without a closed form.
    """
    if CamVariant.cam in maps and routes.evaluation is not GradientRoute.closed:
        raise UserError(f"evaluate.maps: cam needs {LINEAR_HEAD}, which is not what follows {layer}; leave it out")


def check_leaves_something(cam: CamConfig, cells: int) -> None:
    """Raise :class:`UserError` where even a map that covers all cells covers few enough of them."""
    if cam.enough is not None and cam.enough >= cells:
        raise UserError(
            f"cam.enough={cam.enough:g} leaves nothing to minimise: maps of this layer have {cells} cells; give fewer"
        )


def check_alive(network: Classifier, batches: Iterable[Batch], cam: CamConfig) -> float:
    """Norm of the CAM term's gradient on the weights below the target layer, which has to be above zero.

    A map that was detached somewhere would train nothing, and nothing else would show it. The first of the batches
    that has a gradient is enough: a fresh network may well have no map at all in a small one.

    Raises:
        UserError: the gradient is zero or not finite in every batch, or `cam.enough` leaves nothing to minimise.
        Diverged: the logits are not finite.
    """
    network = copy.deepcopy(network).train()
    # Pretrained weights may have maps that cover few enough cells: that is no fault.
    criterion = CamLoss(**{**vars(cam), "confidence_exponent": 0.0, "enough": None})
    norm, dead, count = 0.0, 0, 0
    tried = [batch.without_views() if cam.views is ViewKind.none else batch for batch in batches]
    for batch in tried:
        output = network(batch.images)
        if not bool(output.logits.isfinite().all()):
            raise Diverged("the network's logits are not finite before any training: choose other model.weights")
        check_leaves_something(cam, output.activations.shape[2] * output.activations.shape[3])
        term = criterion.term(output.logits, output.activations, batch.targets, batch.regions, True, batch.views)
        at_layer = gradient_at(output.activations, criterion.total(term)).to(output.activations.dtype)
        below = torch.autograd.grad(output.activations, list(network.parameters()), at_layer, allow_unused=True)
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in below if gradient is not None))
        if 0 < norm < math.inf:
            return norm
        dead, count = dead + int((~term.counts).sum()), count + len(term.counts)
    if cam.term in NEED_REGIONS and not any(bool(has_object(batch.regions).any()) for batch in tried):
        raise UserError(
            f"cam.term={cam.term.value} needs masks or boxes of the training images: the first batches have none"
        )
    other = " or cam.score=centred" if cam.score is Score.logit else ""
    raise UserError(
        f"the CAM term has a gradient of {norm:g} below the target layer ({dead} of {count} maps are dead):"
        f" it would train nothing; choose another model.layer{other}"
    )
