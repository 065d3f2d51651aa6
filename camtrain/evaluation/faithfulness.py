"""Whether trained networks use what their maps show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from camtrain.cam.distribution import is_dead
from camtrain.cam.scores import probability
from camtrain.cam.stretch import Placement, rank, upsample
from camtrain.cam.targets import MapTargets
from camtrain.config.options import CamVariant
from camtrain.data.batches import Batch
from camtrain.evaluation.accumulate import Measured, Values, tagged
from camtrain.evaluation.context import EvaluationContext
from camtrain.evaluation.every_epoch import Evaluated
from camtrain.evaluation.forward import forward_maps
from camtrain.evaluation.other_maps import OtherMaps
from camtrain.evaluation.sharpened import Change, changes
from camtrain.metrics import faithfulness
from camtrain.metrics.catalogue import OTHER_MAPS
from camtrain.metrics.localisation import centred_gaussian
from camtrain.metrics.road import road
from camtrain.networks.capture import Captured
from camtrain.regions import has_object, object_mask
from camtrain.streams import Stream, stream

OF_OTHERS = ("deletion", "insertion", "gain")
"""What is measured of maps by other methods."""

Orders = Mapping[str, tuple[Tensor, Tensor]]
"""By name: which maps of a batch have an order of the pixels, (maps,) bool, and the place of each pixel in it, (maps,
height, width) int32, see :func:`camtrain.cam.stretch.rank`."""


def measure_faithfulness(
    context: EvaluationContext,
    evaluated: Evaluated,
    chosen: Tensor,
    powers: Mapping[str, Tensor],
    imputed: Tensor,
    others: Sequence[OtherMaps] = (),
) -> Measured:
    """`faithfulness/drop` and so on: of each network's own maps, and of the sharpened maps of the reference's network.
    Of maps by other methods `other_maps/<map>/gain`, `.../deletion` and `.../insertion`.

    Args:
        context: the networks, and which are compared.
        evaluated: of these images, among others.
        chosen: (images,) bool, which of them.
        powers: by sharpened baseline, of the images of either fold, (2,).
        imputed: (images,) bool, for which of them ROAD is measured.
        others: maps by other methods, of these images or some of them, among others.
    """
    ends: dict[str, list[faithfulness.Ends]] = {name: [] for name in context.networks}
    for batch in context.batches(chosen):
        for name, network in context.networks.items():
            ends[name].append(Seen.of(network, batch, evaluated.logits_of(name, batch)).known)
    falls = {name: faithfulness.Falls.of(known) for name, known in ends.items()}
    values = Values([*context.networks, *(contrast.control for contrast in context.contrasts)], context.count)
    for number, batch in enumerate(context.batches(chosen)):
        targets = MapTargets.of(batch.targets)
        of_map = targets.expand(batch.indices.to(batch.images.device))
        fixed = fixed_orders(batch, context.seed)
        filled = targets.expand(imputed[batch.indices].to(batch.images.device)).nonzero().flatten()
        noise = _noise(batch, targets.rows[filled], context.seed)
        for name, network in context.networks.items():
            seen = Seen.of(network, batch, known=ends[name][number])
            own = evaluated.maps_of(name, batch)
            measured = changes(name, context.contrasts, powers, context.fold[of_map.cpu()])
            orders = {kind: seen.order(change(own)) for kind, change in measured.items()}
            for part in others:
                there, made = part.of(name, batch)
                orders |= {f"{OTHER_MAPS}/{method.value}": seen.order(maps, there) for method, maps in made.items()}
            curves = seen.curves(orders, fixed, falls[name])
            for kind, change in measured.items():
                figures = {**seen.alone(own, change, context.method), **curves.pop(kind)}
                values.add(kind, of_map, tagged("faithfulness", figures))
                if len(filled):
                    values.add(kind, of_map[filled], {"faithfulness/road": seen.road(change(own), filled, noise)})
            for group, found in curves.items():
                values.add(name, of_map, tagged(group, {key: found[key] for key in OF_OTHERS}))
    return values.measured()


class Seen(NamedTuple):
    """A network in front of a batch, and what all measurements of its faithfulness there have in common.

    Rows are maps, each of an image and one of its classes.
    """

    network: Captured
    images: Tensor  # (maps, 3, height, width), normalised
    target: Tensor  # (maps,) int64, or (maps, classes) of 0 and 1: the class of each map alone
    probability: faithfulness.Probability
    known: faithfulness.Ends
    placement: Placement | None

    @classmethod
    def of(
        cls, network: Captured, batch: Batch, logits: Tensor | None = None, known: faithfulness.Ends | None = None
    ) -> Seen:
        """Of this batch, whose logits, (batch, classes), may be known, or all probabilities that no map changes."""
        targets = MapTargets.of(batch.targets)
        images, of_class = class_probability(network, batch.images, targets)
        whole = None if logits is None else probability(logits, targets)
        target = one_hot(targets.classes, batch.targets.shape[1]) if targets.multilabel else targets.classes
        placement = network.placement(batch.images)
        known = known or faithfulness.ends(images, of_class, whole)
        return cls(network, images, target, of_class, known, placement)

    @property
    def size(self) -> tuple[int, int]:
        return self.images.shape[2], self.images.shape[3]

    def order(self, maps: Tensor, there: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Which maps are there and not dead, and the order of the pixels in each.

        Args:
            maps: (maps, height, width), before ReLU; or those of some rows.
            there: (maps,) bool, which rows these are; None: all.
        """
        alive, places = ~is_dead(maps), rank(upsample(maps, self.size, self.placement))
        if there is None:
            return alive, places
        every = places.new_zeros(len(there), *self.size)
        every[there] = places
        return there.masked_scatter(there, alive), every

    def alone(self, own: Tensor, change: Change, method: CamVariant) -> dict[str, Tensor]:
        """What is left when only what the map shows is left of the image: drop, increase and ADCC, (maps,) by name.

        Args:
            own: (maps, height, width), the network's maps, before ReLU.
            change: to the maps that are measured.
            method: of the network's maps.
        """
        maps = change(own)
        shown = faithfulness.shown(maps, self.size, self.placement)
        left = forward_maps(self.network, self.images * shown[:, None].to(self.images.dtype), self.target, method, True)
        after = probability(left.logits, left.targets)
        found = faithfulness.confidence(self.known.whole, after, maps)
        terms = faithfulness.adcc(maps, change(left.maps), found.drop, self.size, self.placement)
        return {**found._asdict(), **terms._asdict()}

    def curves(self, orders: Orders, fixed: Orders, falls: faithfulness.Falls) -> dict[str, dict[str, Tensor]]:
        """What the curves of deletion and insertion give, (maps,) by name of the order and of the figure.

        Args:
            orders: of the maps.
            fixed: by the name of the figure that is beside it, orders that are no map's.
            falls: of the network, over all images that are measured.
        """
        parts = [*orders.values(), *fixed.values()]
        wanted = torch.stack([there for there, _ in parts])
        places = torch.stack([places for _, places in parts])
        areas = faithfulness.curve_areas(self.images, places, wanted, self.probability, self.known)
        contrast = areas.contrast(falls)
        return {
            name: {
                "deletion": areas.deletion[number],
                "insertion": areas.insertion[number],
                **{gain: contrast[number] - contrast[at] for at, gain in enumerate(fixed, len(orders))},
            }
            for number, name in enumerate(orders)
        }

    def road(self, maps: Tensor, rows: Tensor, noise: Tensor) -> Tensor:
        """ROAD of some rows (n,), with noise (n, 3, height, width)."""
        return road(self.images[rows], maps[rows], lambda filled: self.probability(filled, rows), noise, self.placement)


def fixed_orders(batch: Batch, seed: int) -> Orders:
    """Orders of the pixels that depend on no network, by the name of the figure that is beside them."""
    targets, (height, width) = MapTargets.of(batch.targets), batch.images.shape[2:]
    device, count = batch.images.device, len(targets.rows)
    _, rows, columns = faithfulness.block_counts(height, width)
    drawn = [stream(seed, Stream.blocks, step=number).permutation(rows * columns) for number in batch.indices.tolist()]
    blocks = rank(torch.stack([faithfulness.blocks(height, width, torch.from_numpy(places)) for places in drawn]))
    every = torch.ones(count, dtype=torch.bool, device=device)
    regions = targets.regions(batch.regions)
    return {
        "gain": (every, targets.expand(blocks.to(device))),
        "gain_centre": (every, rank(centred_gaussian(height, width)[None]).to(device).expand(count, -1, -1)),
        "gain_object": (has_object(regions), rank(object_mask(regions).float())),
    }


def _noise(batch: Batch, rows: Tensor, seed: int) -> Tensor:
    """Standard normal draws in the images' shape for rows of the batch; an image's are the same for all maps."""
    drawn = {
        row: stream(seed, Stream.road, step=int(batch.indices[row])).standard_normal(batch.images.shape[1:], np.float32)
        for row in sorted(set(rows.tolist()))
    }
    made = (
        np.stack([drawn[row] for row in rows.tolist()]) if drawn else np.zeros((0, *batch.images.shape[1:]), np.float32)
    )
    return torch.from_numpy(made).to(batch.images.device)


def class_probability(
    network: Captured, images: Tensor, targets: MapTargets
) -> tuple[Tensor, faithfulness.Probability]:
    """A normalised image for each map, and from such images, changed, to the probability of each map's class."""
    network.eval()

    def of_class(changed: Tensor, of: Tensor | None = None) -> Tensor:
        own = targets.apart() if of is None else targets.select(of).apart()
        with torch.no_grad():
            return probability(network.forward_normalised(changed).logits, own)

    return network.normalised(images)[targets.rows], of_class
