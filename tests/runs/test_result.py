"""result.json and pictures.csv: what is written is read back, also what the former version wrote."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from report.three import OLD_RUN, three_arms
from runs.made import THREE, TWO, made_run

from camtrain.data.images import in_memory
from camtrain.errors import UserError
from camtrain.runs.images import read_classes, read_images, write_images
from camtrain.runs.load import networks, read
from camtrain.runs.result import (
    NAME,
    Control,
    GalleryEntry,
    MapCaption,
    RunResult,
    Timing,
    check_unused,
    finite,
    mark,
    write,
)


def test_a_run_of_the_former_version_is_read_and_written_as_it_was() -> None:
    former = json.loads((OLD_RUN / "result.json").read_text())
    written = finite(read(OLD_RUN).result.to_json())
    assert written["differences"] == {"regularised": former["difference"]}
    assert written["differences_95"] == {"regularised": former["difference_95"]}
    for key in ("differences", "differences_95", "config"):
        del written[key]
    del written["data"]["val_per_class"], written["data"]["fingerprint"], written["model"]["cells"]
    del former["config"]  # whose keys have other names by now
    assert written == former


def test_the_configuration_of_the_former_version_is_understood() -> None:
    config = read(OLD_RUN).config
    assert (config.evaluate.images, config.evaluate.faithfulness_images, config.evaluate.road_images) == (2, 2, 1)
    assert config.dataset.image_size == 16


def test_networks_of_the_former_version_are_loaded() -> None:
    finished = read(OLD_RUN)
    found = networks(finished, torch.device("cpu"))
    assert list(found) == list(TWO)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = [network(images).logits for network in found.values()]
    assert not torch.equal(*logits)
    assert all(network.routes == finished.result.model.gradient_path for network in found.values())
    assert not any(network.training for network in found.values())


def test_networks_draw_their_maps_as_their_run_did() -> None:
    finished = read(OLD_RUN)
    for registered in (False, True):
        finished.config.evaluate.registered = registered
        assert {net.registered for net in networks(finished, torch.device("cpu")).values()} == {registered}


def test_two_arms_have_the_keys_of_always() -> None:
    tree = made_run(0, TWO).result.to_json()
    assert tree["difference"] == tree["differences"]["regularised"]
    assert tree["difference_95"] == tree["differences_95"]["regularised"]
    assert not {"controls", "cam_shares"} & set(tree)
    assert "step_ratios" not in tree["timing"]
    assert tree["timing"]["step_ratio"] == pytest.approx(1.1)


def test_the_range_of_a_run_is_read_again() -> None:
    tree = made_run(0, TWO).result.to_json()
    assert tree["data"]["intensity_range"] is None
    assert "notes" not in tree["data"]
    for span in (None, (0.0, 4096.0)):
        tree["data"] |= {"intensity_range": span, "notes": {"train": ["a line"], "val": []}}
        data = RunResult.from_json(tree).data
        assert (data.intensity_range, data.notes["train"]) == (span, ["a line"])
    del tree["data"]["intensity_range"]
    assert RunResult.from_json(tree).data.intensity_range == (0, 65536), "what former versions took"


def test_an_arm_may_be_called_share_beside_the_share_of_an_object(tmp_path: Path) -> None:
    result = made_run(0, ("share", "regularised")).result
    captions = {name: MapCaption("disc", 0.5, 2.0, {}) for name in result.arms}
    result.gallery = [GalleryEntry("pictures/best-1.png", "best", "1", "disc", captions, share=0.25)]
    write(tmp_path, result)
    (entry,) = read(tmp_path).result.gallery or []
    assert (entry.share, entry.arms) == (0.25, captions)


def test_three_arms_are_written_and_read() -> None:
    result = made_run(0, THREE).result
    tree = result.to_json()
    assert list(tree["differences"]) == ["regularised", "area"]
    assert tree["difference"] == tree["differences"]["regularised"]
    assert tree["control"] == tree["controls"]["regularised"]
    assert tree["timing"]["step_ratios"] == pytest.approx({"regularised": 1.1, "area": 1.2})
    again = type(result).from_json(json.loads(json.dumps(finite(tree))))
    assert finite(again.to_json()) == finite(tree)
    assert list(again.finals()) == ["baseline", "regularised", "area", "control", "control:area"]


def test_baselines_sharpened_to_the_area_are_written_and_read() -> None:
    for arms in (TWO, THREE):
        result = made_run(0, arms).result
        assert "control_area" not in result.to_json()
        assert result.controls_area == {}
        result.controls_area = {name: Control(1.5, {"cam/area": 2.0}) for name in arms[1:]}
        tree = json.loads(json.dumps(finite(result.to_json())))
        assert tree["control_area"] == {"power": 1.5, "final": {"cam/area": 2.0}}
        assert ("controls_area" in tree) == (len(arms) == 3)
        again = type(result).from_json(tree)
        assert again.controls_area == result.controls_area
        assert [name for name in again.finals() if name.startswith("control_area")] == (
            ["control_area", "control_area:area"][: len(arms) - 1]
        )


def test_the_number_of_images_of_faithfulness_is_read_again() -> None:
    result = made_run(0).result
    assert "faithfulness_images" not in result.to_json(), "not known"
    for count in (0, 521):
        result.faithfulness_images = count
        tree = result.to_json()
        assert tree["faithfulness_images"] == count
        assert RunResult.from_json(tree).faithfulness_images == count


def test_a_run_that_has_just_begun_has_no_figures(tmp_path: Path) -> None:
    result = made_run(0, THREE).result
    result.status, result.controls, result.differences, result.margins = "running", {}, {}, {}
    for arm in result.arms.values():
        arm.epochs = []
    result.timing = Timing(0.0, {})
    tree = write(tmp_path, result)
    assert tree["arms"]["baseline"] == {"final": {}, "epochs": []}
    assert tree["timing"] == {
        "seconds": 0.0,
        "step": {},
        "step_ratio": None,
        "step_ratios": {"regularised": None, "area": None},
    }
    assert not {"control", "controls", "by_size", "sanity", "wall", "trained_seed"} & set(tree)
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "running"


def test_what_was_measured_again_has_no_steps() -> None:
    result = made_run(0).result
    result.timing, result.trained_seed = Timing(3.0), 7
    tree = result.to_json()
    assert tree["timing"] == {"seconds": 3.0}
    assert (tree["seed"], tree["trained_seed"], result.seed) == (0, 7, 7)


def test_a_gallery_of_three_arms_is_read_again(tmp_path: Path) -> None:
    three_arms(tmp_path)
    result = read(tmp_path).result
    assert result.gallery
    for entry in result.gallery:
        assert list(entry.arms) == list(THREE)
        assert (tmp_path / entry.file).is_file()


def test_figures_of_images_survive_with_the_sharpened_baselines(tmp_path: Path) -> None:
    images = in_memory(["a", "b"], torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), torch.zeros(0))
    values = torch.tensor([0.25, math.nan], dtype=torch.float64)
    each = {name: {"cam/entropy": values} for name in (*THREE, "control", "control:area")}
    write_images(tmp_path, images, each)
    heading = (tmp_path / "pictures.csv").read_text().splitlines()[0]
    assert heading.startswith("picture,class,baseline cam/entropy,")
    assert heading.endswith(",control cam/entropy,control:area cam/entropy")
    found = read_images(tmp_path)
    assert list(found) == list(each)
    assert torch.equal(found["control:area"]["cam/entropy"].isnan(), values.isnan())


def test_a_folder_holds_one_run(tmp_path: Path) -> None:
    check_unused(tmp_path)
    (tmp_path / "result.json").touch()
    with pytest.raises(UserError, match="already holds a run"):
        check_unused(tmp_path)


def test_a_status_is_set_where_there_is_no_room_and_in_one_go(tmp_path: Path) -> None:
    """Cut shorter afterwards, the file would end in what was there before if the program were killed just then."""
    path = tmp_path / NAME
    path.write_text(json.dumps({"status": "running", "arms": ["é"]}, indent=1))
    size = path.stat().st_size
    mark(tmp_path, "interrupted")
    assert path.stat().st_size == size
    assert json.loads(path.read_text()) == {"status": "interrupted", "arms": ["é"]}


def test_a_line_without_a_class_is_an_error_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "pictures.csv").write_text("picture\n1\n")
    with pytest.raises(UserError, match=r"pictures\.csv: not the figures of a run's images .*; repeat the run"):
        read_classes(tmp_path)
