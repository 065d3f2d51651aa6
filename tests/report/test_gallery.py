"""Which images and maps the gallery draws."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from measured import network

from camtrain.config.options import CamVariant
from camtrain.config.schema import CamConfig, ShapesConfig
from camtrain.data.build import build as build_data
from camtrain.evaluation.every_epoch import map_metrics
from camtrain.evaluation.forward import forward_maps
from camtrain.report import gallery


@pytest.mark.parametrize("by", [gallery.ENERGY, gallery.ENTROPY])
def test_of_several_classes_the_one_that_gained_or_lost_most_is_drawn(by: str, tmp_path: Path) -> None:
    _, image_set = build_data(ShapesConfig(image_size=32, train=8, val=12, objects=3), 0)
    arms = {"baseline": network(True, 8), "regularised": network(True, 8, seed=1)}
    shown = list(range(12))
    chosen = gallery.Chosen(shown, shown, shown, by)
    drawn = gallery.write_gallery(tmp_path, arms, image_set, chosen, CamConfig())
    images, regions = image_set.gather(shown)
    assert regions is not None
    mapped = [forward_maps(each, images.float() / 255, image_set.targets, CamVariant.gradcam) for each in arms.values()]
    of = mapped[0].targets
    own = of.regions(regions)
    before, after = (map_metrics(part.maps, own) for part in mapped)
    energy, entropy = (after[name] - before[name] for name in ("energy_in_mask", "entropy"))
    gain = energy if by == gallery.ENERGY else -entropy
    assert of.occurrence.max() > 0
    for number in shown:
        here = (of.rows == number).nonzero().flatten()
        best, worst = (here[(sign * gain[here]).nan_to_num(nan=-torch.inf).argmax()] for sign in (1, -1))
        for why, which in (("best", best), ("worst", worst), ("random", here[0])):
            (entry,) = (entry for entry in drawn if entry["file"] == f"pictures/{why}-{number}.png")
            assert entry["truth"] == image_set.classes[int(of.classes[which])]
            for name, figures in (("baseline", before), ("regularised", after)):
                assert entry[name]["energy_in_mask"] == pytest.approx(float(figures["energy_in_mask"][which]), abs=1e-4)
                assert entry[name]["entropy"] == pytest.approx(float(figures["entropy"][which]), abs=1e-4, nan_ok=True)
