"""Networks: the default target layer, the stem, and what is refused."""

from __future__ import annotations

import pytest
import torch

from camtrain.config.options import Stem
from camtrain.config.schema import ModelConfig
from camtrain.errors import UserError
from camtrain.networks.build import build

LAYERS = {
    "small_resnet": "layer3",
    "resnet18": "layer4",
    "resnet34": "layer4",
    "resnet50": "layer4",
    "mobilenet_v3_small": "features",
    "mobilenet_v3_large": "features",
    "squeezenet1_0": "features",
    "efficientnet_b0": "features",
    "vgg11": "features",
    "densenet121": "features",
    "shufflenet_v2_x0_5": "conv5",
    "convnext_tiny": "features",
    "googlenet": "inception5b",
}


@pytest.mark.parametrize("name", LAYERS)
def test_default_layer_grid_and_one_forward_pass(name: str) -> None:
    built = build(ModelConfig(name=name), classes=7, shape=(3, 64, 64), seed=0)
    assert built.layer == LAYERS[name]
    assert min(built.output.grid) >= 4
    output = built.classifier(torch.rand(2, 3, 64, 64))
    assert output.logits.shape == (2, 7)
    assert output.activations.shape == (2, built.output.channels, *built.output.grid)
    before = output.activations.detach().clone()
    output.logits.sum().backward()
    assert torch.equal(before, output.activations.detach()), "something wrote into the activations"


def test_several_classes_per_image_need_logits_below_zero() -> None:
    images = torch.rand(2, 3, 64, 64)
    for multilabel in (False, True):
        built = build(ModelConfig(name="squeezenet1_1"), 7, (3, 64, 64), 0, multilabel=multilabel)
        assert built.relu_left_out == ("classifier.2" if multilabel else None)
        assert bool((built.classifier.eval()(images).logits < 0).any()) == multilabel
    assert build(ModelConfig(name="alexnet"), 7, (3, 64, 64), 0, multilabel=True).relu_left_out is None


def test_stem_is_adapted_only_where_the_map_would_be_too_coarse() -> None:
    assert build(ModelConfig(name="resnet18"), 3, (3, 64, 64), 0).stem == ("maxpool",)
    assert build(ModelConfig(name="resnet18"), 3, (3, 128, 128), 0).stem == ()
    kept = build(ModelConfig(name="resnet18", stem=Stem.keep), 3, (3, 64, 64), 0)
    assert kept.stem == ()
    assert kept.output.grid == (2, 2)


def test_branches_of_a_block_are_widened_together() -> None:
    built = build(ModelConfig(name="regnet_y_400mf"), 3, (3, 64, 64), 0)
    assert built.stem == ("trunk_output.block1.block1-0.proj.0", "trunk_output.block1.block1-0.f.b.0")


def test_a_map_of_one_cell_is_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"1 x 1 cells .* dataset.image_size=128"):
        build(ModelConfig(name="resnet18", stem=Stem.keep), 3, (3, 32, 32), 0)
    with pytest.raises(UserError, match=r"dataset.image_size="):
        build(ModelConfig(name="resnet18"), 3, (3, 16, 16), 0)


def test_same_seed_same_weights() -> None:
    one, other, third = (
        build(ModelConfig(name="small_resnet"), 3, (3, 64, 64), seed).classifier.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert any(not torch.equal(one[key], third[key]) for key in one)


def test_a_layer_by_name() -> None:
    built = build(ModelConfig(name="resnet18", layer="layer3"), 3, (3, 64, 64), 0)
    assert built.output.grid == (4, 4)
    with pytest.raises(UserError, match=r"layer4 \(2 x 2\)"):
        build(ModelConfig(name="resnet18", layer="layer9"), 3, (3, 64, 64), 0)


def test_a_layer_that_is_used_twice_is_refused() -> None:
    with pytest.raises(UserError, match="more than once"):
        build(ModelConfig(name="resnet50", layer="layer4.0.relu"), 3, (3, 64, 64), 0)


def test_unknown_networks() -> None:
    with pytest.raises(UserError, match="resnet18"):
        build(ModelConfig(name="resnet19"), 3, (3, 64, 64), 0)
