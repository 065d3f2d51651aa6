"""Target layers: the route of each, and grids that transformers hold in other ways than convolutions do."""

from __future__ import annotations

from typing import NoReturn

import pytest
import torch
from torch import Tensor, nn

from camtrain.cam.routes import GradientRoute, Routes
from camtrain.config.schema import ModelConfig
from camtrain.errors import UserError
from camtrain.networks.build import build, survey
from camtrain.networks.layers import Layer, Layout, run_once


def test_vit_takes_the_last_layer_whose_patches_reach_the_class_token() -> None:
    built = build(ModelConfig(name="vit_b_16"), 3, (3, 64, 64), 0)
    assert built.layer == "encoder.layers.encoder_layer_11.ln_1"
    assert built.output == Layer(768, 4, 4, Layout.tokens)
    output = built.classifier(torch.rand(2, 3, 64, 64))
    (gradient,) = torch.autograd.grad(output.logits.sum(), output.activations)
    assert output.activations.shape == gradient.shape == (2, 768, 4, 4)
    assert bool(gradient.any())


def test_a_layer_that_the_score_does_not_depend_on_is_refused_and_the_last_one_named() -> None:
    with pytest.raises(UserError, match=r"does not depend.*encoder\.layers\.encoder_layer_11\.ln_1"):
        build(ModelConfig(name="vit_b_16", layer="encoder.layers.encoder_layer_11"), 3, (3, 64, 64), 0)


def test_survey_names_every_layer_with_its_path() -> None:
    chosen, found = survey(ModelConfig(name="resnet18"), 3, (3, 64, 64))
    assert chosen == "layer4"
    layer, routes, placement = found["layer4"]
    assert layer == Layer(512, 4, 4, Layout.channels_first)
    assert routes == Routes(GradientRoute.closed, GradientRoute.closed)
    assert placement is not None
    assert placement.rows == placement.columns == (0, 16, 223)
    assert found["layer4.1.conv2"][1] == Routes(GradientRoute.mixed, GradientRoute.autograd)
    assert found["layer1"][0].grid == (32, 32)
    assert "layer1.0.relu" not in found, "it is used twice"
    chosen, found = survey(ModelConfig(name="vit_b_16"), 3, (3, 64, 64))
    assert found["encoder"][1] == Routes(GradientRoute.unreached, GradientRoute.unreached)
    assert found["encoder.layers.encoder_layer_3.ln_2"][1] == Routes(GradientRoute.autograd, GradientRoute.autograd)


def test_a_size_is_not_at_fault_where_memory_is_exhausted() -> None:
    class Large(nn.Module):
        def forward(self, _images: Tensor) -> NoReturn:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        run_once(Large(), (3, 8, 8))
