"""task=compare: any two networks on the same images, without training."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUICK, Command, FinishedRun, finish
from PIL import Image
from torch import Tensor
from torch.distributions import Categorical
from torch.nn.functional import adaptive_avg_pool2d
from torchvision.models import get_model
from torchvision.transforms.functional import pil_to_tensor

from camtrain import capture
from camtrain.cam.stretch import upsample
from camtrain.normalisation import DEVIATION, MEAN

FEW = ("evaluate.faithfulness_images=2", "evaluate.road_images=1", "evaluate.sanity_images=2", "evaluate.images=4")


def result_of(folder: Path) -> Any:
    return json.loads((folder / "result.json").read_text())


def finals(folder: Path) -> list[dict[str, float]]:
    return [arm["final"] for arm in result_of(folder)["arms"].values()]


def test_two_arms_of_a_run_have_the_figures_of_its_own_evaluation(
    fake_run: FinishedRun, run_command: Command, tmp_path: Path
) -> None:
    arms = (f"reference={fake_run.folder}/baseline", f"treatment={fake_run.folder}/regularised")
    done = run_command("task=compare", *arms, *FEW, "hydra.run.dir=compared")
    assert done.returncode == 0, done.stderr
    assert run_command("task=evaluate", f"run={fake_run.folder}", *FEW, "hydra.run.dir=evaluated").returncode == 0
    compared, evaluated = tmp_path / "compared", tmp_path / "evaluated"
    assert finals(compared) == finals(evaluated)
    before, after = result_of(evaluated), result_of(compared)
    for key in ("difference", "difference_95", "control", "control_area"):
        assert after[key] == before[key], key
    assert after["sanity"] == {
        arm: before["sanity"][own] for arm, own in zip(after["arms"], before["arms"], strict=True)
    }
    figures = [(folder / "pictures.csv").read_text().splitlines()[1:] for folder in (compared, evaluated)]
    assert figures[0] == figures[1]
    assert {"disagreement", "failures", "best", "worst", "random"} == {entry["why"] for entry in after["wall"]}


def test_a_network_against_itself_differs_in_nothing(
    fake_run: FinishedRun, run_command: Command, tmp_path: Path
) -> None:
    arm = f"{fake_run.folder}/baseline"
    done = run_command("task=compare", f"reference={arm}", f"treatment={arm}", *FEW, "hydra.run.dir=compared")
    assert done.returncode == 0, done.stderr
    result = result_of(tmp_path / "compared")
    known = {tag: value for tag, value in result["difference"].items() if value is not None}
    assert len(known) > 40
    assert set(known.values()) == {0.0}
    assert result["control"]["power"] == pytest.approx(1, abs=1e-6)
    assert "same training" not in done.stdout


@pytest.mark.parametrize("method", ["layercam", "eigencam"])
def test_each_network_is_measured_by_its_own_map(
    method: str, fake_run: FinishedRun, run_command: Command, tmp_path: Path
) -> None:
    """What is the map of one arm is another map of the other, the same network; also one that cannot be trained."""
    arm = f"{fake_run.folder}/baseline"
    arms = (f"reference={arm}", f"treatment={arm}", f"treatment.cam={method}")
    done = run_command("task=compare", *arms, *FEW, f"evaluate.maps=[{method}]", "hydra.run.dir=compared")
    assert done.returncode == 0, done.stderr
    reference, treatment = finals(tmp_path / "compared")
    for name in ("entropy", "area", "energy_in_mask"):
        assert treatment[f"cam/{name}"] != reference[f"cam/{name}"]
    measured = [
        number for number, row in enumerate(pictures(tmp_path)) if row[f"reference other_maps/{method}/entropy"]
    ]
    assert measured
    for number in measured:
        row = pictures(tmp_path)[number]
        assert row["treatment cam/entropy"] == row[f"reference other_maps/{method}/entropy"]
    assert treatment[f"other_maps/{method}/with_trained"] == pytest.approx(1)
    assert (tmp_path / "compared" / "report.html").is_file()
    assert run_command("task=report", "runs=compared", "hydra.run.dir=report").returncode == 0


def pictures(folder: Path) -> list[dict[str, str]]:
    with (folder / "compared" / "pictures.csv").open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_a_network_of_a_fixed_size_says_so(
    run_command: Command, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("timm")
    network = ("model.name=timm/vit_tiny_patch16_224", "model.options={depth:2,patch_size:8}", "dataset.image_size=32")
    run = finish(tmp_path_factory, "fixed_size", "dataset=fake", "trainer.max_steps=1", *network, *QUICK).folder
    for task in ([f"run={run}", "task=evaluate"], [f"reference={run}/baseline", "task=compare"]):
        done = run_command(*task, "dataset.image_size=48")
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert "dataset.image_size=48: this network cannot take it" in line
        assert list(tmp_path.rglob("*")) == []


def test_a_comparison_is_reported_and_does_not_go_on(
    fake_run: FinishedRun, run_command: Command, tmp_path: Path
) -> None:
    arms = (f"reference={fake_run.folder}/baseline", f"treatment={fake_run.folder}/regularised")
    assert run_command("task=compare", *arms, *FEW, "hydra.run.dir=compared").returncode == 0
    done = run_command("task=report", "runs=compared", "hydra.run.dir=report")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report" / "report.html").read_text()
    assert f"{fake_run.folder}/baseline" in page
    assert "on these images" in page
    assert "train with seed=" not in page
    refused = run_command("task=resume", "run=compared")
    assert refused.returncode == 2
    assert "only measured here, which cannot go on; repeat task=compare" in refused.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs of noise that need no scaling, weights for 1000 classes, and maps of classes."""
    root = tmp_path_factory.mktemp("networks")
    generator = np.random.default_rng(0)
    for name in ("cat", "dog", "horse"):
        (root / "set" / "val" / name).mkdir(parents=True)
        for number in range(4):
            pixels = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(pixels).save(root / "set" / "val" / name / f"{number}.png")
    for name in ("squeezenet1_1", "resnet18"):
        torch.save(made(name).state_dict(), root / f"{name}.pt")
    (root / "animals.yaml").write_text("cat: [281-285]\ndog: [Chihuahua, 152-268]\nhorse: [sorrel]\nbird: [robin]\n")
    (root / "two.csv").write_text("cat,tabby\ndog,beagle\n")
    return root


def made(name: str) -> torch.nn.Module:
    """With batch norms that know the scale of their layers, so that logits differ."""
    torch.manual_seed(1)
    network = get_model(name, num_classes=1000)
    with torch.no_grad():
        network.train()(torch.rand(16, 3, 64, 64))
    return network.eval()


GROUPS = [range(281, 286), range(151, 269), [339]]

SETTINGS = ("task=compare", "dataset=folder", "dataset.image_size=64", "dataset.cache=null", *QUICK)


def normalised(images: Tensor) -> Tensor:
    return (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]


def expected(name: str, layer: str, images: Tensor, kinds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """By torch alone: probabilities of the three classes, and Grad-CAM of each image's own class before ReLU."""
    network, kept = made(name), []
    network.get_submodule(layer).register_forward_hook(lambda *given: kept.append(given[2]))
    logits = network(normalised(images))
    of_class = torch.stack([logits[:, list(group)].exp().sum(1).log() for group in GROUPS], 1)
    (gradient,) = torch.autograd.grad(of_class[range(len(kinds)), kinds].sum(), kept[0])
    maps = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1)
    shares = torch.stack([logits.softmax(1)[:, list(group)].sum(1) for group in GROUPS], 1)
    return (shares / shares.sum(1, keepdim=True)).detach(), maps.detach()


def test_networks_of_a_thousand_classes_by_a_map(place: Path, run_command: Command, tmp_path: Path) -> None:
    """Each image's probability, prediction and map by torch alone; the finer grid, 3 x 3, is that of SqueezeNet."""
    networks = [f"reference=squeezenet1_1@{place}/squeezenet1_1.pt", f"treatment=resnet18@{place}/resnet18.pt"]
    maps = [f"{key}.classes={place}/animals.yaml" for key in ("reference", "treatment")]
    done = run_command(*SETTINGS, f"dataset.root={place}/set", *networks, *maps, "hydra.run.dir=compared")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "compared" / "pictures.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    kinds = [["cat", "dog", "horse"].index(row["class"]) for row in rows]
    images = torch.stack([pil_to_tensor(Image.open(row["picture"])) for row in rows]) / 255
    for arm, name, layer in (("reference", "squeezenet1_1", "features"), ("treatment", "resnet18", "layer4")):
        shares, own = expected(name, layer, images, kinds)
        for number, row in enumerate(rows):
            top = float(row[f"{arm} confidence/top_probability"])
            assert top == pytest.approx(float(shares[number].max()), abs=1e-5), (arm, number)
            right = int(shares[number].argmax()) == kinds[number]
            assert float(row[f"{arm} accuracy/val"]) == right
        assert own.shape[1:] == ((3, 3) if arm == "reference" else (2, 2))
        drawn = upsample(own, (64, 64), capture(made(name), layer).cells(normalised(images)))
        cells = adaptive_avg_pool2d(drawn[:, None], (3, 3))[:, 0]
        entropy = Categorical(probs=cells.flatten(1).clamp_min(1e-30)).entropy()
        alive = cells.sum((1, 2)) > 0
        assert [bool(row[f"{arm} cam/entropy"]) for row in rows] == alive.tolist()
        found = [float(row[f"{arm} cam/entropy"]) for row in rows if row[f"{arm} cam/entropy"]]
        assert found == pytest.approx(entropy[alive].tolist(), abs=1e-4)
    told = result_of(tmp_path / "compared")["networks"]
    assert told["reference"]["classes"]["horse"] == ["sorrel"]
    assert len(told["treatment"]["classes"]["dog"]) == 118
    assert told["treatment"]["outputs"] == 1000
    assert "all are measured in 3 x 3 equal tiles of the image" in done.stdout


def test_one_network_alone(place: Path, run_command: Command, tmp_path: Path) -> None:
    network = (f"reference=resnet18@{place}/resnet18.pt", f"reference.classes={place}/animals.yaml")
    done = run_command(
        *SETTINGS, f"dataset.root={place}/set", *network, "reference.cam=layercam", *FEW, "hydra.run.dir=one"
    )
    assert done.returncode == 0, done.stderr
    result = result_of(tmp_path / "one")
    assert list(result["arms"]) == ["reference"]
    assert result["networks"]["reference"]["method"] == "layercam"
    assert {"random", "failures"} <= {entry["why"] for entry in result["wall"]}
    page = (tmp_path / "one" / "report.html").read_text()
    assert "<h2>Figures</h2>" in page
    assert "The rule" not in page
    assert run_command("task=report", "runs=one", "hydra.run.dir=report").returncode == 0
    assert json.loads((tmp_path / "report" / "comparison.json").read_text())[0]["final"]["reference"]


def test_mistakes_are_one_line_and_write_nothing(
    place: Path, fake_run: FinishedRun, run_command: Command, tmp_path: Path
) -> None:
    data = ("dataset=folder", f"dataset.root={place}/set", "dataset.image_size=64")
    squeezenet, resnet = (f"{name}@{place}/{name}.pt" for name in ("squeezenet1_1", "resnet18"))
    run = fake_run.folder
    cases: dict[tuple[str, ...], str] = {
        (): "reference is not set: give it as reference=NETWORK",
        (f"reference={resnet}",): "dataset is not set: no network is of a run",
        (f"reference={resnet}", "treatment.layer=layer3"): "treatment is not set",
        (f"reference={run}", *data): f"name one of its arms: {run}/baseline, {run}/regularised",
        (f"reference={run}/area", *data): f"it has no arm area: {run}/baseline",
        ("reference=nowhere/baseline", *data): "nowhere/baseline: no such network; give RUN/ARM",
        ("reference=resnet81", *data): "reference=resnet81: no such network; choose resnet18",
        ("reference=resnet18@none.pt", *data): "reference=resnet18@none.pt: no such file; give a file of weights",
        (f"reference=resnet18@{place}/squeezenet1_1.pt", *data): "these are weights of another network than resnet18",
        (f"reference={resnet}", *data): "the network has no class cat",
        (f"reference={run}/baseline", *data): "the network has no class cat; it has class_0",
        (f"reference={resnet}", f"reference.classes={place}/two.csv", *data): "no entry for the class horse",
        (f"reference={resnet}", "reference.classes=none.yaml", *data): "none.yaml: No such file",
        (f"reference={squeezenet}", f"reference.classes={place}/animals.yaml", "reference.layer=fc", *data): (
            f"reference={squeezenet}: reference.layer=fc: squeezenet1_1 has no such layer"
        ),
        (f"reference={squeezenet}", f"reference.classes={place}/animals.yaml", "reference.cam=cam", *data): (
            "reference.cam: cam needs global average pooling followed by one linear layer, which is not what"
        ),
        (f"reference={run}/baseline", "reference.mean=[0.5]"): "reference.mean: of an arm of a run it is the run's",
        (
            f"reference={run}/baseline",
            "reference.layer=nowhere",
        ): "reference.layer=nowhere: small_resnet has no such layer",
        (f"reference={run}/baseline", "run=x"): "run: task=compare takes it from the run, or has no use for it",
    }
    for arguments, message in cases.items():
        done = run_command("task=compare", *arguments)
        assert done.returncode == 2, (arguments, done.stdout)
        (line,) = done.stderr.splitlines()
        assert message in line, arguments
        assert not [entry for entry in tmp_path.iterdir() if entry.name != "outputs"], arguments
        assert not (tmp_path / "outputs").exists(), arguments
    done = run_command(f"reference={resnet}", *data)
    assert "is for task=compare, not for task=train" in done.stderr
