"""What has to hold before training starts: the map can be made, trained through, and moves the weights."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from camtrain.cam.routes import GradientRoute, Routes, probe
from camtrain.config.options import CamVariant, GradientPath, Score, Term
from camtrain.config.schema import CamConfig
from camtrain.data.batches import Batch
from camtrain.errors import UserError
from camtrain.networks.classifier import Classifier
from camtrain.regions import has_object
from camtrain.training.step import gradient_at, term_of

LINEAR_HEAD = "global average pooling followed by one linear layer"


def check_path(paths: Routes, cam: CamConfig, layer: str) -> Routes:
    """The paths to use, given those that a probe found.

    Raises:
        UserError: the map cannot be made, or not trained through, at this layer.
    """
    training, evaluation = paths
    closed = training is evaluation is GradientRoute.closed
    if training is GradientRoute.mixed and cam.weight != 0:
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
        return Routes(*(GradientRoute.autograd if path is GradientRoute.closed else path for path in paths))
    return paths


def check_maps(maps: Sequence[CamVariant], paths: Routes, layer: str) -> None:
    """Refuse to measure CAM where it is not defined.

    Raises:
        UserError: `evaluate.maps` has `cam` for a head without a closed form.
    """
    if CamVariant.cam in maps and paths.evaluation is not GradientRoute.closed:
        raise UserError(f"evaluate.maps: cam needs {LINEAR_HEAD}, which is not what follows {layer}; leave it out")


def probe_paths(model: Classifier, images: Tensor, cam: CamConfig) -> Routes:
    """Find out, in training and in evaluation mode, how the gradient of the score reaches the target layer.

    Raises:
        UserError: as for :func:`check_path`.
    """
    model = copy.deepcopy(model)  # training mode would move batch norm's statistics
    model.precision = torch.float32  # what follows the layer does not depend on it

    def forward(image_set: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        output = model(image_set)
        return output.logits, {model.layer: output.activations}

    found = []
    for mode in (True, False):
        model.train(mode)
        found.append(probe(forward, images, cam.score, model.class_weights())[model.layer])
    return check_path(Routes(*found), cam, model.layer)


def check_alive(model: Classifier, batches: Iterable[Batch], cam: CamConfig, paths: Routes) -> float:
    """Norm of the CAM term's gradient on the weights below the target layer, which has to be above zero.

    A map that was detached somewhere would train nothing and be noticed by nobody. The first of the batches that has a
    gradient is enough: a fresh network may well have no map at all in a small one.

    Raises:
        UserError: the gradient is zero or not finite in every batch.
    """
    model = copy.deepcopy(model).train()
    unweighted = dataclasses.replace(cam, confidence_exponent=0.0)
    norm, dead, count = 0.0, 0, 0
    seen = list(batches)
    for batch in seen:
        output = model(batch.images)
        term = term_of(model, output, batch, unweighted, paths.training, train=True)
        at_layer = gradient_at(output.activations, term.mean()).to(output.activations.dtype)
        below = torch.autograd.grad(output.activations, list(model.parameters()), at_layer, allow_unused=True)
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in below if gradient is not None))
        if 0 < norm < math.inf:
            return norm
        dead, count = dead + int((~term.counts).sum()), count + len(term.counts)
    if cam.term is Term.energy_outside and not any(bool(has_object(batch.regions).any()) for batch in seen):
        raise UserError(
            "cam.term=energy_outside needs masks or boxes of the training images: the first batches have none"
        )
    other = " or cam.score=centred" if cam.score is Score.logit else ""
    raise UserError(
        f"the CAM term has a gradient of {norm:g} below the target layer ({dead} of {count} maps are dead):"
        f" it would train nothing; choose another model.layer{other}"
    )
