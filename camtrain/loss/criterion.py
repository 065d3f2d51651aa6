r"""The criterion of an arm: classification plus the weighted CAM term.

.. math::
    \mathcal L = \frac1B \sum_i \mathrm{CE}_i + \lambda\, \frac1{|\mathcal A|} \sum_{m \in \mathcal A} q_m T_m

:math:`T_m` is the term of map m (:mod:`camtrain.loss.terms`; entropy as published by Schöttl, arXiv 2009.12546);
:math:`\mathcal A` are the maps for which it is defined: those that are alive; :math:`q_m = p_m^\gamma` with
:math:`p_m` the probability of the map's class, detached (:math:`\gamma = 0` is the published loss). There is a map for
the class of every image, or, in a multi-label set, for every positive class of every image. Everything is per map
or image until the last step. :math:`\lambda` is scheduled (:func:`schedule`) or balanced
(:mod:`camtrain.loss.balance`). With a weight of 0 the criterion is plain classification, bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from camtrain.cam.make import ClassMaps
from camtrain.cam.routes import GradientRoute
from camtrain.config.options import AUTO, CamConfig, Conflict
from camtrain.loss.balance import Balance, gradient_share
from camtrain.loss.classification import classification_gradient, classification_loss
from camtrain.loss.layer_gradient import LayerGradient, gradient_at
from camtrain.loss.terms import NEED_REGIONS, term_values


@dataclass(frozen=True)
class Context:
    """What a criterion may ask for beside the forward pass itself."""

    regions: Tensor | None = None
    """(batch, height, width) uint8, where the objects are."""

    epochs_done: float = math.inf
    """On which the schedule of the weight runs."""

    observe: bool = True
    """Measure the term and its gradient share, also where the term does not enter the loss."""

    view: Callable[[Callable[[Tensor], Tensor]], tuple[Tensor, Tensor]] | None = None
    """A further forward pass: from a transformation of the batch's images to logits and activations of the result."""


class Observed(NamedTuple):
    """What a criterion saw in a step; scalars, none of which needs a copy from the device until it is read."""

    classification: Tensor
    cam_term: Tensor | None  # like the next two None where it was not observed
    cam_share: Tensor | None  # the CAM term's share of the gradient at the layer
    cam_weight: Tensor | None


class Criterion(Protocol):
    """What an arm minimises."""

    term_name: str
    """Under which its term is logged: `loss/TERM_NAME`."""

    strength: str | None
    """The setting that presses the term less if it is lowered; None if the term does not enter the loss."""

    def __call__(self, logits: Tensor, activations: Tensor, target: Tensor, context: Context) -> Tensor:
        """The loss, a scalar.

        Args:
            logits: (batch, classes).
            activations: (batch, channels, height, width) of the target layer, of the same pass.
            target: (batch,) int64 class numbers, or (batch, classes) of 0 and 1.
            context: what else there is.
        """

    def observed(self) -> Observed:
        """What was seen, once the loss went backward."""

    def comparable(self, epochs_done: float) -> bool:
        """Whether a step at this time costs what the arm's steps cost once its schedule is through."""

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers that training needs to go on."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class CamTerm(NamedTuple):
    """The CAM term of each map."""

    value: Tensor  # (maps,), 0 where it does not count
    confidence: Tensor  # (maps,) q, detached
    counts: Tensor  # (maps,) bool: alive, and whatever else the term needs

    def mean(self) -> Tensor:
        """Mean of q T over the maps that count; 0 if there are none. Scalar."""
        return (self.confidence * self.value).sum() / self.counts.sum().clamp_min(1)

    def mean_confidence(self) -> Tensor:
        """Mean of q over the maps that count; 0 if there are none. Scalar."""
        return (self.confidence * self.counts).sum() / self.counts.sum().clamp_min(1)


def cam_term(maps: Tensor, probability: Tensor, cam: CamConfig, regions: Tensor | None = None) -> CamTerm:
    """The CAM term of each map, in float32 or wider even under autocast.

    Args:
        maps: (maps, height, width), before ReLU.
        probability: (maps,) of each map's class, detached.
        cam: term, unit and confidence exponent.
        regions: of each map, (maps, image height, image width) uint8; needed by terms of :data:`NEED_REGIONS` alone.
    """
    value, counts = term_values(cam.term, maps, regions, cam.unit)
    return CamTerm(value, probability**cam.confidence_exponent, counts)


def schedule(cam: CamConfig, epochs_done: float) -> float:
    """Share of the full weight after `epochs_done` epochs: 0 before `start`, then rising over `ramp` to 1."""
    if epochs_done < cam.start:
        return 0.0
    return 1.0 if cam.ramp == 0 else min(1.0, (epochs_done - cam.start) / cam.ramp)


class _Step(NamedTuple):
    """What is known of a step before it goes backward."""

    loss: Tensor
    classification: Tensor
    term: CamTerm | None
    at_layer: LayerGradient | None
    weight: float
    observe: bool


class CamLoss:
    """Classification plus the weighted CAM term; plain classification if `cam.weight` is 0.

    Args:
        cam: settings of the term.
        route: how the gradient of a score reaches the layer in training.
        class_weights: gives the weight of the linear head, (classes, channels), or None; for the closed form.
        share: of the gradient at the layer that an automatic weight holds.
    """

    def __init__(
        self,
        cam: CamConfig,
        route: GradientRoute,
        class_weights: Callable[[], Tensor | None],
        share: float = 0.5,
    ) -> None:
        self.cam, self.route, self.class_weights = cam, route, class_weights
        self.balance = Balance(share) if cam.weight == AUTO else None
        self.term_name = f"cam_{cam.term.value}"
        self.strength = None if cam.weight == 0 else "cam.share" if cam.weight == AUTO else "cam.weight"
        self._last: _Step | None = None

    def __call__(self, logits: Tensor, activations: Tensor, target: Tensor, context: Context) -> Tensor:
        """See :class:`Criterion`. Registers a hook on the activations where something is measured or changed there."""
        classification = classification_loss(logits, target)
        loss = classification.mean()
        full = schedule(self.cam, context.epochs_done)
        active = self.cam.weight != 0 and full > 0
        term, at_layer, weight = None, None, 0.0
        if active or (context.observe and self.route is not GradientRoute.mixed):
            term = self.term(logits, activations, target, context.regions, train=active)
            if active:
                at_layer = self._watch(logits, activations, target, loss, term, context.observe)
                weight = full * (float(self.cam.weight) if self.balance is None else self.balance.weight())
                loss = loss + weight * term.mean()
        self._last = _Step(loss.detach(), classification.detach(), term, at_layer, weight, context.observe)
        return loss

    def term(self, logits: Tensor, activations: Tensor, target: Tensor, regions: Tensor | None, train: bool) -> CamTerm:
        """The term of each map, detached from the network unless it is to be trained."""
        made = ClassMaps(logits, activations, target, self.cam.score, self.route, self.class_weights(), train)
        maps = made.map(self.cam.variant)
        own = made.targets.regions(regions) if regions is not None and self.cam.term in NEED_REGIONS else None
        return cam_term(maps if train else maps.detach(), made.confidence(), self.cam, own)

    def _watch(
        self, logits: Tensor, activations: Tensor, target: Tensor, loss: Tensor, term: CamTerm, observe: bool
    ) -> LayerGradient | None:
        """Measure the gradients of both losses at the layer, and take out what opposes classification, if asked to."""
        project = self.cam.conflict is Conflict.project
        measure = observe or self.balance is not None
        if not (measure or project):
            return None
        weights, cells = self.class_weights(), activations.shape[2] * activations.shape[3]
        closed = self.route is GradientRoute.closed and weights is not None
        at_layer = LayerGradient(
            classification_gradient(logits, target, weights, cells)
            if closed and weights is not None
            else gradient_at(activations, loss),
            cells,
            project,
            measure,
        )
        if self.balance is not None and self.balance.needs_own_backward:
            alone = gradient_at(activations, term.mean()).norm()
            self.balance.update(*_as_numbers(at_layer.square.sum().sqrt(), alone, term.mean_confidence()))
        activations.register_hook(at_layer)  # type: ignore[no-untyped-call]
        return at_layer

    @torch.no_grad()
    def observed(self) -> Observed:
        """See :class:`Criterion`. To be called once after each backward pass: it also moves the automatic weight."""
        assert self._last is not None, "nothing went forward yet"
        loss, classification, term, at_layer, weight, observe = self._last
        share = torch.zeros_like(loss)
        if at_layer is not None and at_layer.measure and term is not None:
            norms = at_layer.norms()
            share = gradient_share(*norms)
            if self.balance is not None:
                of_classification, of_term, confidence = _as_numbers(*norms, term.mean_confidence())
                self.balance.take_in(of_classification, of_term, confidence, weight, at_layer.floor)
        return Observed(
            classification.mean(),
            term.mean().detach() if term is not None and observe else None,
            share if observe else None,
            torch.as_tensor(weight, device=loss.device) if observe else None,
        )

    def comparable(self, epochs_done: float) -> bool:
        return self.cam.weight == 0 or schedule(self.cam, epochs_done) > 0

    def state_dict(self) -> dict[str, Any]:
        return {} if self.balance is None else dataclasses.asdict(self.balance)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.balance is not None:
            self.balance = Balance(**state)


def _as_numbers(*scalars: Tensor) -> list[float]:
    """By one copy from the device."""
    return torch.stack([scalar.detach().float() for scalar in scalars]).tolist()
