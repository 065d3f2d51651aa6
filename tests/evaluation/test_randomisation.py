"""Maps while weights are randomised."""

from __future__ import annotations

import itertools

import pytest
import torch
from measured import context_of, network

from camtrain.cam import distribution
from camtrain.config.options import CamVariant
from camtrain.config.schema import ShapesConfig
from camtrain.data.batches import Batching, all_batches
from camtrain.data.build import build as build_data
from camtrain.evaluation.every_epoch import evaluate
from camtrain.evaluation.forward import forward_maps
from camtrain.evaluation.randomisation import randomisation_test
from camtrain.metrics.randomisation import STAGES, cascade
from camtrain.networks.classifier import Classifier


def networks(one: Classifier) -> dict[str, Classifier]:
    return {"baseline": one}


def test_randomising_ends_in_the_fresh_network() -> None:
    _, image_set = build_data(ShapesConfig(image_size=32, train=8, val=8), 0)
    trained, other = network(True, 8), network(True, 8, seed=5)
    everything = torch.ones(8, dtype=torch.bool)
    context = context_of(networks(trained), image_set, everything)
    batches = list(all_batches(image_set, Batching(4)))
    evaluated = evaluate(networks(trained), batches, CamVariant.gradcam, everything)
    found = randomisation_test(context, evaluated, batches)
    curve = found.curves["baseline"]
    assert len(curve) == STAGES + 1
    assert curve[0] == pytest.approx(1, abs=1e-5)
    images, _ = image_set.gather(range(8))
    maps = [
        forward_maps(one, images.float() / 255, image_set.targets, CamVariant.gradcam).maps for one in (trained, other)
    ]
    alike = distribution.correlation(*maps)
    gone = distribution.is_dead(maps[1]) & ~distribution.is_dead(maps[0])
    expected = alike.masked_fill(gone, 0).nanmean()
    assert curve[-1] == pytest.approx(float(expected), abs=1e-4)
    assert found.measured.means["baseline"]["sanity/all"] == pytest.approx(curve[-1], abs=1e-6)
    assert found.measured.means["baseline"]["sanity/head"] == pytest.approx(curve[1], abs=1e-6)


def test_cascade_replaces_everything_from_the_last_to_the_first() -> None:
    trained, changing = network(True, 8).backbone, network(True, 8, seed=5).backbone
    fresh = {name: value.clone() for name, value in changing.state_dict().items()}
    state = trained.state_dict()
    differ = [name for name in state if not torch.equal(state[name], fresh[name])]
    left = []
    for _ in cascade(changing, state):
        now = changing.state_dict()
        left.append({name for name in differ if torch.equal(now[name], state[name])})
        assert all(torch.equal(now[name], state[name]) or torch.equal(now[name], fresh[name]) for name in now)
    assert left[0] == set(differ)
    assert left[-1] == set()
    assert all(later < earlier for earlier, later in itertools.pairwise(left))
    assert left[0] - left[1] <= {"fc.weight", "fc.bias"}
