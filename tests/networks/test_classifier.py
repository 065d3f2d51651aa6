"""A network and its target layer against torchvision's own network."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import get_model

from camtrain.config.options import Stem
from camtrain.config.schema import ModelConfig
from camtrain.networks.build import build


def test_logits_are_those_of_the_plain_network() -> None:
    built = build(ModelConfig(name="resnet18", stem=Stem.keep), classes=7, shape=(3, 64, 64), seed=0)
    plain = get_model("resnet18", num_classes=7)
    plain.load_state_dict(built.classifier.backbone.state_dict())
    images = torch.rand(2, 3, 64, 64)
    model = built.classifier.eval()
    torch.testing.assert_close(model(images).logits, plain.eval()((images - model.mean) / model.std))


@pytest.mark.parametrize(
    ("name", "layer"),
    [("swin_t", "features.7.1"), ("swin_t", "permute"), ("vit_b_16", "encoder.layers.encoder_layer_5.ln_2")],
)
def test_logits_and_layers_are_those_of_the_plain_network(name: str, layer: str) -> None:
    size = 64 if name == "vit_b_16" else 128
    built = build(ModelConfig(name=name, layer=layer), 7, (3, size, size), 0)
    plain = get_model(name, num_classes=7, **({"image_size": size} if name == "vit_b_16" else {})).eval()
    plain.load_state_dict(built.classifier.backbone.state_dict())
    seen = []
    plain.get_submodule(layer).register_forward_hook(lambda *call: seen.append(call[2]))
    images = torch.rand(2, 3, size, size)
    model = built.classifier.eval()
    output = model(images)
    torch.testing.assert_close(output.logits, plain((images - model.mean) / model.std), rtol=1e-4, atol=1e-5)
    grid = {"vit_b_16": lambda x: x[:, 1:].mT.unflatten(2, (4, 4)), "features.7.1": lambda x: x.permute(0, 3, 1, 2)}
    expected = grid.get(name, grid.get(layer, lambda x: x))(seen[0])
    torch.testing.assert_close(output.activations, expected, rtol=1e-4, atol=1e-5)
