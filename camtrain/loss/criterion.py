r"""The criterion of an arm: classification plus the weighted CAM term.

.. math::
    \mathcal L = \frac1B \sum_i \mathrm{CE}_i + \lambda \left( \frac1{|\mathcal A|} \sum_{m \in \mathcal A} q_m T_m
    + \frac1{|\mathcal V|} \sum_{m \in \mathcal V} v_m q_m (\kappa D_m + \chi C_m) \right) + \sum_k \eta_k F_k

:math:`T_m` is the term of map m (:mod:`camtrain.loss.terms`; entropy as published by Schöttl, arXiv 2009.12546);
:math:`\mathcal A` are the maps for which it is defined: those that are alive; :math:`q_m = p_m^\gamma` with
:math:`p_m` the probability of the map's class, detached (:math:`\gamma = 0` is the published loss). There is a map for
the class of every image, or, in a multi-label set, for every positive class of every image. Everything is per map
or image until the last step. :math:`\mathcal V` are the maps of images of which the batch holds a further view too,
:math:`D_m` the distance between the moved map and the map of the view, :math:`v_m` the share of the map in view
(:mod:`camtrain.loss.consistency`), :math:`C_m` how much like other maps it is instead
(:mod:`camtrain.loss.contrastive`). Views are images of the batch like others, but for those of two images in one, which
count in :math:`D` and :math:`C` alone. :math:`F_k` are terms that take a further pass (:mod:`camtrain.loss.masked`);
they do not reach the activations that :math:`\lambda` is balanced at. :math:`\lambda` is scheduled (:func:`schedule`)
or balanced (:mod:`camtrain.loss.balance`), and :math:`\eta_k` are scheduled alike. To the classification loss there may
be added the divergence from an anchor's predictions (:func:`camtrain.loss.classification.anchor_loss`). With a weight
:math:`\lambda` set to 0 the criterion is plain classification, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from camtrain.cam.distribution import distribution
from camtrain.cam.head import LINEAR_HEAD, Head, handed_on, head_behind
from camtrain.cam.make import ClassMaps
from camtrain.cam.routes import GradientRoute
from camtrain.cam.stretch import Placement
from camtrain.cam.targets import MapTargets, is_multilabel
from camtrain.config.options import (
    AUTO,
    BalanceOver,
    CamConfig,
    CamVariant,
    Conflict,
    GradientPath,
    Term,
    cam_config,
    second_pass_terms,
    trains_maps,
)
from camtrain.data.views import Views
from camtrain.distributed.ranks import ALONE, Ranks
from camtrain.errors import UserError
from camtrain.loss.balance import Balance, default_share, limit_of
from camtrain.loss.classification import Anchor, anchor_loss, classification_gradient, classification_loss
from camtrain.loss.consistency import consistency
from camtrain.loss.contrastive import contrastive
from camtrain.loss.layer_gradient import LayerGradient, gradient_at
from camtrain.loss.masked import Again, FirstPass, check_one_class, second_pass
from camtrain.loss.terms import NEED_REGIONS, beyond_enough, term_values


class Observed(NamedTuple):
    """What a criterion saw in a step; scalars, none of which needs a copy from the device until it is read."""

    classification: Tensor
    cam_term: Tensor | None  # like the next two None where it was not observed
    cam_share: Tensor | None  # the CAM term's share of the gradient at the layer
    cam_weight: Tensor | None
    further: Mapping[str, Tensor] = {}  # the other terms without their weights, by the names of these


class Criterion(Protocol):
    """What an arm minimises."""

    term_name: str
    """Under which its term is logged: `loss/TERM_NAME`."""

    strength: str | None
    """The setting that weakens the term if it is lowered; None if the term does not enter the loss."""

    observing: bool
    """Whether to measure the term and its gradient share in the next pass, also where it does not enter the loss."""

    ranks: Ranks
    """Processes of which each has some rows of the batch; the loss is then this one's part of the batch's."""

    anchor: Tensor | None
    """Logits, (batch, classes), of the network that the predictions of the next pass are held to; used up by it."""

    def __call__(self, logits: Tensor, activations: Tensor, target: Tensor, *others: Any) -> Tensor:
        """The loss, a scalar; arguments, and what the others are, as for :meth:`CamLoss.forward`."""

    def observed(self) -> Observed:
        """What was seen, once the loss went backward."""

    def comparable(self, epochs_done: float) -> bool:
        """Whether a step at this time costs what the arm's steps cost once its schedule is through."""

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers that training needs to go on."""

    def load_state_dict(self, state: dict[str, Any]) -> object: ...


class CamTerm(NamedTuple):
    """The CAM term of each map."""

    value: Tensor  # (maps,), 0 where it does not count
    confidence: Tensor  # (maps,) q, detached
    counts: Tensor  # (maps,) bool: alive, and whatever else the term needs
    distance: Tensor | None = None  # (pairs,) q D of maps of images of which there is a view
    contrast: Tensor | None = None  # (pairs,) q C of the same, where it is asked for
    in_view: Tensor | None = None  # (pairs,) what both count by, 0..1
    maps: Tensor | None = None  # (maps, height, width), before ReLU

    ranks: Ranks = ALONE  # over whose maps means are taken

    def mean(self) -> Tensor:
        """Mean of q T over the maps that count, of which this is this rank's part; 0 if there are none. Scalar."""
        return (self.confidence * self.value).sum() / self.ranks.sum(self.counts.sum()).clamp_min(1)

    def of_pairs(self) -> dict[str, Tensor]:
        """Means of v q D and v q C over the pairs that count, 0 if there are none, by the names of their weights; of
        each this rank's part."""
        if self.in_view is None:
            return {}
        count = self.ranks.sum((self.in_view > 0).sum()).clamp_min(1)
        values = {"consistency": self.distance, "contrastive": self.contrast}
        return {name: (self.in_view * each).sum() / count for name, each in values.items() if each is not None}

    def mean_confidence(self) -> Tensor:
        """Mean of q over the maps that count; 0 if there are none. Scalar."""
        summed = self.ranks.sum(torch.stack([(self.confidence * self.counts).sum(), self.counts.sum()]))
        return summed[0] / summed[1].clamp_min(1)

    def detached(self) -> CamTerm:
        return CamTerm(*(part.detach() if isinstance(part, Tensor) else part for part in self))  # type: ignore[arg-type]


def cam_term(
    maps: Tensor,
    probability: Tensor,
    cam: CamConfig,
    regions: Tensor | None = None,
    placement: Placement | None = None,
) -> CamTerm:
    """The CAM term of each map, in float32 or wider even under autocast.

    Args:
        maps: (maps, height, width), before ReLU.
        probability: (maps,) of each map's class, detached.
        cam: term, unit and confidence exponent.
        regions: of each map, (maps, image height, image width) uint8; needed by terms of :data:`NEED_REGIONS` alone.
        placement: where the cells lie in the image, for the same terms; None: in equal tiles.
    """
    value, counts = term_values(cam.term, maps, regions, cam.unit, placement)
    if cam.enough is not None:
        value = beyond_enough(value, cam.enough, maps.shape[1] * maps.shape[2], cam.unit)
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
    weight: Tensor
    further: dict[str, Tensor]
    observe: bool


class CamLoss(nn.Module):
    r"""Classification plus the weighted CAM term.

    .. math::
        \mathcal L = \frac1B \sum_i \mathrm{CE}_i + \lambda\, \frac1{|\mathcal A|} \sum_{m \in \mathcal A} q_m T_m

    as in :mod:`camtrain.loss.criterion`: :math:`T` the term of a map (entropy: Schöttl, arXiv 2009.12546),
    :math:`\mathcal A` the maps that are alive, :math:`q` the confidence, :math:`\lambda` the weight.

    The loss may be scaled before it goes backward (by a gradient scaler, or to accumulate gradients). With an automatic
    weight its state is part of :meth:`state_dict`. Where no gradients are recorded, as in validation, it is plain
    classification.

    Args:
        only_loss: nothing else reaches the target layer than this loss: the term's gradient there is then found as a
            difference, which saves a backward pass through the head.
        settings: those of the configuration's section `cam`, choices as words: `variant`, `score`, `term`, `weight`
            ("auto" or a number; 0 for plain classification, bit for bit), `share`, `balance`, `anchor`,
            `confidence_exponent`, `conflict`, `consistency`, `contrastive`, `keep`, `masked_kl`, `saliency_guided`,
            `unit`, `enough`, `start`, `ramp`, `path`. What is not given has the configuration's default; see
            docs/settings.md. A `share` that is not given is 1/2; for
            pretrained weights 1/3 is better.

    Raises:
        UserError: there is no such setting, or a value does not fit.

    Example:
        >>> import torch, camtrain
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        ...     torch.nn.Linear(8, 5),
        ... )
        >>> net, criterion = camtrain.capture(model, layer="0"), camtrain.CamLoss(weight=0.1, term="entropy")
        >>> logits, activations = net(torch.rand(2, 3, 16, 16))
        >>> loss = criterion(logits, activations, torch.tensor([0, 4]))
        >>> loss.backward()
        >>> loss.shape, 0 < float(criterion.observed().cam_share) < 1
        (torch.Size([]), True)
    """

    def __init__(self, *, only_loss: bool = False, **settings: Any) -> None:
        super().__init__()
        self.only_loss, self.observing, self.ranks = only_loss, True, ALONE
        self.anchor: Tensor | None = None
        self.cam = cam_config(**settings)
        self.share = self.cam.share or default_share(pretrained=False)
        self.balance = Balance(self.share) if self.cam.weight == AUTO else None
        self.term_name = f"cam_{self.cam.term.value}"
        self.strength = None if self.cam.weight == 0 else "cam.share" if self.cam.weight == AUTO else "cam.weight"
        self._last: _Step | None = None
        self._share: Tensor | None = None  # of the last pass, once it went backward

    def forward(
        self,
        logits: Tensor,
        activations: Tensor,
        target: Tensor,
        regions: Tensor | None = None,
        epochs_done: float = math.inf,
        views: Views | None = None,
        again: Again | None = None,
    ) -> Tensor:
        """The loss, a scalar. Registers hooks where something is measured or changed at the layer.

        Args:
            logits: (batch, classes).
            activations: (batch, channels, height, width) of the target layer, as :func:`camtrain.capture` hands them
                out: they know how the gradient of a score reaches them. Any others are taken to need autograd.
            target: (batch,) int64 class numbers, or (batch, classes) of 0 and 1.
            regions: (batch, image height, image width) uint8, 0 background, 255 void, other values the object; needed
                by `term="energy_outside"` alone.
            epochs_done: on which `start` and `ramp` run.
            views: of images of the batch; their logits, activations and targets stand behind those of the images, and
                their regions too.
            again: a further pass of the same network, for the terms that need one: `net.again(images)`.

        Raises:
            UserError: the map cannot be made, or not trained through, at this layer.
        """
        activations = handed_on(logits, activations)
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            counted = len(target) if views is None or views.classified else len(target) - len(views.rows)
            classification = classification_loss(logits[:counted], _checked(target)[:counted])
            loss = self.ranks.mean(classification)
            if not (torch.is_grad_enabled() and logits.requires_grad):
                return loss
            self._take_in()
            loss, divergence = self._held(loss, logits[:counted], is_multilabel(target))
            if not activations.requires_grad:
                raise UserError("activations: they are detached from the network; pass on what the captured one gave")
            head, full = self._head(activations), schedule(self.cam, epochs_done)
            active = self.cam.weight != 0 and full > 0
            trained = active and trains_maps(self.cam, views is not None)
            term, at_layer, weight = None, None, loss.new_zeros(())
            if active or (self.observing and head.route is not GradientRoute.mixed):
                term = self.term(logits, activations, target, regions, trained, views)
                if trained:
                    limits = self._limits(term, target, counted)
                    at_layer = self._watch(logits, activations, target[:counted], loss, term, limits)
                    weight = self._weight(full, loss)
                    loss = _with_term(loss, weight, self.total(term), at_layer)
                term = term.detached()
        further = self._further(logits, activations, target[:counted], term, again) if active else {}
        # Added last: what is measured at the layer is a hook on the loss before.
        loss = sum((full * getattr(self.cam, name) * value for name, value in further.items()), start=loss)
        seen = further if divergence is None else {**further, "anchor": divergence}
        further = {name: value.detach() for name, value in seen.items()}
        self._last = _Step(loss.detach(), classification.detach(), term, at_layer, weight, further, self.observing)
        self._share = self.anchor = None
        return loss

    def _weight(self, full: float, loss: Tensor) -> Tensor:
        """The term's weight in this pass, a scalar like the loss."""
        if self.balance is None:
            return torch.full_like(loss, full * float(self.cam.weight))
        return (full * self.balance.weight()).to(loss)

    def _further(
        self, logits: Tensor, activations: Tensor, target: Tensor, term: CamTerm | None, again: Again | None
    ) -> dict[str, Tensor]:
        """The terms that take a further pass, by name, for the images that `target` holds."""
        if not second_pass_terms(self.cam):
            return {}
        check_one_class(self.cam, is_multilabel(target))
        assert term is not None, "an arm that is trained by its maps has made them"
        assert term.maps is not None, "the term was made without its maps"
        count, placement = len(target), head_behind(activations).placement
        maps, confidence = term.maps[:count], term.confidence[:count]
        first = FirstPass(logits[:count].detach(), target, maps, confidence, placement, self.ranks)
        return second_pass(self.cam, first, again)

    def term(
        self,
        logits: Tensor,
        activations: Tensor,
        target: Tensor,
        regions: Tensor | None,
        train: bool,
        views: Views | None = None,
    ) -> CamTerm:
        """The term of each map, detached from the network unless it is to be trained."""
        if regions is None and self.cam.term in NEED_REGIONS:
            raise UserError(f"term={self.cam.term.value} needs regions: masks or boxes of the images")
        alone = not (train or second_pass_terms(self.cam))
        if views is None and self.cam.weight != 0 and (self.cam.contrastive or (self.cam.term is Term.none and alone)):
            name = "contrastive" if self.cam.contrastive else "term=none leaves consistency, which"
            raise UserError(f"{name} needs views of the images: give those of camtrain.views")
        made = ClassMaps(logits, activations, target, self.cam.score, self._head(activations), train)
        try:
            maps = made.map(self.cam.variant)
        except RuntimeError as error:
            if "not have been used" not in str(error):
                raise
            raise UserError(
                "activations: the logits do not depend on them; pass on both as the captured network gave them"
            ) from error
        maps = maps if train else maps.detach()
        own = made.targets.regions(regions) if regions is not None and self.cam.term in NEED_REGIONS else None
        placement = head_behind(activations).placement
        term = cam_term(maps, made.confidence(), self.cam, own, placement)._replace(maps=maps, ranks=self.ranks)
        if views is None:
            return term
        images = len(target) - len(views.rows)
        if not views.classified:
            term = term._replace(counts=term.counts & (made.targets.rows < images))
            term = term._replace(value=term.value * term.counts)
        image, view = pairs(made.targets, images, views.rows)
        shares, _ = distribution(maps)
        of_map = views.matrix
        if not made.targets.one_each:
            of_map = of_map[(made.targets.rows[view] - images).to(of_map.device)]
        both, confidence = (shares[image], shares[view], of_map, views.size), term.confidence[image]
        distance, in_view = consistency(*both, placement)
        term = term._replace(distance=confidence * distance, in_view=in_view)
        if self.cam.contrastive:
            contrast = contrastive(*both, made.targets.rows[image], placement, self.ranks)
            term = term._replace(contrast=confidence * contrast)
        return term

    def total(self, term: CamTerm) -> Tensor:
        """What the weight multiplies: the term, and what is asked of maps and those of views."""
        of_pairs = ((getattr(self.cam, name), value) for name, value in term.of_pairs().items())
        return sum((weight * value for weight, value in of_pairs if weight), start=term.mean())

    @property
    def _several(self) -> bool:
        """Whether something is asked of maps and those of views, besides what is asked of each map."""
        return self.cam.consistency != 0 or self.cam.contrastive != 0

    def _head(self, activations: Tensor) -> Head:
        """What follows the layer, by the route that the settings ask for."""
        head, cam = head_behind(activations), self.cam
        closed = head.route is GradientRoute.closed
        if cam.weight != 0 and head.route is GradientRoute.mixed:
            raise UserError(
                "a batch norm behind the target layer takes its statistics from the batch, so that no image has a map"
                " of its own in training; choose a layer behind the last batch norm, or keep its statistics (eval mode)"
            )
        if not closed and (cam.path is GradientPath.closed or cam.variant is CamVariant.cam):
            raise UserError(
                f"{'variant=cam' if cam.variant is CamVariant.cam else 'path=closed'} needs {LINEAR_HEAD}, which is not"
                " what follows the target layer"
            )
        return Head(GradientRoute.autograd) if closed and cam.path is GradientPath.autograd else head

    def _watch(
        self,
        logits: Tensor,
        activations: Tensor,
        target: Tensor,
        loss: Tensor,
        term: CamTerm,
        limits: Tensor | None,
    ) -> LayerGradient | None:
        """Measure the gradients of both losses at the layer, keep the term's within the limits of each image, and take
        out what opposes classification, if asked to."""
        project = self.cam.conflict is Conflict.project
        measure = self.observing or self.balance is not None
        if not (measure or project or limits is not None):
            return None
        if self.balance is not None and self.observing:
            self.balance.look()
        (route, weights, _), cells = self._head(activations), activations.shape[2] * activations.shape[3]
        several = self._several and term.in_view is not None
        by_itself = self.balance is not None and (self.balance.needs_own_backward or several)
        # The share asked for is that of the term alone, which what is asked of views beside it must not use up.
        own = self.total(term) if not several or self.cam.term is Term.none else term.mean()
        measured = gradient_at(activations, own) if by_itself or not self.only_loss else None
        alone = measured if not several else gradient_at(activations, self.total(term)) if not self.only_loss else None
        at_layer = LayerGradient(
            _padded(self._classification_gradient(logits, target, weights, cells), len(logits))
            if route is GradientRoute.closed and weights is not None
            else gradient_at(activations, loss),
            cells,
            project,
            measure,
            None if self.only_loss else alone,
            limits,
            self.ranks,
        )
        if self.balance is not None and measured is not None:
            norms = torch.stack([at_layer.square.sum().sqrt(), measured.norm()])
            classification, of_term = self.ranks.norm(norms)
            self.balance.update(classification, of_term, term.mean_confidence())
        activations.register_hook(at_layer)  # type: ignore[no-untyped-call]
        return at_layer

    def _classification_gradient(self, logits: Tensor, target: Tensor, weights: Tensor, cells: int) -> Tensor:
        """By closed form, of the images that `target` holds, the first ones."""
        own = logits[: len(target)]
        count = None if self.ranks.alone else self.ranks.sum(own.new_tensor(len(own)))
        return classification_gradient(own, target, weights, cells, self._anchored(len(own)), count)

    def _held(self, loss: Tensor, logits: Tensor, multilabel: bool) -> tuple[Tensor, Tensor | None]:
        """The loss with the divergence from the anchor's predictions, and that divergence, if there is an anchor."""
        anchor = self._anchored(len(logits))
        if anchor is None:
            return loss, None
        divergence = self.ranks.mean(anchor_loss(logits, anchor, multilabel))
        return loss + anchor.weight * divergence, divergence

    def _anchored(self, count: int) -> Anchor | None:
        """What predictions are held to, of the first images of the batch; None where they are not."""
        if not self.cam.anchor or self.cam.weight == 0:
            return None
        if self.anchor is None:
            raise UserError("anchor needs the logits of the network to hold on to: set `anchor` before each pass")
        return Anchor(self.anchor[:count].detach(), self.cam.anchor)

    @torch.no_grad()
    def _limits(self, term: CamTerm, target: Tensor, count: int) -> Tensor | None:
        """How many times the norm of its classification gradient the term's may have in each image, (batch,), for
        `balance=image`: by the mean confidence of its maps. Images behind the first `count` have no such gradient, and
        no limit."""
        if self.cam.balance is BalanceOver.batch:
            return None
        rows, counts = MapTargets.of(target).rows, term.counts.to(term.confidence.dtype)
        maps, confidence = (
            counts.new_zeros(len(target)).index_add(0, rows, part) for part in (counts, counts * term.confidence)
        )
        limits = limit_of(self.share * confidence / maps.clamp_min(1))
        limits[count:] = math.inf
        return limits

    @torch.no_grad()
    def observed(self) -> Observed:
        """What was seen in the last pass with gradients. See :class:`Criterion`.

        Raises:
            UserError: there was none.
        """
        if self._last is None:
            raise UserError("observed: no pass with gradients went through this criterion yet")
        self._take_in()
        loss, classification, term, _, weight, further, observe = self._last
        share = self._share if self._share is not None else torch.zeros_like(loss)
        parts = {**(term.of_pairs() if term is not None and observe else {}), **further}
        return Observed(
            self.ranks.sum(self.ranks.mean(classification)),
            self.ranks.sum(term.mean()) if term is not None and observe and self.cam.term is not Term.none else None,
            share if observe else None,
            weight if observe else None,
            {name: self.ranks.sum(part) for name, part in parts.items()} if observe else {},
        )

    @torch.no_grad()
    def _take_in(self) -> None:
        """Let the automatic weight learn from the last pass, once it went backward, and keep the share of its term."""
        if self._last is None or self._last.at_layer is None or self._last.at_layer.term is None:
            return
        term, at_layer, weight = self._last.term, self._last.at_layer, self._last.weight
        self._last = self._last._replace(at_layer=None)
        norms = at_layer.norms()
        several = self._several and term is not None and term.in_view is not None
        if self.balance is not None and self.only_loss and not several and term is not None:
            self.balance.take_in(*norms, term.mean_confidence(), weight, at_layer.floor)
        self._share = at_layer.share()

    def extra_repr(self) -> str:
        """Settings that differ from the defaults."""
        usual = CamConfig()
        changed = {key: value for key, value in vars(self.cam).items() if value != getattr(usual, key)}
        return ", ".join(f"{key}={getattr(value, 'value', value)}" for key, value in changed.items())

    def comparable(self, epochs_done: float) -> bool:
        """Whether a step at this time costs what the steps cost once the schedule is through."""
        return self.cam.weight == 0 or schedule(self.cam, epochs_done) > 0

    def get_extra_state(self) -> Tensor:
        """The balance's numbers: a tensor, since many checkpoints hold nothing else."""
        self._take_in()
        if self.balance is None:
            return torch.empty(0, dtype=torch.float64)
        return torch.tensor(self.balance.numbers(), dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self._last = self._share = None
        if self.balance is not None:
            self.balance = Balance.of_numbers([float(number) for number in state.tolist()])


def _with_term(loss: Tensor, weight: Tensor, term: Tensor, at_layer: LayerGradient | None) -> Tensor:
    """The loss and the weighted term; what watches the layer learns of both the weight and a later scale."""
    loss = loss + weight * term
    if at_layer is not None:
        at_layer.set_weight(weight)
        loss.register_hook(at_layer.take_scale)  # type: ignore[no-untyped-call]
    return loss


def pairs(targets: MapTargets, images: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the maps of images and of their views that are of the same class, each (pairs,).

    Args:
        targets: of a batch of images with their views behind them.
        images: how many of it are no views.
        rows: (views,) the image of each view.
    """
    if targets.one_each:
        view = torch.arange(images, images + len(rows), device=targets.rows.device)
        return rows.to(view.device, non_blocking=True), view
    view = (targets.rows >= images).nonzero().flatten()
    most = targets.classes.max() + 1 if len(targets.classes) else 1  # a rank's images may have no class at all
    key = targets.rows * most + targets.classes  # ascending
    wanted = rows.to(view.device)[targets.rows[view] - images] * most + targets.classes[view]
    return torch.searchsorted(key, wanted), view


def _padded(values: Tensor, count: int) -> Tensor:
    """With rows of 0 behind those of the images that count."""
    missing = values.new_zeros(count - len(values), *values.shape[1:])
    return torch.cat([values, missing]) if len(missing) else values


def _checked(target: Tensor) -> Tensor:
    """The target, if it is a kind that maps can be made for."""
    if target.is_floating_point() and not bool(((target == 0) | (target == 1)).all()):
        raise UserError("target: class numbers, or 0 and 1 for each class; soft labels (mixup) have no map of a class")
    return target
