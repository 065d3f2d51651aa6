"""A finished run read again, and its maps over other images."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PHOTOGRAPHS, QUICK, TINY, FinishedRun, finish, in_process
from PIL import Image, ImageOps
from runs.made import made_result
from torch import Tensor
from torch.nn.functional import one_hot

from camtrain.cam.routes import GradientRoute, Routes
from camtrain.config.options import CamVariant, DatasetName
from camtrain.config.schema import Config, FolderConfig, ModelConfig
from camtrain.config.validate import image_shape
from camtrain.data.batches import Batching, all_batches
from camtrain.data.build import build as build_data
from camtrain.data.build import rule_of
from camtrain.errors import Diverged, UserError
from camtrain.evaluation.forward import forward_maps
from camtrain.metrics.concentration import entropy
from camtrain.networks.build import build as build_model
from camtrain.networks.classifier import Classifier
from camtrain.networks.small_resnet import SmallResNet
from camtrain.normalisation import DEVIATION, MEAN
from camtrain.report import overlay
from camtrain.runs import load
from camtrain.runs.load import Finished
from camtrain.tasks import explain
from camtrain.tasks.explain import (
    ArmOutput,
    Explanation,
    batches,
    distinct,
    explain_batch,
    find,
    number_of,
    rule_of_run,
    table,
)

ARMS = ("baseline", "regularised")
ONE_THREAD = ("trainer.threads=1", "trainer.device=cpu")
CPU = torch.device("cpu")


@pytest.fixture
def run(fake_run: FinishedRun) -> Path:
    return fake_run.folder


@pytest.fixture(scope="session")
def pretrained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run from pretrained weights, whose file is gone; on real photographs where there are some."""
    if (PHOTOGRAPHS / "tiny_animals").is_dir():
        finished: FinishedRun = request.getfixturevalue("animals_run")
        return finished.folder
    weights = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(SmallResNet(3).state_dict(), weights)
    network = ("model.name=small_resnet", f"model.weights={weights}", "evaluate.maps=[]")
    finished = finish(tmp_path_factory, "pretrained", *TINY, *network, "trainer.max_steps=2")
    weights.unlink()
    return finished.folder


def write_image(path: Path, number: int = 0, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> Path:
    """A file with an image like no other."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 4), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, "RGBA").convert(mode).save(path)
    return path


def explained(run: Path, cwd: Path, *arguments: str) -> tuple[Path, list[dict[str, str]], str]:
    """Folder, table and output of the command."""
    done = in_process("task=explain", f"run={run}", *arguments, *ONE_THREAD, "hydra.run.dir=maps of mine", cwd=cwd)
    assert done.returncode == 0, done.stderr
    folder = cwd / "maps of mine"
    with (folder / "explanations.csv").open(newline="", encoding="utf-8") as opened:
        return folder, list(csv.DictReader(opened)), done.stdout


def network_of(run: Path, name: str) -> Classifier:
    """The small residual network of a run, put together without the code that is tested."""
    result = json.loads((run / "result.json").read_text())
    config, data = load.read(run).config, result["data"]
    shape = image_shape(config.dataset)
    built = build_model(config.model, len(data["classes"]), shape, 0, multilabel=data["multilabel"])
    state = torch.load(run / name / "weights.pt", weights_only=True)
    built.classifier.backbone.load_state_dict(state)
    built.classifier.routes = Routes(GradientRoute.closed, GradientRoute.closed)
    return built.classifier.eval()


def as_batch(path: Path) -> Tensor:
    """An image as it is, upright: (1, 3, height, width), 0..1."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255


# ---- a finished run, read again


@pytest.mark.parametrize("which", ["run", "pretrained"])
def test_the_restored_arms_have_the_accuracy_of_the_run(which: str, request: pytest.FixtureRequest) -> None:
    read = load.read(request.getfixturevalue(which))
    _, val = build_data(read.config.dataset, read.config.seed)
    for name, network in load.networks(read, CPU).items():
        assert not network.training
        right = []
        for batch in all_batches(val, Batching(8)):
            with torch.no_grad():
                right += (network(batch.images).logits.argmax(1) == batch.targets).tolist()
        assert sum(right) / len(right) == pytest.approx(read.result.arms[name].final["accuracy/val"])


def test_the_restored_weights_are_those_of_the_file(pretrained: Path) -> None:
    networks = load.networks(load.read(pretrained), CPU)
    assert list(networks) == ["baseline", "regularised"]
    for name, network in networks.items():
        state = torch.load(pretrained / name / "weights.pt", weights_only=True)
        own = network.backbone.state_dict()
        assert own.keys() == state.keys()
        assert all(torch.equal(own[key], state[key]) for key in state)
        assert torch.allclose(network.mean.flatten(), torch.tensor(MEAN))
        assert torch.allclose(network.std.flatten(), torch.tensor(DEVIATION))


def test_keys_that_came_later_have_their_defaults(run: Path, tmp_path: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    del result["config"]["seed"], result["config"]["cam"]["conflict"]
    (tmp_path / "result.json").write_text(json.dumps(result))
    config = load.read(tmp_path).config
    assert (config.seed, config.cam.conflict.value) == (0, "project")
    assert type(config.dataset).__name__ == "FakeConfig"
    assert config.trainer.batch_size == 4


def damaged(run: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a run with other values in its result."""
    result = json.loads((run / "result.json").read_text()) | changes
    shutil.copytree(run, folder)
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_a_run_that_cannot_be_read(run: Path, tmp_path: Path) -> None:
    def said(folder: Path) -> str:
        with pytest.raises(UserError) as caught:
            load.networks(load.read(folder), CPU)
        assert "\n" not in str(caught.value)
        assert str(folder) in str(caught.value)
        return str(caught.value)

    assert "no finished run is here" in said(tmp_path)
    assert "its schema is 7" in said(damaged(run, tmp_path / "schema", schema=7))
    assert "the run is running, not completed" in said(damaged(run, tmp_path / "status", status="running"))
    assert "not what this camtrain writes" in said(damaged(run, tmp_path / "config", config={}))
    unknown = json.loads((run / "result.json").read_text())["config"] | {"magic": 1}
    assert "not what this camtrain writes" in said(damaged(run, tmp_path / "magic", config=unknown))
    assert "not what this camtrain writes" in said(damaged(run, tmp_path / "rate", learning_rate=None))
    empty = damaged(run, tmp_path / "begun")
    (empty / "result.json").write_bytes(b"")
    assert "not the result of a finished run" in said(empty)
    (empty / "result.json").write_text("[]")
    assert "its schema is None" in said(empty)

    other = damaged(run, tmp_path / "weights")
    weights = other / "regularised" / "weights.pt"
    torch.save(SmallResNet(7).state_dict(), weights)
    assert "not the weights of the small_resnet" in said(other)
    torch.save([1], weights)
    assert "not a state dict" in said(other)
    weights.write_bytes((run / "regularised" / "weights.pt").read_bytes()[:1000])
    assert "not a file of weights" in said(other)
    weights.unlink()
    assert "the weights are not there" in said(other)


# ---- maps over other images


def test_maps_and_probabilities_are_those_of_the_arms(run: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    write_image(photos / "colour.png", 1)
    write_image(photos / "grey.png", 2, mode="L")
    write_image(photos / "transparent.png", 3, mode="RGBA")
    turned = write_image(tmp_path / "turned.png", 4)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(turned) as opened:
        opened.save(photos / "turned.png", exif=exif)
    (photos / "broken.png").write_bytes(b"no image")
    (photos / "notes.txt").write_text("no image either")

    folder, rows, out = explained(run, tmp_path, "images=photos", "trainer.batch_size=3")

    names = ["colour", "grey", "transparent", "turned"]
    assert [(Path(row["picture"]).stem, row["arm"]) for row in rows] == [(name, arm) for name in names for arm in ARMS]
    written = {entry.name for entry in (folder / "maps").iterdir()}
    assert written == {f"{name}.{end}" for name in names for end in ("png", *(f"{arm}.npy" for arm in ARMS))}
    assert {entry.name for entry in folder.iterdir()} == {
        *(".hydra", "camtrain.log", "maps", "explanations.csv", "left_out.txt")
    }
    assert "left out: photos/broken.png: not an image that can be read" in out
    assert (folder / "left_out.txt").read_text().startswith("photos/broken.png: not an image")
    assert f"table        {folder / 'explanations.csv'}" in out

    classes = json.loads((run / "result.json").read_text())["data"]["classes"]
    networks = {name: network_of(run, name) for name in ARMS}
    for row in rows:
        image = as_batch(tmp_path / row["picture"])
        with torch.no_grad():
            probability = networks[row["arm"]](image).logits.softmax(1)[0]
        best = int(probability.argmax())
        assert row["class"] == row["predicted class"] == classes[best]
        assert float(row["probability"]) == pytest.approx(float(probability[best]), abs=1e-5)
        assert row["predicted probability"] == row["probability"]
        expected = forward_maps(networks[row["arm"]], image, torch.tensor([best]), CamVariant.gradcam).maps
        found = np.load(folder / row["npy"])
        assert found.dtype == np.float32
        assert found.shape == (4, 4)
        np.testing.assert_allclose(found, expected[0].numpy(), rtol=1e-4, atol=1e-5)
        if row["dead"] == "no":
            assert float(row["entropy"]) == pytest.approx(float(entropy(expected)[0]), abs=1e-4)
        else:
            assert not row["entropy"]
        with Image.open(folder / row["png"]) as drawn:
            assert drawn.width == 3 * overlay.TILE + 4 * overlay.GAP


def test_the_map_of_a_class_that_was_asked_for(run: Path, tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "photos" / "deep" / f"{number}.png", number)
    write_image(tmp_path / "photos" / "other.jpg", 9)
    classes = json.loads((run / "result.json").read_text())["data"]["classes"]
    folder, rows, out = explained(run, tmp_path, "images=photos/**/*.png", f"class={classes[1]}")
    assert [row["picture"] for row in rows[::2]] == [f"photos/deep/{number}.png" for number in range(3)]
    assert {row["class"] for row in rows} == {classes[1]}
    assert f"p of {classes[1]}" in out
    for row in rows:
        network = network_of(run, row["arm"])
        image = as_batch(tmp_path / row["picture"])
        logits, _, maps = forward_maps(network, image, torch.tensor([1]), CamVariant.gradcam)
        probability = logits.softmax(1)[0]
        np.testing.assert_allclose(np.load(folder / row["npy"]), maps[0].numpy(), rtol=1e-4, atol=1e-5)
        assert float(row["probability"]) == pytest.approx(float(probability[1]), abs=1e-5)
        assert row["predicted class"] == classes[int(probability.argmax())]
        assert float(row["predicted probability"]) == pytest.approx(float(probability.max()), abs=1e-5)


def test_several_classes_per_image(multilabel_run: FinishedRun, tmp_path: Path) -> None:
    path = write_image(tmp_path / "one (1).png", 5)
    folder, rows, _ = explained(multilabel_run.folder, tmp_path, f'images="{path}"')
    classes = json.loads((multilabel_run.folder / "result.json").read_text())["data"]["classes"]
    assert [row["arm"] for row in rows] == list(ARMS)
    for row in rows:
        network = network_of(multilabel_run.folder, row["arm"])
        with torch.no_grad():
            probability = network(as_batch(path)).logits.sigmoid()[0]
        best = int(probability.argmax())
        assert row["class"] == row["predicted class"] == classes[best]
        assert float(row["probability"]) == pytest.approx(float(probability[best]), abs=1e-5)
        target = one_hot(torch.tensor([best]), len(classes))
        maps = forward_maps(network, as_batch(path), target, CamVariant.gradcam).maps
        np.testing.assert_allclose(np.load(folder / row["npy"]), maps[0].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("photographs")
def test_photographs(pretrained: Path) -> None:
    """The network's autograd path, and images cut and shrunk as validation's are."""
    read = load.read(pretrained)
    _, val = build_data(read.config.dataset, read.config.seed)
    skipped: list[Any] = []
    ours = [pixels for *_, pixels in batches(val.files, rule_of(read.config.dataset), 5, 1, skipped)]
    assert [len(pixels) for pixels in ours[:-1]] == [5] * (len(ours) - 1)
    assert torch.equal(torch.cat(ours), val.gather(range(len(val.files)))[0])
    assert not skipped
    images = ours[0].float() / 255
    for network in load.networks(read, CPU).values():
        assert network.routes.evaluation is GradientRoute.autograd
        seen = explain_batch(network, images, CamVariant.gradcam, None, None)
        assert torch.equal(seen.kinds, seen.predicted)
        again = explain_batch(network, images[2:3], CamVariant.gradcam, seen.kinds[2:3], None)
        torch.testing.assert_close(again.maps[0], seen.maps[2], rtol=1e-3, atol=1e-4)
        assert float(again.probability) == pytest.approx(float(seen.confidence[2]), abs=1e-4)


def test_a_dead_map_is_said_to_be_one(run: Path, tmp_path: Path) -> None:
    dead = damaged(run, tmp_path / "dead")
    state = torch.load(dead / "regularised" / "weights.pt", weights_only=True)
    state["fc.weight"] = -state["fc.weight"].abs()  # behind a ReLU: no map is above 0
    torch.save(state, dead / "regularised" / "weights.pt")
    write_image(tmp_path / "one.png")
    folder, rows, out = explained(dead, tmp_path, "images=one.png")
    assert (rows[1]["dead"], rows[1]["entropy"]) == ("yes", "")
    assert rows[0]["dead"] == "no"
    assert "dead" in out
    assert (np.load(folder / rows[1]["npy"]) <= 0).all()
    assert (np.load(folder / rows[1]["npy"]) < 0).any(), "maps are kept as they are before ReLU"


# ---- what is wrong


def refused(cwd: Path, *arguments: str) -> str:
    """The one line that the command ends with; nothing may be written."""
    before = sorted(cwd.rglob("*"))
    done = in_process("task=explain", *arguments, "trainer.threads=1", cwd=cwd)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("camtrain: error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert sorted(cwd.rglob("*")) == before
    return done.stderr.removeprefix("camtrain: error: ")


def test_what_is_missing_is_found_before_anything_starts(run: Path, tmp_path: Path) -> None:
    assert refused(tmp_path, "images=photos").startswith("run is not set: give it as run=FOLDER")
    assert refused(tmp_path, "run=nowhere", "images=photos") == "run=nowhere: there is no such folder\n"
    assert refused(tmp_path, f"run={run}").startswith("images is not set: give it as images=PATH")


def test_runs_and_images_that_cannot_be_used(run: Path, tmp_path: Path) -> None:
    of_run = f"run={run}"
    write_image(tmp_path / "photos" / "one.png")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "one.png").write_bytes(b"no image")
    assert "no image fits this pattern" in refused(tmp_path, of_run, "images=photos/*.gif")
    none = refused(tmp_path, of_run, "images=broken")
    assert none.startswith("images=broken: none can be read; the first: broken/one.png: not an image")
    unknown = refused(tmp_path, of_run, "images=photos", "class=zebra")
    classes = json.loads((run / "result.json").read_text())["data"]["classes"]
    assert unknown == f"class=zebra: the run has no such class; it has {', '.join(classes)}\n"
    half = damaged(run, tmp_path / "half", status="interrupted")
    assert "the run is interrupted, not completed" in refused(tmp_path, f"run={half}", "images=photos")
    cut = damaged(run, tmp_path / "cut")
    (cut / "baseline" / "weights.pt").write_bytes(b"PK")
    assert "not a file of weights" in refused(tmp_path, f"run={cut}", "images=photos")


def test_a_run_whose_numbers_are_not_finite_has_diverged(run: Path, tmp_path: Path) -> None:
    def said(folder: Path) -> str:
        with pytest.raises(Diverged, match=r"the run diverged: train it again with a lower optim\.lr") as caught:
            load.networks(load.read(folder), CPU)
        return str(caught.value)

    def with_weights(name: str, key: str, value: float) -> Path:
        folder = damaged(run, tmp_path / name)
        weights = torch.load(folder / "regularised" / "weights.pt", weights_only=True)
        weights[key].fill_(value)
        torch.save(weights, folder / "regularised" / "weights.pt")
        return folder

    said(damaged(run, tmp_path / "marked", status="diverged"))
    # As versions wrote it that completed such a run.
    arms = json.loads((run / "result.json").read_text())["arms"]
    arms["baseline"]["epochs"][-1] |= {"cam/entropy": None, "cam/dead_rate": 0.0}
    assert "the baseline arm's figures" in said(damaged(run, tmp_path / "figures", arms=arms))
    assert "regularised/weights.pt: the weights are not finite" in said(with_weights("nan", "fc.weight", math.nan))

    write_image(tmp_path / "one.png")
    overflowing = with_weights("overflow", "bn1.running_var", -1.0)
    for task, more in (("explain", ["images=one.png"]), ("evaluate", [*QUICK])):
        done = in_process(f"task={task}", f"run={overflowing}", *more, *ONE_THREAD, "hydra.run.dir=out", cwd=tmp_path)
        assert done.returncode == 3
        (line,) = done.stderr.splitlines()
        assert re.search(r"the regularised arm's logits are not finite on (\d+) of \1 .*images; the run diverged", line)
        if task == "explain":
            assert not (tmp_path / "out").exists()
    assert json.loads((tmp_path / "out" / "result.json").read_text())["status"] == "diverged"


def test_an_image_on_which_an_arm_overflows_is_left_out(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_image(tmp_path / "photos" / f"{number}.png", number)

    def overflowing(*arguments: Any) -> ArmOutput:
        made = explain_batch(*arguments)
        return made._replace(faults=torch.tensor([[False, True, False], [False] * 3]))

    monkeypatch.setattr(explain, "explain_batch", overflowing)
    done = in_process("task=explain", f"run={run}", "images=photos", *ONE_THREAD, "hydra.run.dir=out", cwd=tmp_path)
    assert done.returncode == 3
    assert "the baseline arm's logits are not finite on 1 of 3 images, the regularised" in done.stderr
    assert done.stderr.rstrip().endswith(f"what was done so far is in {tmp_path / 'out'}")
    assert (tmp_path / "out" / "left_out.txt").read_text() == "photos/1.png: logits or maps are not finite\n"
    assert (tmp_path / "out" / "explanations.csv").read_text().count("photos/1.png") == 0
    assert (tmp_path / "out" / "camtrain.log").is_file()


def test_explanations_are_not_written_over(run: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "one.png")
    folder, _, _ = explained(run, tmp_path, "images=one.png")
    again = refused(tmp_path, f"run={run}", "images=one.png", f"hydra.run.dir={folder}")
    assert "already holds explanations: choose another hydra.run.dir=FOLDER" in again


def test_an_unknown_class_of_many() -> None:
    classes = [f"kind {number}" for number in range(100)] + ["horse"]
    with pytest.raises(UserError) as caught:
        number_of("hors", classes)
    assert "did you mean horse?" in str(caught.value)
    assert str(caught.value).endswith("kind 19 and 81 more")
    assert number_of("horse", classes) == 100


# ---- which images, and what their files are called


def test_which_images_are_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "photos"
    for name in ("b.JPG", "a.png", ".hidden.png", "sub/c.webp", ".cache/d.png", "odd[1]/e.png"):
        write_image(photos / name, size=(2, 2))
    (photos / "notes.txt").write_text("no image")
    (photos / "folder.png").mkdir()

    def names(images: str) -> list[str]:
        return [path.relative_to(photos).as_posix() for path in find(images).paths]

    assert names(str(photos)) == ["a.png", "b.JPG"]
    assert names(f"{photos}/*") == ["a.png", "b.JPG"]
    assert names(f"{photos}/**") == ["a.png", "b.JPG", "odd[1]/e.png", "sub/c.webp"]
    assert names(f"{photos}/**/*.webp") == ["sub/c.webp"]
    assert names(f"{photos}/odd[1]/e.png") == ["odd[1]/e.png"]
    assert names(f"{photos}/notes.txt") == ["notes.txt"], "a file that is named is tried"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names("~/photos/?.png") == ["a.png"]
    monkeypatch.chdir(photos)
    assert find("*.png").paths == [Path("a.png")]
    empty = tmp_path / "empty"
    empty.mkdir()
    for images, expected in (
        (str(empty), "no images in this folder"),
        (f"{photos}/*.gif", "no image fits this pattern"),
        (str(photos / "nowhere"), "no such file or folder"),
        ("~nobody-of-that-name/*", "give a file, a folder or a pattern"),
        ("x" * 5000, "give a file, a folder or a pattern|no such file or folder"),
    ):
        with pytest.raises(UserError, match=expected):
            find(images)


def test_a_list_of_images_and_what_is_left_out(tmp_path: Path) -> None:
    for name in ("a.png", "b, c [1].jpg", "sub/d.pgm"):
        write_image(tmp_path / name, size=(2, 2))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "gone.png").symlink_to("nowhere")
    several = [str(tmp_path / "b, c [1].jpg"), f"{tmp_path}/sub/*.pgm", str(tmp_path / "a.png"), f"{tmp_path}/a.*"]
    assert [path.name for path in find(several).paths] == ["b, c [1].jpg", "d.pgm", "a.png"]
    found = find(str(tmp_path))
    assert [path.name for path in found.paths] == ["a.png", "b, c [1].jpg", "gone.png"]
    assert found.notes[0].startswith("1 file left out: 1 x .txt (no image)")
    assert "folders below are not looked into" in found.notes[1]
    with pytest.raises(UserError, match="addresses are not read"):
        find("https://example.com/cat.jpg")
    with pytest.raises(UserError, match="the list is empty"):
        find([])


def test_no_two_images_share_a_name() -> None:
    paths = [Path(name) for name in ("a/1.png", "b/1.png", "b/1.jpg", "c/2.png", "x/b/1.png", "d/b_1.png", "e/B_1.gif")]
    names = distinct(paths)
    assert names[:2] == ["a_1", "b_1"]
    assert names[3] == "2"
    assert len({name.casefold() for name in names}) == len(paths)
    assert not [name for name in names if "/" in name]
    long = distinct([Path("ü" * 120 + "1.png"), Path("ü" * 120 + "2.png")])
    assert len(set(long)) == 2
    assert max(len(f".{name}.regularised.npy.partial".encode()) for name in long) <= 255


def test_images_of_the_same_name_do_not_overwrite_each_other(run: Path, tmp_path: Path) -> None:
    for number, kind in enumerate(("cat", "dog")):
        write_image(tmp_path / kind / "1.png", number)
    folder, rows, _ = explained(run, tmp_path, "images=*/1.png")
    assert sorted(path.name for path in (folder / "maps").glob("*.png")) == ["cat_1.png", "dog_1.png"]
    assert len({row["npy"] for row in rows}) == 4
    assert all((folder / row[kind]).is_file() for row in rows for kind in ("png", "npy"))


def test_the_range_that_was_asked_for_holds_also_where_training_images_had_8_bits() -> None:
    asked = FolderConfig(name=DatasetName.folder, intensity_range=[0, 4096])
    run = Config(dataset=asked, model=ModelConfig(name="small_resnet"))
    finished = Finished(Path(), made_result(run, {"baseline": {}, "regularised": {}}, {}))
    assert finished.result.data.intensity_range is None
    assert rule_of_run(finished).span == (0, 4096)


# ---- captions


def fitted(*parts: str) -> str:
    return overlay.fitted(overlay.Line(*parts), overlay._font(14), overlay.TILE)


def test_a_caption_is_shortened_and_its_end_stays() -> None:
    assert fitted("predicts cat", " 93%") == "predicts cat 93%"
    for text in ("predicts a breed of dogs of a very long name indeed", "W" * 5000, "predicts " + "i" * 300):
        short = fitted(text, " 93%")
        assert short.endswith("… 93%")
        assert overlay._font(14).getlength(short) <= overlay.TILE
        assert overlay._font(14).getlength(short) > overlay.TILE - 40
    assert "\n" not in fitted("two\nlines")


def test_a_captioned_strip_has_the_strip_in_it() -> None:
    tiles = np.full((overlay.TILE, 3 * overlay.TILE + 2 * overlay.GAP, 3), 7, np.uint8)
    line = overlay.Line("x" * 100)
    plain, taller = (overlay.captioned(tiles, [[line] * count, [line], [line]]) for count in (1, 3))
    inner = plain[overlay.GAP : overlay.GAP + overlay.TILE, overlay.GAP : -overlay.GAP]
    assert (inner == 7).all()
    assert taller.shape[0] > plain.shape[0]
    below = plain[overlay.GAP + overlay.TILE :]
    assert below.min() < 100, "there is text"
    for number in (1, 2):  # and none between the tiles
        gap = overlay.GAP + number * (overlay.TILE + overlay.GAP) - overlay.GAP
        assert (below[:, gap + 1 : gap + overlay.GAP - 1] == 255).all()


def test_the_table_shows_the_first_images() -> None:
    def line(number: int, arm: str) -> Explanation:
        path = f"{'folder/' * 20}{number}.png"
        return Explanation(path, arm, "cat", 0.25, "dog", 0.5, 1.5, number == 1, "", "")

    lines = table([[line(number, arm) for arm in ARMS] for number in range(33)], "cat").splitlines()
    assert " ".join(lines[0].split()) == "image baseline p of cat entropy regularised p of cat entropy"
    assert lines[1].split()[1:] == ["dog", "0.50", "0.25", "1.50"] * 2
    assert lines[2].endswith("dead")
    assert lines[-1] == "and 13 more"
    assert len(lines) == 22
    assert max(map(len, lines)) < 120
