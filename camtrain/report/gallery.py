"""Validation images with both arms' maps: which ones, what the networks make of them, and as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from camtrain.arms import BASELINE, REGULARISED
from camtrain.cam.targets import is_multilabel
from camtrain.config.schema import CamConfig
from camtrain.data.batches import one_batch
from camtrain.data.images import ImageSet, image_name
from camtrain.evaluation.forward import forward_maps
from camtrain.files import write_atomically
from camtrain.metrics import concentration, pointing
from camtrain.networks.classifier import Classifier
from camtrain.report import overlay

ENERGY, ENTROPY = "cam/energy_in_mask", "cam/entropy"
CHOSEN_BY = {ENERGY: "energy in mask", ENTROPY: "entropy"}

Figures = Mapping[str, Mapping[str, Tensor]]
"""By arm and tag: of images, or of maps."""


def draw(
    arms: Mapping[str, Classifier],
    image_set: ImageSet,
    shown: list[int],
    cam: CamConfig,
    prefer: Callable[[Figures], Tensor] | None = None,
) -> dict[int, overlay.Drawn]:
    """Every arm's map and prediction of the chosen validation images, by their number.

    Of several classes in an image the one's map is drawn that is preferred most, given :data:`ENERGY` and
    :data:`ENTROPY` of all maps; the first one's, if there is no preference.
    """
    batch = one_batch(image_set, shown, next(iter(arms.values())).mean.device)
    mapped = {name: forward_maps(net, batch.images, batch.targets, cam.variant) for name, net in arms.items()}
    of = next(iter(mapped.values())).targets
    regions = of.regions(batch.regions)
    figures = {
        name: {ENERGY: pointing.energy_in_mask(part.maps, regions), ENTROPY: concentration.entropy(part.maps)}
        for name, part in mapped.items()
    }
    order = torch.arange(len(of.rows))
    if prefer is not None:
        order = prefer(figures).nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True).cpu()
    chosen: dict[int, int] = {}
    for number in order.tolist():
        chosen.setdefault(int(of.rows[number]), number)
    rows, numbers = sorted(chosen), [chosen[row] for row in sorted(chosen)]
    classes = of.classes[numbers].tolist()
    density = {name: overlay.density(part.maps[numbers]) for name, part in mapped.items()}
    said = {name: predictions(part.logits[rows], batch.targets[rows], classes) for name, part in mapped.items()}
    return {
        shown[row]: overlay.Drawn(
            batch.images[row],
            regions[number],
            image_set.classes[classes[at]],
            {name: maps[at] for name, maps in density.items()},
            {name: image_set.classes[top[at][0]] for name, top in said.items()},
            {name: top[at][1] for name, top in said.items()},
            {name: float(part[ENERGY][number]) for name, part in figures.items()},
            {name: float(part[ENTROPY][number]) for name, part in figures.items()},
        )
        for at, (row, number) in enumerate(zip(rows, numbers, strict=True))
    }


class Chosen(NamedTuple):
    """Images of the report, by number."""

    best: list[int]
    worst: list[int]
    random: list[int]
    by: str  # tag that best and worst go by


def _gain(figures: Figures, by: str) -> Tensor:
    gain = figures[REGULARISED][by] - figures[BASELINE][by]
    return gain if by == ENERGY else -gain


def choose_gallery(each: Figures, shown: list[int]) -> Chosen:
    """Beside the random ones half as many where the regularised arm gained most, and lost most."""
    by = ENERGY if bool(_gain(each, ENERGY).isfinite().any()) else ENTROPY
    gain = _gain(each, by)
    order = gain.argsort(descending=True, stable=True)
    ranked = order[gain[order].isfinite()].tolist()
    half = min(len(shown), len(ranked)) // 2
    return Chosen(ranked[:half], ranked[: -half - 1 : -1] if half else [], shown, by)


def write_gallery(
    folder: Path, arms: Mapping[str, Classifier], images: ImageSet, chosen: Chosen, cam: CamConfig
) -> list[dict[str, Any]]:
    """Write `pictures/NUMBER.png` for each of them, and say what is on it."""
    wall = []
    prefer: dict[str, Callable[[Figures], Tensor] | None] = {
        "best": lambda figures: _gain(figures, chosen.by),
        "worst": lambda figures: -_gain(figures, chosen.by),
        "random": None,
    }
    for why, most in prefer.items():
        numbers: list[int] = getattr(chosen, why)
        for number, drawn in draw(arms, images, numbers, cam, most).items() if numbers else ():
            path = folder / "pictures" / f"{why}-{number}.png"
            strip = overlay.strip(drawn, (BASELINE, REGULARISED))
            write_atomically(path, partial(overlay.save_png, strip))
            said = {
                arm: {
                    "predicted": drawn.predicted[arm],
                    "probability": drawn.probability[arm],
                    "peak": float(drawn.density[arm].max()),
                    "energy_in_mask": drawn.energy[arm],
                    "entropy": drawn.entropy[arm],
                }
                for arm in (BASELINE, REGULARISED)
            }
            name = str(path.relative_to(folder))
            wall.append({"file": name, "why": why, "picture": image_name(images, number), "truth": drawn.truth, **said})
    return wall


def predictions(logits: Tensor, target: Tensor, drawn: Sequence[int]) -> list[tuple[int, float]]:
    """Class and probability that stand under each map: the predicted one's, or, of several, the drawn one's."""
    if is_multilabel(target):
        return [(kind, float(row[kind])) for kind, row in zip(drawn, logits.sigmoid(), strict=True)]
    best = logits.softmax(1).max(1)
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
