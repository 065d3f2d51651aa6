"""Arguments as users type them, and what Hydra makes of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hydra.errors import OverrideParseException
from hypothesis import given
from hypothesis import strategies as st

from camtrain.config.arguments import (
    dataset_of_run,
    hint_of,
    is_list,
    jobs_to_check,
    parsed,
    prepared,
    raw_text,
    repeated,
)
from camtrain.config.messages import message

TYPED = (
    *("lr=0.1", "cats,dogs", "100%", "me@home", "no#1", "bob's", "a$b", "mine (1)", "a:b", "two  blanks", " before"),
    *("C:\\pics", "end\\", "end\\\\", "x{y}", "a!b", "a&b", "a+b", "ünï", "null", "NULL", "None", "nan", "007", "1e5"),
    *("1_0", "true", "~/x", '"', "'", '"a" b', "[x]", "choice(a,b)", "caf\udce9", "line\nbreak", "\N{GRINNING FACE}"),
)


@pytest.mark.parametrize("value", TYPED)
def test_text_is_what_was_typed(value: str) -> None:
    assert parsed(raw_text(f"dataset.root={value}", sweep=False)).value() == value
    assert parsed(raw_text(f"run={value}", sweep=False)).value() == value
    assert parsed(raw_text(f"++hydra.run.dir={value}", sweep=False)).value() == value


@given(st.text(st.characters(exclude_characters="\0"), min_size=1))
def test_any_text_is_what_was_typed(value: str) -> None:
    written = raw_text(f"class_name={value}", sweep=False)
    if "${" not in value and not (len(value) > 1 and value[0] == value[-1] and value[0] in "'\""):
        assert parsed(written).value() == value


@pytest.mark.parametrize(
    "argument",
    [
        *('dataset.root="my images"', "dataset.root=${oc.env:DATA}", "dataset.root=", "model.weights=null"),
        *("optim.lr=1e-3", "evaluate.maps=[cam,gradcam]", "cam.weight=auto", "dataset=folder", "-m", "--cfg", "x,y"),
    ],
)
def test_everything_else_is_left_to_hydra(argument: str) -> None:
    assert raw_text(argument, sweep=False) == argument


@pytest.mark.parametrize("value", TYPED)
@pytest.mark.parametrize("key", ["dataset.root", "class_name", "images", "++hydra.run.dir", "+model.options.key"])
def test_a_job_of_a_sweep_reads_what_the_sweep_read(key: str, value: str) -> None:
    (job,) = jobs_to_check(
        [raw_text(f"{key}={value}", sweep=False)] if "options" not in key else [f"{key}=a"], sweep=True
    )
    again = repeated(*job)
    assert prepared([again]) == [again]
    assert parsed(again).value() == parsed(job[0]).value()


@pytest.mark.parametrize(
    "override", ["~dataset", "+a={b:c d,e:[f,null,1]}", "x=a\\ b\\,c", "images=[a\\,b,'c d']", "seed=${b}"]
)
def test_texts_stand_in_quotes_for_a_job(override: str) -> None:
    again = repeated(override)
    assert prepared([again]) == [again]
    assert parsed(again).value() == parsed(override).value()


@pytest.mark.parametrize(
    ("value", "values"),
    [
        ("true,1e5", ["true", "1e5"]),
        ("bob's, cats", ["bob's", "cats"]),
        ('"a,b",c', ["a,b", "c"]),
        ("a\\,b,c", ["a,b", "c"]),
        ("choice(a,b)", ["a", "b"]),
    ],
)
def test_commas_of_a_sweep_keep_their_meaning(value: str, values: list[str]) -> None:
    jobs = jobs_to_check(prepared(["dataset=folder", f"dataset.root={value}", "-m"])[1:], sweep=True)
    assert [parsed(job[1]).value() for job in jobs] == values


def test_a_list_of_texts_holds_what_was_typed() -> None:
    written = raw_text("""images=[1e5,bob's.jpg,"a,b.png", x y.gif]""", sweep=False)
    assert parsed(written).value() == ["1e5", "bob's.jpg", "a,b.png", "x y.gif"]
    assert parsed(raw_text("images=[1].jpg", sweep=False)).value() == "[1].jpg"


@pytest.mark.parametrize(
    ("argument", "sweep", "values"),
    [
        ("images=[0-9]*[ab]", False, ["[0-9]*[ab]"]),
        ("images=[a[0-9].jpg,b.jpg]", False, [["a[0-9].jpg", "b.jpg"]]),
        ("images=[a.jpg],[b.jpg, 1]", True, [["a.jpg"], ["b.jpg", "1"]]),
        ("images=[0-9]*[ab],'c,d'", True, ["[0-9]*[ab]", "c,d"]),
        ("images=[bob's.jpg],[it's.jpg]", True, [["bob's.jpg"], ["it's.jpg"]]),
        ("dataset.annotations=[a\\,b],c", True, [["a,b"], "c"]),
        ("dataset.classes=[1e5,no,bob's]", False, [["1e5", "no", "bob's"]]),
        ("dataset.classes=3,4", True, [3, 4]),
        ("dataset.image_size=[64,96]", False, [[64, 96]]),
    ],
)
def test_lists_of_texts_and_patterns_are_told_apart(argument: str, sweep: bool, values: list[object]) -> None:
    jobs = jobs_to_check([raw_text(argument, sweep)], sweep)
    assert [parsed(job[0]).value() for job in jobs] == values


def test_advice_can_be_pasted_into_a_shell() -> None:
    for value in ("[bob's", "[a$b", "[a`b", "[end\\", '[q"'):
        with pytest.raises(OverrideParseException) as raised:
            parsed(f"hydra.job.name={value}")
        advice = message(raised.value).partition("quotes within quotes: ")[2]
        typed = subprocess.run(["sh", "-c", f"printf %s {advice}"], capture_output=True, text=True, check=True).stdout
        assert parsed(typed).value() == value


def test_types_of_keys_are_known_for_every_data_set() -> None:
    assert hint_of("dataset.root") is str
    assert hint_of("class_name") == str | None
    assert hint_of("nothing") is None
    assert is_list("evaluate.image_epochs")
    assert not is_list("dataset.root")


def test_the_data_set_of_a_run_is_implied_by_its_settings(tmp_path: Path) -> None:
    config = {"dataset": {"name": "folder", "root": "/it's"}}
    (tmp_path / "result.json").write_text(json.dumps({"config": config}))
    evaluate = ["task=evaluate", f"run={tmp_path}"]
    assert dataset_of_run([*evaluate, "dataset.root=other"]) == ["dataset=folder"]
    assert dataset_of_run([*evaluate, "dataset.void=1"]) == ["dataset=folder", 'dataset.root="/it\'s"']
    for task in ("export", "resume"):
        assert dataset_of_run([f"task={task}", f"run={tmp_path}", "dataset.root=other"]) == ["dataset=folder"]
    assert dataset_of_run(evaluate) == []
    config = {"dataset": {"name": "python", "source": "my:make"}}
    (tmp_path / "result.json").write_text(json.dumps({"config": config}))
    assert dataset_of_run([*evaluate, "dataset.fit=pad"]) == ["dataset=python", 'dataset.source="my:make"']
    assert dataset_of_run([*evaluate, "dataset=shapes", "dataset.val=8"]) == []
    assert dataset_of_run(["task=evaluate", "run=nowhere", "dataset.val=8"]) == []
    assert dataset_of_run([f"run={tmp_path}", "dataset.val=8"]) == []
