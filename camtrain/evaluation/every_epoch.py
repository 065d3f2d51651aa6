"""Measure arms after an epoch: accuracy, confidence, and the indicators of the true class's logit map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.cam.stretch import Placement
from camtrain.cam.targets import MapTargets, is_multilabel
from camtrain.config.options import CamVariant
from camtrain.data.batches import Batch
from camtrain.distributed.ranks import ALONE, Ranks
from camtrain.evaluation.accumulate import Measured, Values, tagged
from camtrain.evaluation.forward import forward_maps
from camtrain.metrics import concentration
from camtrain.metrics.catalogue import map_indicators
from camtrain.metrics.classification import (
    average_precision_per_image,
    balanced,
    calibration_error,
    is_correct,
    mean_average_precision,
    prediction_entropy,
)
from camtrain.metrics.tags import ACCURACY, BALANCED, PRECISION
from camtrain.networks.capture import Captured


class Evaluated(NamedTuple):
    """What one pass over the validation images gave; of maps and logits, those of the measured images."""

    measured: Measured
    maps: dict[str, Tensor]  # by arm: (maps, height, width), before ReLU
    image_of_map: Tensor  # (maps,) int64, on the CPU: number of the image of each map
    logits: dict[str, Tensor]  # by arm: (measured images, classes)
    numbers: Tensor  # (measured images,) int64, on the CPU
    not_finite: dict[str, str]  # see :func:`not_finite`

    def shared_by(self, names: Sequence[str]) -> Evaluated:
        """The same for all arms of these names: those that are still one network, of which the first was measured."""
        first = names[0]
        measured = Measured(
            {name: dict(self.measured.means[first]) for name in names},
            {name: dict(self.measured.each[first]) for name in names},
        )
        maps, logits = (dict.fromkeys(names, of[first]) for of in (self.maps, self.logits))
        return self._replace(measured=measured, maps=maps, logits=logits)

    def maps_of(self, name: str, batch: Batch) -> Tensor:
        """The arm's maps of some of the measured images; in both, images come in the same order."""
        chosen = torch.isin(self.image_of_map, batch.indices)
        assert torch.equal(self.image_of_map[chosen], image_of_each_map(batch))
        return self.maps[name][chosen.to(self.maps[name].device)]

    def logits_of(self, name: str, batch: Batch) -> Tensor:
        """The arm's logits of some of the measured images, (batch, classes), in the batch's order."""
        rows = torch.searchsorted(self.numbers, batch.indices)
        assert torch.equal(self.numbers[rows], batch.indices)
        return self.logits[name][rows.to(self.logits[name].device)]


def image_of_each_map(batch: Batch) -> Tensor:
    """Numbers of the maps' images, (maps,) int64, on the CPU."""
    return MapTargets.of(batch.targets.cpu()).expand(batch.indices)


class Seen(NamedTuple):
    """What a batch gave; figures, maps and so on by arm."""

    targets: Tensor
    numbers: Tensor  # (batch,) int64, on the CPU
    image_of_map: Tensor  # of the measured maps, likewise
    of_images: dict[str, dict[str, Tensor]]  # by tag: (batch,)
    of_maps: dict[str, dict[str, Tensor]]  # by tag: (measured maps,)
    maps: dict[str, Tensor]  # those measured, (maps, height, width)
    logits: dict[str, Tensor]  # of the measured images; where images have several classes of all
    faults: dict[str, Tensor]  # (2,): of how many images the logits, and the maps, are not finite


def see(networks: Mapping[str, Captured], batch: Batch, method: CamVariant, measured: Tensor) -> Seen:
    """One batch, fed to every arm's network; arguments as for :func:`evaluate`."""
    chosen, of_map = measured[batch.indices].to(batch.images.device), image_of_each_map(batch)
    seen = Seen(batch.targets, batch.indices, of_map[measured[of_map]], {}, {}, {}, {}, {})
    for name, network in networks.items():
        mapped = forward_maps(network, batch.images, batch.targets, method)
        rows = mapped.targets.expand(chosen)
        regions = mapped.targets.regions(batch.regions)
        figures = map_metrics(mapped.maps[rows], regions[rows], network.placement(batch.images))
        seen.of_images[name] = dict(classification_metrics(mapped.logits, batch.targets))
        seen.of_maps[name] = tagged("cam", figures)
        seen.maps[name] = mapped.maps[rows]
        seen.logits[name] = mapped.logits if is_multilabel(batch.targets) else mapped.logits[chosen]
        seen.faults[name] = mapped.faults().sum(1)
    return seen


def evaluate(
    networks: Mapping[str, Captured],
    batches: Iterable[Batch],
    method: CamVariant,
    measured: Tensor,
    ranks: Ranks = ALONE,
) -> Evaluated:
    """One pass over the validation images, each batch fed to every arm's network.

    Args:
        networks: by arm.
        batches: the validation images, in ascending order of their numbers; of several ranks this one's, as
            :meth:`camtrain.distributed.ranks.Ranks.rows` shares them out.
        method: which map.
        measured: (images,) bool, whose maps are measured; accuracy and confidence are of all.
        ranks: among which the batches are shared; each gets what all of them found.
    """
    parts = ranks.in_turn([see(networks, batch, method, measured) for batch in batches])
    values = Values(networks, len(measured))
    for part in parts:
        for name in networks:
            values.add(name, part.numbers, part.of_images[name])
            values.add(name, part.image_of_map, part.of_maps[name])
    found = values.measured()
    device = {name: next(network.parameters()).device for name, network in networks.items()}  # others' are on the CPU
    maps = {name: torch.cat([part.maps[name].to(device[name]) for part in parts]) for name in networks}
    logits = {name: torch.cat([part.logits[name].to(device[name]) for part in parts]) for name in networks}
    seen, target = (torch.cat(each) for each in zip(*((part.numbers, part.targets) for part in parts), strict=True))
    for name, means in found.means.items():
        means["cam/peak_entropy"] = peak_entropy(maps[name])
    if is_multilabel(target):
        _add_average_precision(found, logits, target, seen)
        logits = {name: part[measured[seen].to(part.device)] for name, part in logits.items()}
    else:
        by_number = torch.zeros(len(measured), dtype=torch.int64).index_copy(0, seen, target.cpu())
        for name, tags in found.each.items():
            error = calibration_error(tags["confidence/top_probability"], tags[f"{ACCURACY}/val"])
            tags[BALANCED] = balanced(tags[f"{ACCURACY}/val"], by_number)
            found.means[name]["confidence/calibration_error"] = float(error)
            found.means[name][BALANCED] = float(tags[BALANCED].mean())
    counts = {name: torch.stack([part.faults[name] for part in parts]).sum(0).tolist() for name in networks}
    said = not_finite(counts, f"{len(seen)} validation images")
    of_map = torch.cat([part.image_of_map for part in parts])
    return Evaluated(found, maps, of_map, logits, seen[measured[seen]], said)


def not_finite(faults: Mapping[str, Sequence[int]], images: str) -> dict[str, str]:
    """Of each arm that gives numbers that are not finite, which, in words.

    Args:
        faults: by arm, of how many images the logits, and the maps, are not finite.
        images: how many of what kind there are.
    """
    return {
        name: f"the {name} arm's {'maps' if maps > logits else 'logits'} are not finite on"
        f" {max(maps, logits)} of {images}"
        for name, (logits, maps) in faults.items()
        if maps or logits
    }


def _add_average_precision(found: Measured, logits: Mapping[str, Tensor], target: Tensor, seen: Tensor) -> None:
    """Mean average precision of each arm, and what each image adds to it."""
    for name, means in found.means.items():
        means[f"{PRECISION}/val"] = mean_average_precision(logits[name], target)
        each = torch.full_like(next(iter(found.each[name].values())), torch.nan)
        each[seen] = average_precision_per_image(logits[name], target).cpu()
        found.each[name][f"{PRECISION}/val"] = each


def peak_entropy(maps: Tensor) -> float:
    """Entropy of where the maps peak, see :func:`camtrain.metrics.concentration.peak_entropy`."""
    return float(concentration.peak_entropy(concentration.peak(maps), maps.shape[1] * maps.shape[2]))


def classification_metrics(logits: Tensor, target: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(tag, value of each image) from the logits alone. A margin is defined for one class per image only."""
    if is_multilabel(target):
        yield "confidence/top_probability", logits.float().sigmoid().amax(1)
        return
    yield "confidence/entropy", prediction_entropy(logits.float())
    top = logits.float().softmax(1).topk(2, dim=1).values
    yield f"{ACCURACY}/val", is_correct(logits, target)
    yield "confidence/top_probability", top[:, 0]
    yield "confidence/margin", top[:, 0] - top[:, 1]


def map_metrics(maps: Tensor, regions: Tensor, placement: Placement | None = None) -> dict[str, Tensor]:
    """Every indicator of each map, (maps,) by name.

    Args:
        maps: (maps, height, width), before ReLU.
        regions: of each map, (maps, image height, image width) uint8.
        placement: where the cells lie in the image; None: in equal tiles.
    """
    return {name: measure(maps, regions, placement) for name, measure in map_indicators().items()}
