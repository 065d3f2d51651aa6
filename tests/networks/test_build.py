"""Networks: target layer, stem, weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import get_model

from camtrain.cam.routes import GradientRoute as Path_
from camtrain.cam.routes import Routes
from camtrain.config.options import Stem
from camtrain.config.schema import ModelConfig
from camtrain.errors import UserError
from camtrain.networks.build import build, survey
from camtrain.networks.layers import Layer, Layout

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
    built = build(ModelConfig(name=name), classes=7, image_size=64, seed=0)
    assert built.layer == LAYERS[name]
    assert min(built.grid) >= 4
    output = built.classifier(torch.rand(2, 3, 64, 64))
    assert output.logits.shape == (2, 7)
    assert output.activations.shape == (2, built.channels, *built.grid)
    before = output.activations.detach().clone()
    output.logits.sum().backward()
    assert torch.equal(before, output.activations.detach()), "something wrote into the activations"


def test_logits_are_those_of_the_plain_network() -> None:
    built = build(ModelConfig(name="resnet18", stem=Stem.keep), classes=7, image_size=64, seed=0)
    plain = get_model("resnet18", num_classes=7)
    plain.load_state_dict(built.classifier.backbone.state_dict())
    images = torch.rand(2, 3, 64, 64)
    model = built.classifier.eval()
    torch.testing.assert_close(model(images).logits, plain.eval()((images - model.mean) / model.std))


def test_several_classes_per_image_need_logits_below_zero() -> None:
    images = torch.rand(2, 3, 64, 64)
    for multilabel in (False, True):
        built = build(ModelConfig(name="squeezenet1_1"), 7, 64, 0, multilabel=multilabel)
        assert built.relu_left_out == ("classifier.2" if multilabel else None)
        assert bool((built.classifier.eval()(images).logits < 0).any()) == multilabel
    assert build(ModelConfig(name="alexnet"), 7, 64, 0, multilabel=True).relu_left_out is None


def test_stem_is_adapted_only_where_the_map_would_be_too_coarse() -> None:
    assert build(ModelConfig(name="resnet18"), 3, 64, 0).stem == ("maxpool",)
    assert build(ModelConfig(name="resnet18"), 3, 128, 0).stem == ()
    kept = build(ModelConfig(name="resnet18", stem=Stem.keep), 3, 64, 0)
    assert kept.stem == ()
    assert kept.grid == (2, 2)


def test_a_map_of_one_cell_is_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"1 x 1 cells .* dataset.image_size=128"):
        build(ModelConfig(name="resnet18", stem=Stem.keep), 3, 32, 0)
    with pytest.raises(UserError, match=r"dataset.image_size="):
        build(ModelConfig(name="resnet18"), 3, 16, 0)


def test_same_seed_same_weights() -> None:
    one, other, third = (
        build(ModelConfig(name="small_resnet"), 3, 64, seed).classifier.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert any(not torch.equal(one[key], third[key]) for key in one)


def test_a_layer_by_name() -> None:
    built = build(ModelConfig(name="resnet18", layer="layer3"), 3, 64, 0)
    assert built.grid == (4, 4)
    with pytest.raises(UserError, match=r"layer4 \(2 x 2\)"):
        build(ModelConfig(name="resnet18", layer="layer9"), 3, 64, 0)


def test_a_layer_that_is_used_twice_is_refused() -> None:
    with pytest.raises(UserError, match="more than once"):
        build(ModelConfig(name="resnet50", layer="layer4.0.relu"), 3, 64, 0)


def test_no_weights_by_word() -> None:
    assert build(ModelConfig(name="small_resnet", weights="none"), 3, 64, 0).layer == "layer3"


def test_unknown_networks() -> None:
    with pytest.raises(UserError, match="resnet18"):
        build(ModelConfig(name="resnet19"), 3, 64, 0)


def test_branches_of_a_block_are_widened_together() -> None:
    built = build(ModelConfig(name="regnet_y_400mf"), 3, 64, 0)
    assert built.stem == ("trunk_output.block1.block1-0.proj.0", "trunk_output.block1.block1-0.f.b.0")


class TestTransformers:
    """Layers that hold their grid in other ways than convolutions do."""

    def test_vit_takes_the_last_layer_whose_patches_reach_the_class_token(self) -> None:
        built = build(ModelConfig(name="vit_b_16"), 3, 64, 0)
        assert (built.layer, built.grid, built.channels) == ("encoder.layers.encoder_layer_11.ln_1", (4, 4), 768)
        output = built.classifier(torch.rand(2, 3, 64, 64))
        (gradient,) = torch.autograd.grad(output.logits.sum(), output.activations)
        assert output.activations.shape == gradient.shape == (2, 768, 4, 4)
        assert bool(gradient.any())

    def test_a_layer_that_the_score_does_not_depend_on_is_refused_and_the_last_one_named(self) -> None:
        with pytest.raises(UserError, match=r"does not depend.*encoder\.layers\.encoder_layer_11\.ln_1"):
            build(ModelConfig(name="vit_b_16", layer="encoder.layers.encoder_layer_11"), 3, 64, 0)

    @pytest.mark.parametrize(
        ("name", "layer"),
        [("swin_t", "features.7.1"), ("swin_t", "permute"), ("vit_b_16", "encoder.layers.encoder_layer_5.ln_2")],
    )
    def test_logits_and_layers_are_those_of_the_plain_network(self, name: str, layer: str) -> None:
        size = 64 if name == "vit_b_16" else 128
        built = build(ModelConfig(name=name, layer=layer), 7, size, 0)
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

    def test_position_embeddings_are_stretched_to_another_size(self, tmp_path: Path) -> None:
        torch.save(get_model("vit_b_16", num_classes=9, image_size=96).state_dict(), tmp_path / "weights.pth")
        built = build(ModelConfig(name="vit_b_16", weights=str(tmp_path / "weights.pth")), 3, 64, 0)
        assert built.classifier.backbone.state_dict()["encoder.pos_embedding"].shape == (1, 17, 768)


def test_survey_names_every_layer_with_its_path() -> None:
    chosen, found = survey(ModelConfig(name="resnet18"), 3, 64)
    assert chosen == "layer4"
    assert found["layer4"] == (Layer(512, 4, 4, Layout.channels_first), Routes(Path_.closed, Path_.closed))
    assert found["layer4.1.conv2"][1] == Routes(Path_.mixed, Path_.autograd)
    assert found["layer1"][0].grid == (32, 32)
    assert "layer1.0.relu" not in found, "it is used twice"
    chosen, found = survey(ModelConfig(name="vit_b_16"), 3, 64)
    assert found["encoder"][1] == Routes(Path_.unreached, Path_.unreached)
    assert found["encoder.layers.encoder_layer_3.ln_2"][1] == Routes(Path_.autograd, Path_.autograd)


def test_weights_file_with_another_head(tmp_path: Path) -> None:
    state = get_model("squeezenet1_0", num_classes=1000).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    built = build(ModelConfig(name="squeezenet1_0", weights=str(tmp_path / "weights.pth")), 5, 64, 0)
    loaded = built.classifier.backbone.state_dict()
    assert torch.equal(loaded["features.3.squeeze.weight"], state["features.3.squeeze.weight"])
    assert loaded["classifier.1.weight"].shape[0] == 5


def test_weights_file_with_the_same_head_is_loaded_whole(tmp_path: Path) -> None:
    state = get_model("resnet18", num_classes=5).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    loaded = build(ModelConfig(name="resnet18", weights=str(tmp_path / "weights.pth")), 5, 64, 0)
    own = loaded.classifier.backbone.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in state)


def test_wrong_weights_files(tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    torch.save(get_model("squeezenet1_0").state_dict(), other)
    with pytest.raises(UserError, match="another network than resnet18"):
        build(ModelConfig(name="resnet18", weights=str(other)), 5, 64, 0)
    wider = tmp_path / "wider.pth"
    torch.save(get_model("resnet50").state_dict(), wider)
    with pytest.raises(UserError, match="another network"):
        build(ModelConfig(name="wide_resnet50_2", weights=str(wider)), 5, 64, 0)
    text = tmp_path / "text.pth"
    text.write_text("no weights")
    with pytest.raises(UserError, match="not a file of weights"):
        build(ModelConfig(name="resnet18", weights=str(text)), 5, 64, 0)
    tensor = tmp_path / "tensor.pth"
    torch.save(torch.zeros(3), tensor)
    with pytest.raises(UserError, match="not a state dict"):
        build(ModelConfig(name="resnet18", weights=str(tensor)), 5, 64, 0)
    with pytest.raises(UserError, match="IMAGENET1K_V1"):
        build(ModelConfig(name="resnet18", weights="IMAGENET"), 5, 64, 0)
    with pytest.raises(UserError, match="no such file"):
        build(ModelConfig(name="small_resnet", weights="IMAGENET1K_V1"), 5, 64, 0)


def test_real_pretrained_squeezenet(photographs: Path) -> None:
    weights = photographs / "pretrained" / "squeezenet1_0_deepcompression.pth"
    built = build(ModelConfig(name="squeezenet1_0", weights=str(weights)), 5, 192, 0)
    assert built.grid == (11, 11)
    assert built.stem == ()
