"""Classes of a data set as groups of a network's outputs."""

from __future__ import annotations

import copy

import pytest
import torch
from small import batch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d
from torchvision.models import get_model

from camtrain import capture, maps
from camtrain.cam.routes import GradientRoute
from camtrain.cam.stretch import tiles, upsample
from camtrain.networks.classes import alone, grouped

GROUPS = [[4], [0, 2, 3], [1, 5]]


def network() -> nn.Module:
    torch.manual_seed(0)
    return get_model("resnet18", num_classes=7).double().eval()


def test_probabilities_are_those_of_the_network_given_that_it_is_one_of_the_classes() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).double() * 4
    shares = logits.softmax(1)
    summed = torch.stack([shares[:, group].sum(1) for group in GROUPS], 1)
    assert torch.allclose(grouped(logits, GROUPS).softmax(1), summed / summed.sum(1, keepdim=True))


def test_a_class_of_one_output_has_its_logit() -> None:
    logits = torch.randn(2, 7)
    assert torch.equal(grouped(logits, [[4], [0], [6]]), logits[:, [4, 0, 6]])
    assert alone([[4], [0]]) == [4, 0]
    assert alone(GROUPS) is None
    assert grouped(torch.tensor([[1e4, -1e4]]), [[0, 1]]).isfinite().all()


def test_the_map_of_a_class_is_the_mean_of_its_outputs_maps_weighted_by_their_share() -> None:
    """Grad-CAM is linear in the gradient of the score, and that of the logsumexp is such a mean."""
    net = capture(network(), "layer4")
    images = batch().images.double()
    logits = net(images).logits
    whole = torch.stack([maps(net, images, target=output) for output in range(7)])
    other = copy.deepcopy(net)
    other.groups, other._probed = GROUPS, {}
    for kind, group in enumerate(GROUPS):
        weights = logits[:, group].softmax(1).T[:, :, None, None]
        expected = (weights * whole[group]).sum(0)
        assert torch.allclose(maps(other, images, target=kind), expected, atol=1e-9)
    assert other.head().route is GradientRoute.autograd


def test_the_closed_form_stays_where_each_class_is_one_output() -> None:
    net = capture(network(), "layer4")
    images = batch().images.double()
    expected = maps(net, images, target=5)
    net.groups, net._probed = [[5], [2]], {}
    assert torch.allclose(maps(net, images, target=0), expected, atol=1e-12)
    assert net.head().route is GradientRoute.closed


@pytest.mark.parametrize("registered", [True, False])
def test_maps_in_other_cells_are_means_of_what_is_drawn(registered: bool) -> None:
    net = capture(network(), "layer4")
    images = batch().images.double()
    net.registered = registered
    own = maps(net, images, target=1)
    drawn = upsample(own, (64, 64), net.placement(images))
    net.grid = (4, 8)
    found = maps(net, images, target=1)
    assert found.shape == (4, 4, 8)
    assert torch.allclose(found, drawn.reshape(4, 4, 16, 8, 8).mean((2, 4)))
    assert net.placement(images) is None, "equal tiles"
    assert torch.allclose(
        maps(net, images, target=1, stretched=True), upsample(found, (64, 64), tiles((64, 64), (4, 8)))
    )
    assert torch.allclose(adaptive_avg_pool2d(drawn, (4, 8)), found)
