"""Which outputs of a network the classes of a data set are."""

from __future__ import annotations

from pathlib import Path

import pytest

from camtrain.errors import UserError
from camtrain.networks.class_map import by_map, by_name, imagenet_names, in_words, read_map

OUTPUTS = ["tabby", "tiger cat", "Golden Retriever", "crane", "crane", "sorrel"]


def test_imagenets_names() -> None:
    names = imagenet_names()
    assert (len(names), names[0], names[281], names[339], names[999]) == (
        *(1000, "tench", "tabby", "sorrel"),
        "toilet tissue",
    )


def test_names_need_not_have_the_same_case_or_blanks() -> None:
    assert by_name(["golden_retriever", "Tiger-Cat", "sorrel"], OUTPUTS, "x") == [[2], [1], [5]]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("tabbi", "x: the network has no class tabbi \\(did you mean tabby\\?\\); it has tabby, tiger cat"),
        ("crane", "x: the network has several classes called crane; say which by its number: 3 and 4"),
    ],
)
def test_names_without_one_counterpart(name: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        by_name(["tabby", name], OUTPUTS, "x")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.yaml", "cat: [tabby, 1]  # two\nbird: 3-4\nhorse: sorrel\nfish: [tench]\n"),
        ("map.csv", "class,network class\ncat,tabby\ncat,1\nbird,3-4\nhorse,sorrel\n\n"),
    ],
)
def test_files(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    groups = by_map(read_map(path, "reference.classes"), ["bird", "cat", "horse"], OUTPUTS, "x")
    assert groups == [[3, 4], [0, 1], [5]]
    words = in_words(groups, ["bird", "cat", "horse"], OUTPUTS)
    assert words == {"bird": ["crane (3)", "crane (4)"], "cat": ["tabby", "tiger cat"], "horse": ["sorrel"]}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cat: [tabby]", "x: it has no entry for the class horse of the data set"),
        ("cat: [tabby]\nhorse: []", "x: it has no entry for the class horse of the data set"),
        ("cat: [tabby]\nhorse: [sorel]", "x: horse: the network has no class sorel \\(did you mean sorrel\\?\\)"),
        ("cat: [0-1]\nhorse: [5, 1]", "x: tiger cat \\(1\\) is in cat and in horse"),
        ("cat: [4-6]\nhorse: [0]", "x: cat: 4-6: the network's classes have the numbers 0 to 5"),
        ("cat: [2-1]\nhorse: [0]", "x: cat: 2-1: the network's classes have the numbers 0 to 5"),
    ],
)
def test_entries_that_do_not_fit(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=problem):
        by_map(read_map(path, "reference.classes"), ["cat", "horse"], OUTPUTS, "x")


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("map.yaml", "- cat", "it is no mapping"),
        ("map.yaml", "cat: [", "not a map of classes"),
        ("map.csv", "cat,tabby,1\n", "not a map of classes"),
        ("none.yaml", None, "No such file"),
    ],
)
def test_files_that_are_no_map(tmp_path: Path, name: str, text: str | None, problem: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=problem) as found:
        read_map(path, "treatment.classes")
    assert str(found.value).startswith(f"treatment.classes={path}: ")
    assert len(str(found.value).splitlines()) == 1
