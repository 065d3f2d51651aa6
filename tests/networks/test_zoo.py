"""Networks by name: timm's, and those that a user's function makes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from camtrain import CamLoss
from camtrain.cam.routes import GradientRoute
from camtrain.config.schema import ModelConfig
from camtrain.errors import UserError
from camtrain.networks.build import build
from camtrain.networks.weights import normalisation
from camtrain.networks.zoo import make_network

NETWORKS = {  # the default layer, whether its map has the closed form, and the images' size
    "timm/tf_mobilenetv3_small_100": ("blocks", False, (64, 96)),
    "timm/tf_efficientnet_lite0": ("bn2", True, (64, 64)),
    "timm/convnext_atto": ("norm_pre", False, (64, 96)),
    "timm/vit_tiny_patch16_224": ("blocks", False, (64, 96)),
    "timm/swin_tiny_patch4_window7_224": ("norm", True, (128, 128)),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * ("swin" in name)) for name in NETWORKS])
def test_networks_of_timm_are_trained_through(name: str) -> None:
    pytest.importorskip("timm")
    layer, closed, size = NETWORKS[name]
    built = build(ModelConfig(name=name), 3, (3, *size), 0)
    assert built.layer.split(".")[0] == layer
    assert min(built.output.grid) >= 4
    assert (built.output.height > built.output.width) == (size[0] > size[1])
    criterion, network = CamLoss(weight=1.0, confidence_exponent=0), built.classifier.train()
    logits, activations = network(torch.rand(2, 3, *size))
    assert (network.head().route is GradientRoute.closed) == closed
    term = criterion.term(logits, activations, torch.tensor([0, 1]), None, train=True)
    assert bool(term.counts.any())
    below = next(weight for weight in network.parameters() if weight.dim() == 4)
    (gradient,) = torch.autograd.grad(term.mean(), below)
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.abs().max()) > 0


def test_timm_says_how_images_are_normalised() -> None:
    pytest.importorskip("timm")
    config = ModelConfig(name="timm/tf_efficientnet_lite0", weights="some.pt")
    network = make_network(config, 5, (3, 64, 64))
    assert normalisation(config, network, 3) == ((0.5,) * 3, (0.5,) * 3)
    config.mean, config.std = [0.25], [0.1, 0.2, 0.3]
    assert normalisation(config, network, 3) == ([0.25] * 3, [0.1, 0.2, 0.3])
    with pytest.raises(UserError, match=r"model\.mean=\[0\.1, 0\.2\]: images have 3 channels"):
        normalisation(ModelConfig(name="resnet18", mean=[0.1, 0.2]), network, 3)
    assert normalisation(ModelConfig(name="resnet18"), network, 1) == ((0.5,), (0.25,))


def test_a_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tests = Path(__file__).parent.parent
    module = tmp_path / "own_net_for_test.py"
    text = (tests / "own_networks.py").read_text(encoding="utf-8")
    module.write_text(f"{text}\n\ndef nothing(num_classes):\n    return 3\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = "own_net_for_test:make"
    built = build(ModelConfig(name=name, options={"width": 4, "channels": 2}), 6, (2, 40, 56), 0)
    assert (built.layer, built.output.grid, built.output.channels) == ("act", (10, 14), 8)
    assert built.classifier(torch.rand(1, 2, 40, 56)).logits.shape == (1, 6)
    for wrong, message in (
        (ModelConfig(name=name, options={"depth": 4}), r"own_net_for_test:make.*unexpected keyword argument 'depth'"),
        (ModelConfig(name="own_net_for_test:nothing"), "it returned int, not a torch.nn.Module"),
        (ModelConfig(name="timm/resnet1"), r"timm .* has no such network; close to it are timm/resnet"),
        (ModelConfig(name="resnet19"), r"no such network; choose .*resnet18.*timm/NAME.*package\.module:function"),
        (
            ModelConfig(name="small_resnet", options={"depth": 4}),
            r"model\.options=\{'depth': 4\}: small_resnet",
        ),
    ):
        with pytest.raises(UserError, match=message):
            make_network(wrong, 3, (3, 64, 64))


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", ["small_resnet", "resnet18", "squeezenet1_0"])
def test_images_of_other_channels_and_shapes(name: str, channels: int) -> None:
    built = build(ModelConfig(name=name), 3, (channels, 64, 96), 0)
    output = built.classifier(torch.rand(2, channels, 64, 96))
    assert output.activations.shape[2:] == built.output.grid
    assert built.output.width > built.output.height


def test_square_images_only() -> None:
    with pytest.raises(UserError, match=r"dataset\.image_size=\[64,96\]: vit_b_16 takes square images only"):
        make_network(ModelConfig(name="vit_b_16"), 3, (3, 64, 96))
