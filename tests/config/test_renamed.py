"""Former names of keys."""

from __future__ import annotations

import pytest
from conftest import Command

from camtrain.config.arguments import current_name
from camtrain.config.hydra_store import from_tree, to_tree
from camtrain.config.schema import RENAMED, Config, FolderConfig, keys


def test_every_former_name_leads_to_a_key() -> None:
    known = {key for key, _, _ in keys(Config(dataset=FolderConfig(root="photos")))}
    assert set(RENAMED.values()) <= known
    assert not set(RENAMED) & known


@pytest.mark.parametrize("former", RENAMED)
@pytest.mark.parametrize(("prefix", "value"), [("", "=3"), ("+", "=3"), ("++", "=1,2"), ("~", ""), ("", "=a=b\nc")])
def test_a_former_name_is_accepted_with_a_word(
    former: str, prefix: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert current_name(f"{prefix}{former}{value}") == f"{prefix}{RENAMED[former]}{value}"
    assert capsys.readouterr().err == f"camtrain: {former} is now called {RENAMED[former]}\n"


@pytest.mark.parametrize("argument", ["evaluate.images=3", "-m", "--cfg", "job", "", "dataset.root=evaluate.pictures"])
def test_everything_else_stays(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert current_name(argument) == argument
    assert not capsys.readouterr().err


def test_a_class_is_given_by_its_short_name() -> None:
    assert current_name("class=tabby cat") == "class_name=tabby cat"


def test_runs_of_the_former_version_are_read_silently(capsys: pytest.CaptureFixture[str]) -> None:
    tree = to_tree(Config(dataset=FolderConfig(root="photos")))  # type: ignore[call-arg]
    tree["dataset"]["name"], tree["model"]["name"] = "folder", "small_resnet"
    values = {name: number + 1 for number, name in enumerate(RENAMED)}
    values["evaluate.picture_epochs"] = [3, 5]  # type: ignore[assignment]
    for former, name in RENAMED.items():
        section = name.partition(".")[0]
        del tree[section][name.partition(".")[2]]
        tree[section][former.partition(".")[2]] = values[former]
    config = from_tree(tree)
    for former, name in RENAMED.items():
        section, _, leaf = name.partition(".")
        assert getattr(getattr(config, section), leaf) == values[former]
    assert "evaluate.pictures" not in {f"evaluate.{key}" for key in to_tree(config)["evaluate"]}
    assert tree["evaluate"]["pictures"] == 1, "the tree that was read is unchanged"
    assert not capsys.readouterr().err


def test_former_names_in_a_sweep_on_the_command_line(command: Command) -> None:
    done = command("-m", "dataset=fake", "evaluate.pictures=2,magic")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "camtrain: evaluate.pictures is now called evaluate.images",
        "camtrain: error: evaluate.images: magic does not fit; it must be a whole number",
    ]
