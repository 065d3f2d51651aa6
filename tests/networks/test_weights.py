"""Pretrained weights from files: other heads, other sizes, wrong files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import get_model

from camtrain.config.schema import ModelConfig
from camtrain.errors import UserError
from camtrain.networks.build import build


def test_no_weights_by_word() -> None:
    assert build(ModelConfig(name="small_resnet", weights="none"), 3, (3, 64, 64), 0).layer == "layer3"


def test_weights_file_with_another_head(tmp_path: Path) -> None:
    state = get_model("squeezenet1_0", num_classes=1000).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    built = build(ModelConfig(name="squeezenet1_0", weights=str(tmp_path / "weights.pth")), 5, (3, 64, 64), 0)
    loaded = built.classifier.backbone.state_dict()
    assert torch.equal(loaded["features.3.squeeze.weight"], state["features.3.squeeze.weight"])
    assert loaded["classifier.1.weight"].shape[0] == 5


def test_weights_file_with_the_same_head_is_loaded_whole(tmp_path: Path) -> None:
    state = get_model("resnet18", num_classes=5).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    loaded = build(ModelConfig(name="resnet18", weights=str(tmp_path / "weights.pth")), 5, (3, 64, 64), 0)
    own = loaded.classifier.backbone.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in state)


def test_position_embeddings_are_stretched_to_another_size(tmp_path: Path) -> None:
    torch.save(get_model("vit_b_16", num_classes=9, image_size=96).state_dict(), tmp_path / "weights.pth")
    built = build(ModelConfig(name="vit_b_16", weights=str(tmp_path / "weights.pth")), 3, (3, 64, 64), 0)
    assert built.classifier.backbone.state_dict()["encoder.pos_embedding"].shape == (1, 17, 768)


def test_wrong_weights_files(tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    torch.save(get_model("squeezenet1_0").state_dict(), other)
    with pytest.raises(UserError, match="another network than resnet18"):
        build(ModelConfig(name="resnet18", weights=str(other)), 5, (3, 64, 64), 0)
    wider = tmp_path / "wider.pth"
    torch.save(get_model("resnet50").state_dict(), wider)
    with pytest.raises(UserError, match="another network"):
        build(ModelConfig(name="wide_resnet50_2", weights=str(wider)), 5, (3, 64, 64), 0)
    text = tmp_path / "text.pth"
    text.write_text("no weights")
    with pytest.raises(UserError, match="not a file of weights"):
        build(ModelConfig(name="resnet18", weights=str(text)), 5, (3, 64, 64), 0)
    tensor = tmp_path / "tensor.pth"
    torch.save(torch.zeros(3), tensor)
    with pytest.raises(UserError, match="not a state dict"):
        build(ModelConfig(name="resnet18", weights=str(tensor)), 5, (3, 64, 64), 0)
    with pytest.raises(UserError, match="IMAGENET1K_V1"):
        build(ModelConfig(name="resnet18", weights="IMAGENET"), 5, (3, 64, 64), 0)
    with pytest.raises(UserError, match="no such file"):
        build(ModelConfig(name="small_resnet", weights="IMAGENET1K_V1"), 5, (3, 64, 64), 0)


def test_real_pretrained_squeezenet(photographs: Path) -> None:
    weights = photographs / "pretrained" / "squeezenet1_0_deepcompression.pth"
    built = build(ModelConfig(name="squeezenet1_0", weights=str(weights)), 5, (3, 192, 192), 0)
    assert built.output.grid == (11, 11)
    assert built.stem == ()
