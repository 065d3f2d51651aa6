"""Which images the report shows, and what is written below them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from measured import network
from report.three import views
from torch import Tensor

from camtrain.arms import contrasts
from camtrain.config.options import CamVariant
from camtrain.config.schema import ShapesConfig
from camtrain.data.batches import one_batch
from camtrain.data.build import build as build_data
from camtrain.data.images import in_memory
from camtrain.evaluation.every_epoch import map_metrics
from camtrain.evaluation.forward import forward_maps
from camtrain.metrics.catalogue import INDICATORS
from camtrain.report.gallery import Chosen, Views, choose_gallery, draw, gain, write_gallery
from camtrain.report.overlay import GAP, TILE
from camtrain.report.setting import caption_figures
from camtrain.runs.result import MapCaption

ARMS = ["baseline", "regularised", "area"]
PAIR = contrasts(ARMS)[0]
NAMES = ["disc", "ring", "cross"]


def each(energy: list[float], entropy: list[float]) -> dict[str, dict[str, Tensor]]:
    """Figures of images: the baseline has 0 everywhere, the area arm what would choose others."""
    zero = torch.zeros(len(energy))
    figures = {"cam/energy_in_mask": torch.tensor(energy), "cam/entropy": torch.tensor(entropy)}
    return {"baseline": dict.fromkeys(figures, zero), "regularised": figures, "area": dict.fromkeys(figures, -zero)}


def test_best_and_worst_are_those_of_the_first_treatment() -> None:
    chosen = choose_gallery(each([0.1, -0.2, 0.3, math.nan, 0.0], [0.0] * 5), [0, 1, 2, 3], PAIR)
    assert (chosen.best, chosen.worst, chosen.random) == ([2, 0], [1, 4], [0, 1, 2, 3])
    assert chosen.by.label == "energy in mask"


def test_without_objects_the_fall_of_entropy_chooses() -> None:
    chosen = choose_gallery(each([math.nan] * 3, [0.5, -0.5, 0.1]), [0, 1], PAIR)
    assert (chosen.best, chosen.worst, chosen.by.label) == ([1], [0], "entropy")


def test_nothing_known_shows_the_random_ones_alone() -> None:
    chosen = choose_gallery(each([math.nan] * 2, [math.nan] * 2), [0, 1], PAIR)
    assert (chosen.best, chosen.worst) == ([], [])


def test_the_map_that_gained_most_is_drawn() -> None:
    """An image with two classes, whose second map lies on the object in the treatment alone."""
    on, off = torch.zeros(4, 4), torch.zeros(4, 4)
    on[1:3, 1:3], off[3, 3] = 1, 1
    shown = views([7, 9], ARMS)
    shown = shown._replace(
        rows=torch.tensor([0, 0, 1]),
        classes=torch.tensor([0, 2, 1]),
        regions=shown.regions[[0, 0, 1]],
        multilabel=True,
        maps={arm: torch.stack([off, on if arm == "regularised" else off, off]) for arm in ARMS},
    )
    chosen = choose_gallery(each([0.1], [0.1]), [0], PAIR)
    best = draw(shown, NAMES, lambda figures: gain(figures, chosen.by, PAIR))
    assert {number: drawn.truth for number, drawn in best.items()} == {7: "cross", 9: "ring"}
    assert best[7].predicted == dict.fromkeys(ARMS, "cross")
    assert best[7].probability["area"] == pytest.approx(float(shown.logits["area"][0, 2].sigmoid()))
    worst = draw(shown, NAMES, lambda figures: -gain(figures, chosen.by, PAIR))
    assert worst[7].truth == "disc"
    assert draw(shown, NAMES)[7].truth == "disc", "the first class, without a preference"


def test_files_hold_a_map_of_every_arm(tmp_path: Path) -> None:
    images = in_memory(NAMES, torch.zeros(6, 3, 16, 16, dtype=torch.uint8), torch.arange(6) % 3, torch.zeros(0))
    asked: list[list[int]] = []

    def held(numbers: list[int]) -> object:
        asked.append(numbers)
        return views(numbers, ARMS)

    chosen = choose_gallery(each([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.0] * 6), [1, 4], PAIR)
    entries = write_gallery(tmp_path, images, chosen, held)  # type: ignore[arg-type]
    assert asked == [[5], [0], [1, 4]]
    assert [entry.file for entry in entries] == [
        "pictures/best-5.png",
        "pictures/worst-0.png",
        "pictures/random-1.png",
        "pictures/random-4.png",
    ]
    for entry in entries:
        assert list(entry.arms) == ARMS
        data = (tmp_path / entry.file).read_bytes()
        assert int.from_bytes(data[16:20], "big") == 4 * TILE + 3 * GAP, "input and three maps"
        assert set(entry.arms["area"].figures) == {"energy_in_mask", "entropy"}


@pytest.mark.parametrize(
    ("energy", "entropy", "expected"),
    [
        (0.123, 2.0, "energy 0.12, peak 8 x"),
        (None, 2.0, "entropy 2.00, peak 8 x"),
        (math.nan, -0.0, "entropy 0.00, peak 8 x"),
        (None, None, "peak 8 x"),
    ],
)
def test_what_stands_under_a_map(energy: float | None, entropy: float | None, expected: str) -> None:
    caption: Callable[[float], MapCaption] = lambda peak: MapCaption(  # noqa: E731
        "disc",
        0.5,
        peak,
        {name: value for name, value in (("energy_in_mask", energy), ("entropy", entropy)) if value is not None},
    )
    assert caption_figures(caption(8.2)) == expected
    assert caption_figures(caption(0.0)) == "dead map"


@pytest.mark.parametrize("by", ["energy_in_mask", "entropy"])
def test_of_several_classes_the_one_that_gained_or_lost_most_is_drawn(by: str, tmp_path: Path) -> None:
    _, image_set = build_data(ShapesConfig(image_size=32, train=8, val=12, objects=3), 0)
    pair = contrasts(["plain", "other"])[0]
    networks = {pair.reference: network(True, 8), pair.treatment: network(True, 8, seed=1)}
    shown = list(range(12))
    batch = one_batch(image_set, shown, torch.device("cpu"))
    mapped = {
        name: forward_maps(net, batch.images, batch.targets, CamVariant.gradcam) for name, net in networks.items()
    }
    maps, logits = ({name: part[at] for name, part in mapped.items()} for at in (2, 0))
    chosen = Chosen(shown[::-1], shown, shown, INDICATORS[f"cam/{by}"], pair)
    entries = write_gallery(tmp_path, image_set, chosen, lambda _: Views.of(batch, maps, logits))
    assert [entry.file for entry in entries[:12]] == [f"pictures/best-{number}.png" for number in chosen.best]
    of = mapped["plain"].targets
    before, after = (map_metrics(part.maps, of.regions(batch.regions)) for part in mapped.values())
    change = after[by] - before[by]
    gained = change if by == "energy_in_mask" else -change
    assert of.occurrence.max() > 0
    for number in shown:
        here = (of.rows == number).nonzero().flatten()
        best, worst = (here[(sign * gained[here]).nan_to_num(nan=-torch.inf).argmax()] for sign in (1, -1))
        for why, which in (("best", best), ("worst", worst), ("random", here[0])):
            (entry,) = (entry for entry in entries if entry.file == f"pictures/{why}-{number}.png")
            assert entry.truth == image_set.classes[int(of.classes[which])]
            for name, figures in (("plain", before), ("other", after)):
                for figure, value in entry.arms[name].figures.items():
                    assert value == pytest.approx(float(figures[figure][which]), abs=1e-4, nan_ok=True)
