"""Validation pictures with both arms' maps: which ones, what the networks make of them, and as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from camtrain import drawing
from camtrain.arm import BASELINE, REGULARISED, Arm
from camtrain.config import CamConfig, Config
from camtrain.data.batches import one_batch
from camtrain.data.pictures import Pictures, name_of
from camtrain.evaluate import forward_maps
from camtrain.files import write_atomically
from camtrain.score import is_multilabel, regions_of
from camtrain.streams import Stream, stream


def choose_pictures(pictures: Pictures, config: Config) -> tuple[Tensor, list[int]]:
    """Whose maps are measured, (pictures,) bool, and which of those are drawn: fixed random choices."""
    count = len(pictures.targets)
    order = stream(config.seed, Stream.subset).permutation(count)[: config.evaluate.max_pictures]
    measured = torch.zeros(count, dtype=torch.bool)
    measured[torch.from_numpy(order)] = True
    shown = stream(config.seed, Stream.pictures).permutation(order)[: config.evaluate.pictures]
    return measured, sorted(shown.tolist())


def draw(
    arms: Sequence[Arm], pictures: Pictures, shown: list[int], cam: CamConfig, device: torch.device
) -> dict[int, drawing.Drawn]:
    """Every arm's map and prediction of the chosen validation pictures, by their number."""
    batch = one_batch(pictures, shown, device)
    mapped = {arm.name: forward_maps(arm, batch.images, batch.targets, cam.variant) for arm in arms}
    # Of several classes in a picture, the first one's map is drawn.
    first = next(iter(mapped.values())).of.occurrence == 0
    rows, classes = (part[first].tolist() for part in next(iter(mapped.values())).of)
    regions = regions_of(batch.regions, batch.targets, next(iter(mapped.values())).of)[first]
    density = {name: drawing.density(part.maps[first]) for name, part in mapped.items()}
    said = {name: predictions(part.output.logits[rows], batch.targets[rows], classes) for name, part in mapped.items()}
    return {
        shown[row]: drawing.Drawn(
            batch.images[row],
            regions[number],
            pictures.classes[classes[number]],
            {name: maps[number] for name, maps in density.items()},
            {name: pictures.classes[top[number][0]] for name, top in said.items()},
            {name: top[number][1] for name, top in said.items()},
        )
        for number, row in enumerate(rows)
    }


class Chosen(NamedTuple):
    """Pictures of the report, by number."""

    best: list[int]
    worst: list[int]
    random: list[int]
    by: str  # what best and worst go by


def choose_wall(each: Mapping[str, Mapping[str, Tensor]], shown: list[int]) -> Chosen:
    """Beside the random ones half as many where the regularised arm gained most, and lost most."""
    energy, entropy = ((each[REGULARISED][tag] - each[BASELINE][tag]) for tag in ("cam/energy_in_mask", "cam/entropy"))
    by = "energy in mask" if bool(energy.isfinite().any()) else "entropy"
    gain = energy if by == "energy in mask" else -entropy
    order = gain.argsort(descending=True, stable=True)
    ranked = order[gain[order].isfinite()].tolist()
    half = min(len(shown), len(ranked)) // 2
    return Chosen(ranked[:half], ranked[: -half - 1 : -1] if half else [], shown, by)


def draw_wall(
    folder: Path, arms: Sequence[Arm], pictures: Pictures, chosen: Chosen, cam: CamConfig, device: torch.device
) -> list[dict[str, Any]]:
    """Write `pictures/NUMBER.png` for each of them, and say what is on it."""
    wall = []
    for why in ("best", "worst", "random"):
        numbers: list[int] = getattr(chosen, why)
        for number, drawn in draw(arms, pictures, numbers, cam, device).items() if numbers else ():
            path = folder / "pictures" / f"{why}-{number}.png"
            strip = drawing.strip(drawn, (BASELINE, REGULARISED))
            write_atomically(path, partial(drawing.save_png, strip))
            said = {
                arm: {
                    "predicted": drawn.predicted[arm],
                    "probability": drawn.probability[arm],
                    "peak": float(drawn.density[arm].max()),
                }
                for arm in (BASELINE, REGULARISED)
            }
            name = str(path.relative_to(folder))
            wall.append({"file": name, "why": why, "picture": name_of(pictures, number), "truth": drawn.truth, **said})
    return wall


def predictions(logits: Tensor, target: Tensor, drawn: Sequence[int]) -> list[tuple[int, float]]:
    """Class and probability that stand under each map: the predicted one's, or, of several, the drawn one's."""
    if is_multilabel(target):
        return [(kind, float(row[kind])) for kind, row in zip(drawn, logits.sigmoid(), strict=True)]
    best = logits.softmax(1).max(1)
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
