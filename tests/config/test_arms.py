"""Arms that the configuration adds, changes and removes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Command

from camtrain.analysis.over_seeds import settings
from camtrain.cli import preflight
from camtrain.config.hydra_store import cam_of_arms, from_tree, register, to_tree, to_yaml
from camtrain.config.messages import CONFIG_ERRORS, message
from camtrain.config.options import CamVariant, Score, Term
from camtrain.config.schema import ARMS, Config, keys
from camtrain.errors import UserError

Configured = Callable[..., Config]


def arm_keys(config: Config) -> dict[str, object]:
    return {key: value for key, value, _ in keys(config) if key.startswith("arms")}


def test_the_default_arms(configured: Configured) -> None:
    config = configured("cam.score=logit", "cam.share=0.3")
    assert cam_of_arms(config) == {"baseline": replace(config.cam, weight=0), "regularised": config.cam}
    assert arm_keys(config) == {}


def test_added_arms_differ_from_the_regularised_one_in_what_is_given(configured: Configured) -> None:
    config = configured("cam=layercam", "+arms.area.cam.term=area", "+arms.area.cam.weight=2", "+arms.twin={}")
    arms = cam_of_arms(config)
    assert list(arms) == ["baseline", "regularised", "area", "twin"]
    assert arms["area"] == replace(config.cam, term=Term.area, weight=2)
    assert arms["area"].variant is CamVariant.layercam
    assert arms["twin"] == arms["regularised"] == config.cam
    assert arm_keys(config) == {"arms.area.cam.term": "area", "arms.area.cam.weight": 2, "arms.twin": {}}


def test_default_arms_are_changed_without_a_plus(configured: Configured) -> None:
    config = configured("arms.baseline.cam.weight=0.1", "arms.regularised.cam.score=logit")
    arms = cam_of_arms(config)
    assert (arms["baseline"].weight, arms["baseline"].score) == (0.1, Score.centred)
    assert arms["regularised"].score is Score.logit
    assert arm_keys(config) == {"arms.baseline.cam.weight": 0.1, "arms.regularised.cam.score": "logit"}


def test_an_arm_can_be_removed_while_two_are_left(configured: Configured) -> None:
    config = configured("~arms.regularised", "+arms.area.cam.term=area")
    assert list(cam_of_arms(config)) == ["baseline", "area"]
    assert arm_keys(config) == {"arms": "baseline > area", "arms.area.cam.term": "area"}
    assert from_tree(to_tree(config)) == config


def test_an_arm_for_each_value(configured: Configured) -> None:
    written = configured("~arms.regularised", "+arms.share_0_2.cam.share=0.2", "+arms.share_0_5.cam.share=0.5")
    assert configured("arms_by.share=[0.2,0.5]") == written
    assert list(written.arms) == ["baseline", "share_0_2", "share_0_5"]


def test_an_arm_for_each_combination_with_what_the_treatment_has(configured: Configured) -> None:
    config = configured("arms_by={term:[entropy,area],weight:[1e-05,auto]}", "arms.regularised.cam.score=logit")
    arms = cam_of_arms(config)
    names = [
        "baseline",
        *(f"term_{term}_weight_{weight}" for term in ("entropy", "area") for weight in ("1e_05", "auto")),
    ]
    assert list(arms) == names
    assert [arms[name].weight for name in names] == [0, 1e-05, "auto", 1e-05, "auto"]
    assert all(arms[name].score is Score.logit for name in names[1:])


WRONG = {
    "arms_by.share=0.3": r"arms_by.share=0.3 does not fit; it must be a list of values",
    "arms_by.share=[]": r"arms_by.share=\[\] does not fit; it must be a list of values",
    "arms_by.share=[0.3,0.3]": r"arms_by: two arms would be called share_0_3; give each value once",
    "arms_by.shares=[0.3]": r"arms.shares_0_3.cam.shares: no such key",
    "experiment=ablation arms_by.share=[0.3]": r"arms_by makes the arms, but `arms` or a preset has regul.* already",
    "+arms.area.cam.tem=area": r"arms.area.cam.tem: no such key \(did you mean arms.area.cam.term\?\)",
    "+arms.area.cam.term=areas": r"arms.area.cam.term: areas does not fit; it must be one of entropy, area",
    "+arms.area.cam.weight=-1": r"arms.area.cam.weight=-1 is out of range: it must be at least 0",
    "+arms.area.cam.weight=inf": r"arms.area.cam.weight=inf is out of range: it must be at least 0 and finite",
    "+arms.area.cam.weight=much": r"arms.area.cam.weight: much does not fit; it must be a number or auto",
    "+arms.area.cam.weight=???": r"arms.area.cam.weight is not set: give it as",
    "+arms.area.cam.variant=eigencam": r"arms.area.cam.variant=eigencam can be measured, .* but not trained through",
    "+arms.area.cam=area": r"arms.area.cam: set one of its keys",
    "+arms.area=area": r"arms.area: area does not fit; an arm is given by its settings",
    "+arms.area.trainer.epochs=3": r"arms.area.trainer: arms may differ in cam only",
    "+arms.area.seed=3": r"arms.area.seed: arms may differ in cam only",
    "cam.enough=0.5": r"cam.enough=0.5 is out of range: it must be at least 1",
    "+arms.area.cam={term:area,enough:7}": r"arms.area.cam.enough=7 belongs to the entropy, not to .*: leave it out",
    "+arms.Area.cam.term=area": r"arms.Area: an arm is named in lower-case letters",
    "+arms.2.cam.term=area": r"arms.2: an arm is named in lower-case letters",
    "+arms.control.cam.term=area": r"arms.control: this name is taken",
    "+arms.control_area.cam.term=area": r"arms.control_area: this name is taken",
    "+arms.tb.cam.term=area": r"arms.tb: this name is taken",
    "+arms.pictures.cam.term=area": r"arms.pictures: this name is taken",
    "arms.area.cam.term=area": r"arms.area: no such arm or setting yet; a \+ in front adds it",
    "~arms.regularised": r"arms: a comparison needs at least two, not 1",
    "arms=two": r"arms: .* does not fit; it must be a mapping",
}


@pytest.mark.parametrize("override", WRONG)
def test_what_no_arm_can_be_is_one_line_before_anything_is_written(
    override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    register()
    with pytest.raises((UserError, *CONFIG_ERRORS)) as caught:
        preflight(["dataset=fake", *override.split(" ")])
    said = str(caught.value) if isinstance(caught.value, UserError) else message(caught.value)
    assert re.match(WRONG[override], said), said
    assert "\n" not in said
    assert not list(tmp_path.iterdir())


def test_every_value_of_a_sweep_is_checked() -> None:
    register()
    preflight(["-m", "dataset=fake", "+arms.other.cam.term=area,dispersion", "seed=0,1"])
    with pytest.raises(UserError, match=r"arms\.other\.cam\.term: sharpness does not fit"):
        preflight(["-m", "dataset=fake", "+arms.other.cam.term=area,sharpness", "seed=0,1"])


def test_arms_of_a_file(tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "three.yaml").write_text("# @package _global_\narms: {area: {cam: {term: area, weight: 3}}}\n")
    shown = command("--config-dir", str(tmp_path / "mine"), "--cfg", "job", "experiment=three").stdout
    assert "arms:\n  baseline:\n    cam:\n      weight: 0\n  regularised: {}\n  area:\n" in shown


def test_a_run_of_the_former_version_has_the_default_arms_and_the_same_settings(configured: Configured) -> None:
    config = configured("dataset=fake")
    tree = to_tree(config)
    del tree["arms"]
    old = from_tree(tree)
    assert old == config
    assert old.arms == ARMS
    assert settings(old) == settings(config)
    assert not any(key.startswith("arms") for key in settings(config))
    assert settings(configured("dataset=fake", "+arms.area.cam.term=area")) != settings(config)


def test_a_configuration_survives_its_file(configured: Configured) -> None:
    config = configured("experiment=quick", "+arms.area.cam.term=area", "cam.weight=3", "optim=sgd")
    assert from_tree(to_tree(config)) == config
    assert "area:\n    cam:\n      term: area\n" in to_yaml(config)


@pytest.mark.parametrize("tree", [[], {}, 3, {"dataset": {"name": "magic"}}, {"dataset": {"name": "fake"}, "cam": 3}])
def test_what_is_no_configuration(tree: object) -> None:
    with pytest.raises((LookupError, TypeError, ValueError)):
        from_tree(tree)  # type: ignore[arg-type]
