"""Files of weights as people have them: what loads gives the reference's logits, what does not is named."""

from __future__ import annotations

import argparse
import os
import pickle
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FinishedRun
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models import get_model

from camtrain.arms import BASELINE, REGULARISED
from camtrain.errors import UserError
from camtrain.networks.fit_weights import fit, modern
from camtrain.networks.small_resnet import SmallResNet
from camtrain.networks.weights import load_weights

CLASSES = 5

State = dict[str, Tensor]


def network(seed: int, classes: int = CLASSES) -> SmallResNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SmallResNet(classes, width=8).eval()


def other_state(seed: int = 7) -> State:
    return network(seed).state_dict()


@pytest.fixture(scope="module")
def state() -> State:
    return network(1).state_dict()


def logits(module: nn.Module) -> Tensor:
    with torch.no_grad():
        return module.eval()(torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32))


def load(path: Path, into: nn.Module | None = None) -> nn.Module:
    own = network(2) if into is None else into
    load_weights(own, str(path), "small_resnet", CLASSES, 32)
    return own


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(f"model.weights={path}: ")
    assert "\n" not in text
    return text


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


class Options:
    """What a checkpoint holds beside its weights, of a class that is not known elsewhere."""


class OptionsDict(dict):
    pass


def objects() -> dict[str, Any]:
    return {
        "args": argparse.Namespace(lr=0.1, folder=Path("x"), device=torch.device("cpu"), sizes={1, 2}),
        "best": np.float64(0.5),
        "curve": np.ones(3),
        "options": Options(),
        "tree": OptionsDict(a=1),
        "lists": defaultdict(list, {1: [2]}),
        "epoch": 3,
    }


OPTIMISER = {"state": {0: {"exp_avg": torch.ones(3, 3)}}, "param_groups": [{"lr": 0.1}]}

LAYOUTS: dict[str, Callable[[State], Any]] = {
    "bare": lambda s: s,
    "parameters": lambda s: OrderedDict((k, nn.Parameter(v, v.is_floating_point() and k == "")) for k, v in s.items()),
    "torchvision's references": lambda s: {"model": s, "optimizer": OPTIMISER, **objects()},
    "timm": lambda s: {"arch": "x", "state_dict": s, "state_dict_ema": other_state(), "args": objects()["args"]},
    "averaged first": lambda s: {
        "model_ema": {**under("module.", other_state()), "n_averaged": torch.tensor(3)},
        "net": s,
    },
    "only averaged": lambda s: {"model_ema": {**under("module.", s), "n_averaged": torch.tensor(3)}, "epoch": 1},
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": OPTIMISER, "loss": torch.tensor(0.1)},
    "lightning": lambda s: {"state_dict": {**under("model.", s), "criterion.weight": torch.ones(CLASSES)}, "epoch": 1},
    "lightning's own head": lambda s: {
        "state_dict": {k if k.startswith("fc.") else f"backbone.{k}": v for k, v in s.items()}
    },
    "dino": lambda s: {"student": under("module.backbone.", s), "teacher": under("backbone.", other_state())},
    "moco": lambda s: {"state_dict": {**under("module.encoder_q.", s), **under("module.encoder_k.", other_state())}},
    "module": lambda s: under("module.", s),
    "compiled": lambda s: under("_orig_mod.module.", s),
    "module twice": lambda s: under("module.module.", s),
    "network": lambda s: {"weights": {"network": under("net.", s)}},
    "projection": lambda s: {**s, "projector.0.weight": torch.ones(4, 4), "AuxLogits.fc.weight": torch.ones(4, 4)},
    "operations counted": lambda s: {**s, "conv1.total_ops": torch.zeros(1)},
    "double": lambda s: {key: value.double() for key, value in s.items()},
    "objects first": lambda s: {**objects(), "model": s},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_give_the_logits_of_the_reference(layout: str, state: State, tmp_path: Path) -> None:
    torch.save(LAYOUTS[layout](state), tmp_path / "w.pth")
    assert torch.equal(logits(load(tmp_path / "w.pth")), logits(network(1)))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_the_networks(kind: torch.dtype, state: State, tmp_path: Path) -> None:
    torch.save({key: value.to(kind) for key, value in state.items()}, tmp_path / "w.pth")
    reference = network(1)
    reference.load_state_dict({key: value.to(kind).to(value.dtype) for key, value in state.items()})
    loaded = load(tmp_path / "w.pth")
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    assert torch.equal(logits(loaded), logits(reference))


def test_formats_are_told_by_their_content(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "a.safetensors", metadata={"format": "pt"})
    (tmp_path / "a.safetensors").rename(tmp_path / "a.pth")
    torch.save(state, tmp_path / "b.safetensors")
    torch.save({"model": state, **objects()}, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    for name in ("a.pth", "b.safetensors", "c.pth"):
        assert torch.equal(logits(load(tmp_path / name)), logits(network(1)))


def test_a_network_around_the_one_of_the_file(state: State, tmp_path: Path) -> None:
    """The user's network holds a known one, whose file has plain names; and its own names may begin with `module.`."""
    torch.save(state, tmp_path / "w.pth")
    around = nn.Sequential(OrderedDict(backbone=network(3), head=nn.Linear(CLASSES, CLASSES)))
    load(tmp_path / "w.pth", around)
    assert torch.equal(logits(around.backbone), logits(network(1)))
    assert torch.equal(logits(load(tmp_path / "w.pth", nn.DataParallel(network(3))).module), logits(network(1)))
    averaged = AveragedModel(network(1)).state_dict()
    torch.save(averaged, tmp_path / "w.pth")
    assert torch.equal(logits(load(tmp_path / "w.pth", AveragedModel(network(3)))), logits(network(1)))


def without(state: State, part: str) -> State:
    return {key: value for key, value in state.items() if not key.startswith(part)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: without(s, "fc."), "fc, the last layer, starts fresh (the file has none)"),
        (lambda s: without(s, "fc.bias"), "fc, the last layer, starts fresh (the file has none)"),
        (lambda s: {**s, **{k: torch.ones(9, *v.shape[1:]) for k, v in s.items() if k.startswith("fc.")}}, "9 outputs"),
        (
            lambda s: {**without(s, "fc."), "head.weight": torch.ones(9, 4)},
            "(the file has none); not used: module.head (1)",
        ),
        (
            lambda s: {**without(s, "fc."), "fc.0.weight": torch.ones(9, 4)},
            "(the file has none); not used: module.fc (1)",
        ),
    ],
)
def test_another_last_layer_stays_fresh(
    change: Callable[[State], State], said: str, state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(under("module.", change(state)), tmp_path / "w.pth")
    with caplog.at_level("INFO", "camtrain"):
        loaded = load(tmp_path / "w.pth").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in without(state, "fc.").items())
    assert torch.equal(loaded["fc.weight"], network(2).state_dict()["fc.weight"])
    assert f"{len(state) - 2} of {len(state)} tensors match, in the file under module.; fc," in caplog.text
    assert said in caplog.text


def test_a_backbone_may_lack_the_whole_classifier() -> None:
    own = {"features.0.weight": torch.ones(4, 3), "classifier.0.weight": torch.ones(5, 4)}
    own["classifier.3.weight"] = torch.ones(2, 5)
    found = fit(own, {"features.0.weight": torch.zeros(4, 3)}, "classifier.3")
    assert found.complete
    assert found.fresh == "classifier"
    half = {key: value for key, value in own.items() if key != "classifier.0.weight"}
    assert fit(own, half, "classifier.3").missing == ["classifier.0.weight"]


def test_the_log_names_what_is_used(state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({"model": state, "model_ema": other_state(), "optimizer": OPTIMISER}, tmp_path / "w.pth")
    with caplog.at_level("INFO", "camtrain"):
        load(tmp_path / "w.pth")
    some = f"all {len(state)} tensors match, in the file under model.; not used: model_ema ("
    assert some in caplog.text
    assert "optimizer (1)" in caplog.text


def test_former_names_of_torchvision() -> None:
    state = {"a.denselayer1.norm.1.weight": torch.ones(2), "b.mlp.linear_2.bias": torch.ones(2)}
    assert list(modern(state, ["x"])) == ["a.denselayer1.norm1.weight", "b.mlp.3.bias"]
    assert list(modern(state, ["c.mlp.linear_2.bias"])) == ["a.denselayer1.norm1.weight", "b.mlp.linear_2.bias"]


class Harm:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("harm",))


CUT = "not a file of weights, or damaged or cut off after"

OTHERS: dict[str, tuple[bytes, str]] = {
    "empty.pth": (b"", "an empty file; download"),
    "lfs.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "a Git LFS pointer"),
    "page.pth": (b"\n<!DOCTYPE html><html>403</html>", "a web page; download the file itself"),
    "text.pth": (b"no weights", "text; download"),
    "model.safetensors.index.json": (b'{"weight_map": {}}', "a table of several files"),
    "keras.h5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file, as Keras writes; only PyTorch's own files"),
    "model.onnx": (b"\x08\x07\x12\x07pytorch" + bytes(99), "an ONNX model; only PyTorch's"),
    "saved_model.pb": (b"\x08\x01\x12" + bytes(99), "a TensorFlow model; only PyTorch's"),
    "packed.gz": (b"\x1f\x8b" + bytes(99), "a file packed by gzip; unpack it first"),
    "noise.pth": (bytes(range(200, 255)) * 9, "data of an unknown kind"),
    "cut.safetensors": ((99).to_bytes(8, "little") + b'{"a":', CUT),
}


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_other_kinds_are_named(name: str, tmp_path: Path) -> None:
    content, said = OTHERS[name]
    (tmp_path / name).write_bytes(content)
    assert said in refusal(tmp_path / name)


def test_whole_networks_are_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = network(1)
    for path, value, entry in ((Path("a.pt"), whole, ""), (Path("b.pt"), {"epoch": 1, "ema": whole}, '["ema"]')):
        torch.save(value, path)
        text = refusal(path)
        assert "a whole network with its code (camtrain.networks.small_resnet.SmallResNet)" in text
        code = text.partition("file: ")[2]
        assert entry in code
        with pytest.MonkeyPatch.context() as patch:  # in a process of its own, as the line says
            patch.chdir(tmp_path)
            exec(code, {"torch": torch})
        assert torch.equal(logits(load(Path("weights.pth"))), logits(whole))
    torch.save(whole, "old.pt", _use_new_zipfile_serialization=False)
    assert "a whole network with its code" in refusal(Path("old.pt"))
    with warnings.catch_warnings(action="ignore"):  # deprecated, but there are such files
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), "script.pt")
    text = refusal(Path("script.pt"))
    assert "a TorchScript archive" in text
    assert 'torch.jit.load("script.pt").state_dict()' in text


def test_what_holds_no_state_dict_is_named(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pth"
    for value, said in (
        ([state], "a single list, not a state dict"),
        ({}, "an empty dict, not a state dict"),
        ({"epoch": 3, "loss": 0.5}, "a dict of 2 other things, epoch (int), loss (float), not a state dict"),
        ({"a": np.ones(3)}, "a (numpy.ndarray)"),
        ({"a": Harm(), "model": state}, "one that runs code when it is opened (posix.mkdir)"),
    ):
        torch.save(value, path)
        assert said in refusal(path)
    assert not (tmp_path / "harm").exists()
    path.write_bytes(pickle.dumps(state))
    assert "a pickle of another kind than torch's" in refusal(path)
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:2000])
    assert f"{CUT} 2000 bytes" in refusal(path)
    np.savez(tmp_path / "w.npz", a=np.ones(3))
    assert "an archive of NumPy arrays" in refusal(tmp_path / "w.npz")
    assert f"a folder; give a file of weights, such as {path}" in refusal(tmp_path)


def test_other_networks_are_told_by_how_much_matches(state: State, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(under("module.layers.", {"a.weight": torch.ones(3), "a.bias": torch.ones(3)}), path)
    text = refusal(path)
    assert "weights of another network than small_resnet: none of its" in text
    assert "the file lacks conv1.weight, bn1.weight, bn1.bias and" in text
    assert "all its names begin with module.layers.a." in text
    torch.save({**state, "layer3.1.weight": torch.ones(3)}, path)  # a block more, all else as it should be
    assert f"{len(state)} of its {len(state)} tensors match, the file has the unknown layer3.1.weight" in refusal(path)
    torch.save({**state, "conv1.weight": torch.ones(8, 1, 4, 4)}, path)
    assert "the file has conv1.weight as 8 x 1 x 4 x 4 instead of 8 x 3 x 4 x 4" in refusal(path)
    torch.save(get_model("squeezenet1_1", num_classes=7).state_dict(), path)
    assert refusal(path).endswith("; they may be squeezenet1_1's")


def test_weights_that_are_no_numbers_are_refused(state: State, tmp_path: Path) -> None:
    for bad in (torch.nan, torch.inf):
        broken = {**state, "layer2.conv1.weight": state["layer2.conv1.weight"].clone()}
        broken["layer2.conv1.weight"].view(-1)[3] = bad
        torch.save({"model": broken}, tmp_path / "w.pth")
        assert "model.layer2.conv1.weight holds NaN or infinity" in refusal(tmp_path / "w.pth")
    # In a last layer that is not used they do no harm.
    torch.save({**state, "fc.weight": torch.full((9, 32), torch.nan), "fc.bias": torch.ones(9)}, tmp_path / "w.pth")
    load(tmp_path / "w.pth")


def test_a_broken_file_in_torchs_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    file.parent.mkdir(parents=True)
    own = get_model("squeezenet1_1", num_classes=CLASSES)
    for content in (b"", b"<html>403</html>", bytes(range(128, 256)) * 40, b"PK\x03\x04" + bytes(99)):
        file.write_bytes(content)
        with pytest.raises(UserError) as caught:
            load_weights(own, "IMAGENET1K_V1", "squeezenet1_1", CLASSES, 64)
        assert f"{file} in torch's cache" in str(caught.value)
        assert str(caught.value).endswith("delete it, and it is downloaded again")
    torch.save(get_model("squeezenet1_1").state_dict(), file)  # as good as a download
    load_weights(own, "IMAGENET1K_V1", "squeezenet1_1", CLASSES, 64)
    assert torch.equal(own.state_dict()["features.0.bias"], torch.load(file)["features.0.bias"])


def test_our_own_files(fake_run: FinishedRun, caplog: pytest.LogCaptureFixture) -> None:
    """An arm's weights, and the checkpoint, of which the reference's are taken."""
    folder = fake_run.folder
    for name in (f"{REGULARISED}/weights.pt", "checkpoint.safetensors"):
        own = SmallResNet(3)
        with caplog.at_level("INFO", "camtrain"):
            load_weights(own, str(folder / name), "small_resnet", 3, 32)
        arm = REGULARISED if "weights" in name else BASELINE
        expected = torch.load(folder / arm / "weights.pt")
        assert all(torch.equal(value, expected[key]) for key, value in own.state_dict().items())
    assert f"under arms.{BASELINE}.network.; not used: arms.{BASELINE}.optimiser (" in caplog.text
    assert f"arms.{REGULARISED} (" in caplog.text
