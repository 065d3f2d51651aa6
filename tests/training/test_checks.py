"""What is refused before training starts, and which path of the gradient is found."""

from __future__ import annotations

import copy

import pytest
import torch
from small import CLOSED, batch, classifier

from camtrain.cam.routes import GradientRoute, Routes
from camtrain.config.options import BatchNorm, CamConfig, CamVariant, GradientPath, Score, Term
from camtrain.config.schema import ModelConfig
from camtrain.errors import Diverged, UserError
from camtrain.networks.build import build
from camtrain.networks.capture import probe_routes
from camtrain.training.checks import check_alive, check_routes

AUTOGRAD = Routes(GradientRoute.autograd, GradientRoute.autograd)


def test_a_term_that_cannot_train_is_refused() -> None:
    model = classifier("small_resnet")
    with torch.no_grad():
        model.backbone.get_submodule("fc").weight.fill_(-1.0)  # type: ignore[union-attr,operator]
    with pytest.raises(UserError, match="8 of 8 maps are dead"):
        check_alive(model, [batch(0), batch(1)], CamConfig(score=Score.logit))


def test_a_network_that_is_not_finite_before_training_is_refused() -> None:
    model = classifier("small_resnet")
    with torch.no_grad():
        model.backbone.get_submodule("fc").weight.fill_(3e38)  # type: ignore[union-attr,operator]
    with pytest.raises(Diverged, match=r"not finite before any training: .* model\.weights"):
        check_alive(model, [batch()], CamConfig())


def test_energy_outside_needs_regions() -> None:
    bare = batch()._replace(regions=torch.zeros(4, 64, 64, dtype=torch.uint8))
    with pytest.raises(UserError, match="masks or boxes"):
        check_alive(classifier("small_resnet"), [bare], CamConfig(term=Term.energy_outside))


def test_maps_that_cover_few_enough_cells_are_no_fault_but_a_grid_of_no_more_cells_is() -> None:
    model = classifier("small_resnet")
    cells = model(batch().images).activations[0, 0].numel()
    norms = [check_alive(model, [batch()], CamConfig(enough=enough)) for enough in (None, cells - 0.01)]
    assert norms[0] == norms[1] > 0
    with pytest.raises(UserError, match=rf"enough={cells} leaves nothing to minimise: maps of this layer have {cells}"):
        check_alive(model, [batch()], CamConfig(enough=cells))


@pytest.mark.parametrize(
    ("name", "routes"),
    [
        ("small_resnet", CLOSED),
        ("resnet18", CLOSED),
        (
            "efficientnet_b0",
            Routes(GradientRoute.autograd, GradientRoute.closed),
        ),  # dropout before the linear layer, in training only
        ("mobilenet_v3_small", AUTOGRAD),
        ("squeezenet1_0", AUTOGRAD),
        ("vgg11", AUTOGRAD),
        ("densenet121", AUTOGRAD),
        ("vit_b_16", AUTOGRAD),
    ],
)
def test_probe(name: str, routes: Routes) -> None:
    torch.manual_seed(0)
    assert probe_routes(classifier(name), batch().images, Score.centred) == routes


def test_probe_leaves_the_model_as_it_was() -> None:
    model = classifier("small_resnet")
    before = copy.deepcopy(model.state_dict())
    probe_routes(model, batch().images, Score.centred)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training


def test_cam_and_closed_path_are_refused_where_the_head_has_none() -> None:
    with pytest.raises(UserError, match="cam=gradcam"):
        check_routes(AUTOGRAD, CamConfig(variant=CamVariant.cam), "features")
    with pytest.raises(UserError, match=r"cam\.path=auto"):
        check_routes(AUTOGRAD, CamConfig(path=GradientPath.closed), "features")
    assert check_routes(CLOSED, CamConfig(path=GradientPath.autograd), "layer3") == AUTOGRAD


def test_batch_norm_behind_the_layer_is_refused_unless_frozen(tmp_path: object) -> None:
    model = build(ModelConfig(name="resnet18", layer="layer3"), classes=3, shape=(3, 64, 64), seed=0).classifier
    found = probe_routes(model, batch().images, Score.centred)
    assert found.training is GradientRoute.mixed
    with pytest.raises(UserError, match=r"model\.batch_norm=frozen"):
        check_routes(found, CamConfig(), "layer3")
    assert check_routes(found, CamConfig(weight=0), "layer3") == found
    torch.save(model.backbone.state_dict(), f"{tmp_path}/weights.pt")
    config = ModelConfig(name="resnet18", layer="layer3", weights=f"{tmp_path}/weights.pt", batch_norm=BatchNorm.frozen)
    frozen = build(config, classes=3, shape=(3, 64, 64), seed=0).classifier
    assert probe_routes(frozen, batch().images, Score.centred) == AUTOGRAD
    before = {name: value.clone() for name, value in frozen.named_buffers()}
    frozen.train()(batch().images)
    assert all(torch.equal(before[name], value) for name, value in frozen.named_buffers())


def test_frozen_batch_norm_needs_weights() -> None:
    with pytest.raises(UserError, match=r"needs model\.weights"):
        build(ModelConfig(name="resnet18", batch_norm=BatchNorm.frozen), classes=3, shape=(3, 64, 64), seed=0)
