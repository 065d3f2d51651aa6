"""task=train: what a run leaves, and that every network, map, term and preset trains."""

from __future__ import annotations

import csv
import html.parser
import json
import math
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FEW, PRESETS, QUICK, ROOT, TINY, Command, FinishedRun, in_process
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchvision.models import get_model

from camtrain.loss.balance import default_share
from camtrain.metrics.catalogue import FAMILIES, map_indicators
from camtrain.networks.small_resnet import SmallResNet
from camtrain.packed import read_packed
from camtrain.runs.images import read_images

TAGS = {
    "accuracy/train",
    "accuracy/val",
    "accuracy/balanced",
    "loss/total",
    "loss/classification",
    "loss/cam_entropy",
    "effort/cam_share",
    "effort/cam_weight",
    "cam/entropy",
    "cam/area",
    "cam/dispersion",
    "cam/contrast",
    "cam/gini",
    "cam/top_tenth",
    "cam/border_mass",
    "cam/peak_entropy",
    "cam/dead_rate",
    "cam/energy_in_mask",
    "cam/pointing",
    *(f"cam/{name}" for name in map_indicators()),
    "confidence/top_probability",
    "confidence/margin",
    "confidence/entropy",
    "confidence/calibration_error",
    "settling/with_final",
    "optim/lr",
    "time/step",
    "time/epoch",
}

OTHER = {
    f"other_maps/{variant}/{name}"
    for variant in ("gradcampp", "layercam", "eigencam")
    for name in (*map_indicators(), "with_trained", "deletion", "insertion", "gain")
} | {
    "other_maps/layercam/like_gradcampp",
    "other_maps/eigencam/like_gradcampp",
    "other_maps/eigencam/like_layercam",
}

LATE = OTHER | {
    *(indicator.tag for family in ("faithfulness", "stability") for indicator in FAMILIES[family]),
    *("cam/iou", "cam/box_accuracy", "cam/pxap", "sanity/head", "sanity/all"),
    *("settling/with_previous", "settling/epoch", "effort/epochs_to_90", "effort/mean_performance"),
}
"""Measured or known after the last epoch only."""


def test_run_folder(fake_run: FinishedRun) -> None:
    run = fake_run.folder
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-\d{6}", run.name)
    assert {entry.name for entry in run.iterdir()} == {
        ".hydra",
        ".lock",
        "camtrain.log",
        "checkpoint.safetensors",
        "checkpoint.former.safetensors",
        "tb",
        "baseline",
        "regularised",
        "result.json",
        "pictures",
        "pictures.csv",
        "report.html",
    }
    for arm in ("baseline", "regularised"):
        assert {entry.name for entry in (run / arm).iterdir()} == {"weights.pt"}
    assert "energy in mask" in (run / "camtrain.log").read_text()


def test_output_ends_with_the_comparison_and_where_everything_is(fake_run: FinishedRun) -> None:
    run, out = fake_run
    for label in ("accuracy", "entropy, nats", "elliptical area", "dispersion", "contrast", "dead rate", "pointing"):
        assert label in out
    assert re.search(r"baseline +regularised +difference", out)
    assert f"report       {run / 'report.html'}" in out
    (line,) = (line for line in out.splitlines() if line.startswith("TensorBoard"))
    program, *arguments = shlex.split(line)[1:]
    assert arguments == ["--logdir", str(run / "tb")]
    assert shutil.which(program), f"{program} cannot be started as printed"


def test_result(fake_run: FinishedRun) -> None:
    run = fake_run.folder
    result = json.loads((run / "result.json").read_text())
    assert (result["schema"], result["status"], result["seed"]) == (1, "completed", 0)
    assert result["config"]["cam"]["score"] == "centred"
    assert result["cam_share"] == default_share(pretrained=False)
    for arm in ("baseline", "regularised"):
        of_arm = result["arms"][arm]
        assert len(of_arm["epochs"]) == 2
        assert of_arm["final"] == of_arm["epochs"][-1]
        assert of_arm["final"].keys() == TAGS | LATE
        assert of_arm["epochs"][0].keys() == TAGS | {"settling/with_previous"}
        assert of_arm["final"]["settling/with_final"] == pytest.approx(1, abs=1e-5)
    each = read_images(run)
    for tag, value in result["difference"].items():
        pair = [result["arms"][arm]["final"][tag] for arm in ("baseline", "regularised")]
        both = [each[arm][tag] for arm in ("baseline", "regularised") if tag in each[arm]]
        # Of the images that have a value in both arms.
        expected = float((both[1] - both[0]).nanmean()) if len(both) == 2 else pair[1] - pair[0]
        assert value is None if math.isnan(expected) else value == pytest.approx(expected, abs=1e-6), tag
    assert result["control"]["power"] > 0
    assert result["control_area"]["power"] > 0
    tags, cheap = (result[name]["final"].keys() for name in ("control", "control_area"))
    assert cheap == {tag for tag in tags if not tag.startswith(("faithfulness/", "stability/"))}
    assert {"cam/area", "cam/pointing_tolerant", "cam/iou", "cam/box_accuracy", "cam/pxap"} < cheap
    assert [line["size"] for line in result["by_size"]] == ["small", "middle", "large", "all"]
    assert len(result["sanity"]["baseline"]) > 2
    assert {entry["why"] for entry in result["wall"]} == {"best", "worst", "random"}
    for entry in result["wall"]:
        assert (run / entry["file"]).is_file()
    assert result["difference_95"].keys() >= OTHER | {"accuracy/val", "cam/entropy", "cam/energy_in_mask"}
    assert result["timing"]["step_ratio"] > 0
    assert result["model"]["gradient_path"]["training"] == "closed form"


def test_figures_of_each_image(fake_run: FinishedRun) -> None:
    run = fake_run.folder
    with (run / "pictures.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    result = json.loads((run / "result.json").read_text())
    assert len(rows) == result["data"]["val"]
    assert {row["class"] for row in rows} <= set(result["data"]["classes"])
    for arm in ("baseline", "regularised"):
        for tag in ("accuracy/val", "cam/entropy", "faithfulness/deletion", "cam/box_accuracy"):
            values = [float(row[f"{arm} {tag}"]) for row in rows if row[f"{arm} {tag}"]]
            assert sum(values) / len(values) == pytest.approx(result["arms"][arm]["final"][tag], rel=1e-5)


def test_tensorboard_has_identical_tags_in_both_arms(fake_run: FinishedRun) -> None:
    run = fake_run.folder
    assert {entry.name for entry in (run / "tb").iterdir()} == {"baseline", "regularised"}
    result = json.loads((run / "result.json").read_text())
    for arm in ("baseline", "regularised"):
        events = EventAccumulator(str(run / "tb" / arm))
        events.Reload()
        tags = events.Tags()
        final = result["arms"][arm]["final"]
        assert set(tags["scalars"]) == {tag for tag in TAGS | LATE if final[tag] is not None}
        assert all(len(events.Scalars(tag)) <= 2 for tag in tags["scalars"])
        assert {"config/text_summary", "comparison/text_summary"} <= set(tags["tensors"])
        entropy = [event.value for event in events.Scalars("cam/entropy")]
        assert entropy == pytest.approx([row["cam/entropy"] for row in result["arms"][arm]["epochs"]], rel=1e-5)
        assert "_hparams_/session_start_info" in events.summary_metadata
        if arm == "regularised":
            assert len(tags["images"]) == 2
            assert [event.step for event in events.Images(tags["images"][0])] == [1, 2]


class Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_report_is_one_page_without_network(fake_run: FinishedRun) -> None:
    text = (fake_run.folder / "report.html").read_text()
    page = Page()
    page.feed(text)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 4  # one best, one worst, two random
    assert all(str(attributes["src"]).startswith("data:image/png") and attributes["alt"] for attributes in images)
    assert sum(tag == "svg" for tag, _ in page.tags) == 3
    links = [str(attributes.get(key)) for _, attributes in page.tags for key in ("href", "src", "xlink:href")]
    assert not [link for link in links if link.startswith(("http", "//"))]
    assert not any(tag == "link" or (tag == "script" and "src" in attributes) for tag, attributes in page.tags)
    assert "small_resnet" in text


def test_weights_load_into_the_plain_network(fake_run: FinishedRun) -> None:
    for arm in ("baseline", "regularised"):
        state = torch.load(fake_run.folder / arm / "weights.pt", weights_only=True)
        SmallResNet(3).load_state_dict(state)
    first, second = (
        torch.load(fake_run.folder / arm / "weights.pt")["fc.weight"] for arm in ("baseline", "regularised")
    )
    assert not torch.equal(first, second)


def stripped(result: dict[str, Any]) -> dict[str, Any]:
    """Without what time changes."""
    for arm in result["arms"].values():
        for row in (*arm["epochs"], arm["final"]):
            for tag in [tag for tag in row if tag.startswith("time/")]:
                del row[tag]
    return {arm: of_arm["epochs"] for arm, of_arm in result["arms"].items()}


def only_result(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("outputs/**/result.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_same_seed_same_figures_whatever_the_workers_and_weight_zero_equals_baseline(tmp_path: Path) -> None:
    results = []
    # MobileNet has dropout: equal weights need the same draws in both arms.
    for number, more in enumerate((["trainer.workers=1"], ["trainer.workers=2"])):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = in_process(
            *TINY, "model=mobilenet_v3_small", "cam.weight=0", "evaluate.maps=[layercam]", *more, cwd=folder
        )
        assert done.returncode == 0, done.stderr
        results.append(stripped(only_result(folder)))
        (run,) = (folder / "outputs" / "runs").iterdir()
        weights = [torch.load(run / arm / "weights.pt") for arm in ("baseline", "regularised")]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert results[0] == results[1]
    assert results[0]["baseline"] == results[0]["regularised"]
    assert math.isfinite(results[0]["baseline"][-1]["cam/entropy"])


def test_sweep(sweep: FinishedRun) -> None:
    folder, out = sweep
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-\d{6}", folder.name)
    results = [json.loads((folder / str(job) / "result.json").read_text()) for job in range(4)]
    assert [(r["config"]["cam"]["weight"], r["seed"]) for r in results] == [(0.5, 0), (0.5, 1), (1.0, 0), (1.0, 1)]
    assert (folder / "0" / ".hydra" / "overrides.yaml").exists()
    summary = out[out.rindex("baseline > regularised") :]
    final = {arm: results[3]["arms"][arm]["final"]["accuracy/val"] for arm in ("baseline", "regularised")}
    assert re.search(rf"3: cam.weight=1 seed=1 +{final['baseline']:.3f} > {final['regularised']:.3f}", summary)
    assert f"--logdir {folder}" in summary


def tiny_folder(root: Path, size: int = 40) -> Path:
    for split in ("train", "val"):
        for kind, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (size, size), (40 * number, 200 * kind, 90)).save(
                    root / split / name / f"{number}.png"
                )
    return root


def test_bad_data_and_weights_are_one_line_and_write_nothing(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()

    def said(root: Path, *more: str) -> str:
        done = in_process("dataset=folder", f"dataset.root={root}", "dataset.image_size=32", *more, cwd=work)
        text = done.stderr
        assert done.returncode == 2, text
        assert all(line.startswith("cache ") for line in done.stdout.splitlines())
        assert text.count("\n") == 1, text
        assert not list(work.iterdir())
        return text

    empty = tiny_folder(tmp_path / "empty")
    (empty / "train" / "cow").mkdir()
    assert "cow: no images in this class folder" in said(empty)

    broken = tiny_folder(tmp_path / "broken")
    (broken / "train" / "dog" / "3.png").write_bytes(b"no image")
    assert "3.png: not an image that can be read" in said(broken)

    masks = tiny_folder(tmp_path / "masks")
    (masks / "masks" / "train" / "cat").mkdir(parents=True)
    Image.new("L", (7, 9)).save(masks / "masks" / "train" / "cat" / "0.png")
    assert "the mask is 7x9 pixels" in said(masks, "cam.term=energy_outside")

    torch.save(get_model("squeezenet1_0").state_dict(), tmp_path / "other.pth")
    whole = tiny_folder(tmp_path / "whole")
    assert "weights of another network" in said(whole, "model=resnet18", f"model.weights={tmp_path / 'other.pth'}")


DIVERGING = ("optim.name=sgd", "optim.lr=1e12", "optim.schedule=constant", "trainer.epochs=3")


def test_a_run_that_diverges_is_said_and_marked(tmp_path: Path, run_command: Command) -> None:
    done = run_command(*TINY, *QUICK, *DIVERGING)
    assert done.returncode == 3
    line = done.stderr.splitlines()[-1]
    assert re.search(r"error: the \w+ arm's .* (is|are) (nan|inf|not finite) in epoch 1, step \d", line)
    assert re.search(r"lower optim\.lr \(1e\+12\)( or cam\.share)?; what was done so far is in \S+$", line)
    result = only_result(tmp_path)
    assert result["status"] == "diverged"
    assert result["arms"]["baseline"]["epochs"] == []


def test_an_arm_that_diverges_leaves_the_others_alone(tmp_path: Path, run_command: Command) -> None:
    few = (*TINY, *QUICK, "optim=sgd", "trainer.threads=1", "trainer.max_steps=6")
    assert run_command(*few, "hydra.run.dir=without").returncode == 0
    wild = ("+arms.wild.cam.weight=1e38", "+arms.wild.cam.conflict=keep")
    done = run_command(*few, *wild, "hydra.run.dir=with")
    assert done.returncode == 3
    assert re.search(
        r"the wild arm's (loss|gradient of \S+|norm of the gradients) is (nan|inf|not finite) in epoch 1, step 1;"
        r" lower optim.lr \(.*\) or"
        r" cam.weight; trained to the end: baseline, regularised; what was done so far is in",
        done.stderr,
    ), done.stderr
    for arm in ("baseline", "regularised"):
        weights = (torch.load(tmp_path / run / arm / "weights.pt", weights_only=True) for run in ("with", "without"))
        assert all(torch.equal(*pair) for pair in zip(*(state.values() for state in weights), strict=True))
    result = json.loads((tmp_path / "with" / "result.json").read_text())
    assert [len(part["epochs"]) for part in result["arms"].values()] == [2, 2, 0]
    snapshot = read_packed(tmp_path / "with" / "wild" / "stopped.safetensors")
    assert (snapshot["epoch"], snapshot["step"], len(snapshot["images"])) == (0, 0, 8)
    assert snapshot["weight_norms"].keys() == dict(SmallResNet(3).named_parameters()).keys()
    assert snapshot["fault"] in done.stderr


LARGE = {"vgg11"}  # its checkpoints of both arms take 3 GB


@pytest.mark.parametrize(
    "choice",
    [
        pytest.param(path.stem, marks=pytest.mark.slow if path.stem in LARGE else ())
        for path in sorted((ROOT / "conf" / "model").glob("*.yaml"))
    ],
)
def test_every_network_trains(choice: str, run_command: Command, tmp_path: Path) -> None:
    size = 128 if choice == "swin_t" else 64
    small = (f"dataset.image_size={size}", "dataset.train=8", "dataset.val=2")
    # Plain SGD keeps no state, which for a ViT is 700 MB of each arm's checkpoint.
    training = ("trainer.batch_size=4", "trainer.max_steps=1", "optim=sgd", "optim.momentum=0")
    # Faithfulness takes 300 forward passes, and randomisation another network; neither knows what kind it is.
    few = ("evaluate.images=1", "evaluate.faithfulness_images=0", "evaluate.sanity_images=0")
    done = run_command("dataset=fake", f"model={choice}", *small, *training, *few)
    assert done.returncode == 0, done.stderr
    result = only_result(tmp_path)
    assert min(result["model"]["grid"]) >= 4
    assert result["status"] == "completed"


@pytest.mark.parametrize("choice", sorted(path.stem for path in (ROOT / "conf" / "cam").glob("*.yaml")))
def test_every_map_trains(choice: str, run_command: Command, tmp_path: Path) -> None:
    done = run_command(*TINY, f"cam={choice}", "trainer.epochs=1", "evaluate.maps=[]")
    assert done.returncode == 0, done.stderr
    result = only_result(tmp_path)
    assert result["config"]["cam"]["variant"] == choice
    final = result["arms"]["regularised"]["final"]
    assert 0 < final["effort/cam_share"] < 1
    assert final["effort/cam_weight"] > 0


@pytest.mark.parametrize("term", ["area", "dispersion", "total_variation", "energy_outside"])
def test_every_term_trains(term: str, run_command: Command, tmp_path: Path) -> None:
    done = run_command(*TINY, *QUICK, f"cam.term={term}", "cam.weight=1")
    assert done.returncode == 0, done.stderr
    final = only_result(tmp_path)["arms"]["regularised"]["final"]
    assert final[f"loss/cam_{term}"] >= 0
    assert "loss/cam_entropy" not in final
    assert final["effort/cam_weight"] == 1


def test_several_classes_per_image(multilabel_run: FinishedRun) -> None:
    folder, out = multilabel_run
    assert "mean average precision" in out
    result = json.loads((folder / "result.json").read_text())
    assert result["data"]["multilabel"]
    assert result["difference_95"]["average_precision/val"] > 0
    for arm in ("baseline", "regularised"):
        final = result["arms"][arm]["final"]
        assert 0 < final["average_precision/val"] < 1
        assert 0 < final["average_precision/train"] < 1
        assert "accuracy/val" not in final
        assert 0 < final["cam/energy_in_mask"] < 1
        assert 0 <= final["cam/iou"] <= 1
        assert "confidence/calibration_error" not in final


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_run(name: str, run_command: Command, tmp_path: Path) -> None:
    generated = name in ("quick", "ablation")
    root = [] if generated else [f"dataset.root={tmp_path}"]
    done = run_command("--cfg", "job", f"experiment={name}", *root)
    assert done.returncode == 0, done.stderr
    # On other images, as they are not here, with its network, term and training.
    small = [f"dataset.{key}" for key in ("image_size=64", "crop_scale=[1.0,1.0]")] if not generated else []
    few = ["trainer.max_steps=2", "trainer.batch_size=4", "model.weights=null", "evaluate.images=1"]
    few += FEW if name == "quick" else ["evaluate.faithfulness_images=0", "evaluate.sanity_images=1"]
    sizes = ["dataset.train=8", "dataset.val=8"]
    done = run_command(f"experiment={name}", *([] if generated else ["dataset=fake"]), *small, *few, *sizes)
    assert done.returncode == 0, done.stderr
    result = only_result(tmp_path)
    assert result["status"] == "completed"


def test_other_maps_are_measured_after_the_last_epoch(run_command: Command, tmp_path: Path) -> None:
    others = ["cam", "gradcam", "gradcampp", "hirescam", "xgradcam", "layercam", "eigencam", "scorecam"]
    done = run_command(*TINY, f"evaluate.maps=[{','.join(others)}]", "evaluate.scorecam_images=3")
    assert done.returncode == 0, done.stderr
    assert "Maps by other methods than the trained one" in done.stdout
    result = only_result(tmp_path)
    first, last = result["arms"]["regularised"]["epochs"]
    assert not any(tag.startswith("other_maps/") for tag in first)
    assert {tag.split("/")[1] for tag in last if tag.startswith("other_maps/")} == set(others) - {"gradcam"}
    # Behind global average pooling these are one map up to its scale.
    for other in ("cam", "hirescam", "xgradcam"):
        assert last[f"other_maps/{other}/entropy"] == pytest.approx(last["cam/entropy"], rel=1e-3)
    assert last["other_maps/layercam/entropy"] != last["cam/entropy"]


def test_bfloat16_trains(run_command: Command, tmp_path: Path) -> None:
    done = run_command(*TINY, "trainer.precision=bfloat16", "evaluate.maps=[]")
    assert done.returncode == 0, done.stderr
    assert "bfloat16" in done.stdout
    assert only_result(tmp_path)["status"] == "completed"


@pytest.mark.slow
def test_compiled_code_trains(run_command: Command, tmp_path: Path) -> None:
    done = run_command(*TINY, "trainer.compile=true")
    assert done.returncode == 0, done.stderr
    assert only_result(tmp_path)["status"] == "completed"


def test_real_photographs(animals_run: FinishedRun) -> None:
    result = json.loads((animals_run.folder / "result.json").read_text())
    assert result["model"]["gradient_path"] == {"training": "autograd", "evaluation": "autograd"}
    assert result["data"]["val_with_region"] == 24
    assert result["cam_share"] == default_share(pretrained=True)
    for arm in ("baseline", "regularised"):
        final = result["arms"][arm]["final"]
        assert 0.3 < final["cam/energy_in_mask"] < 1
        assert final["cam/dead_rate"] < 0.1
