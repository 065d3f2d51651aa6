"""The table of indicators: whole, in the files' order, and the page that is made from it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from camtrain.metrics.catalogue import (
    CURVES_ONLY,
    FAMILIES,
    INDICATORS,
    QUESTIONS,
    Place,
    at,
    document,
    is_rate,
    map_indicators,
)

FORMER_RATES = ("accuracy/val", "dead_rate", "pointing", "increase", "box_accuracy")


def test_the_page_of_indicators_is_current() -> None:
    page = ROOT / "docs" / "indicators.md"
    assert page.read_text() == document(), f"python -m camtrain.metrics.catalogue > {page}"


def test_every_indicator_is_documented() -> None:
    assert list(QUESTIONS) == list(FAMILIES)
    assert len(INDICATORS) == sum(map(len, FAMILIES.values())), "no tag twice"
    for indicator in (*INDICATORS.values(), *CURVES_ONLY):
        assert indicator.formula
        assert indicator.range
        assert indicator.meaning
        assert indicator.better in ("higher", "lower", "")
    assert all(indicator.better for indicator in at(Place.fronts))


def test_figures_of_a_map_in_the_order_of_the_files() -> None:
    tree = json.loads((ROOT / "tests" / "runs" / "old_run" / "result.json").read_text())
    first = tree["arms"]["baseline"]["epochs"][0]
    names = [tag.removeprefix("cam/") for tag in first if tag.startswith("cam/") and tag != "cam/peak_entropy"]
    assert list(map_indicators()) == names
    maps, regions = torch.rand(3, 4, 5), torch.ones(3, 8, 10, dtype=torch.uint8)
    for measure in map_indicators().values():
        assert measure(maps, regions).shape == (3,)


def test_shares_of_images_are_known_by_their_tags() -> None:
    tree = json.loads((ROOT / "tests" / "runs" / "old_run" / "result.json").read_text())
    tags = [tag for tag in tree["arms"]["baseline"]["final"] if tag.count("/")]
    assert len(tags) > 60
    for tag in tags:
        assert is_rate(tag) == tag.endswith(FORMER_RATES), tag


@pytest.mark.parametrize("package", ["cam", "loss", "metrics", "metrics.catalogue"])
def test_the_mathematics_imports_no_configuration(package: str) -> None:
    program = f"import sys, camtrain.{package}; assert not {{'hydra', 'omegaconf'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
