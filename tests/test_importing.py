from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from camtrain import importing
from camtrain.errors import UserError
from camtrain.importing import imported, own_code

FILES = {
    "fine_own.py": "import json\nnumber = 3\n\ndef make(x):\n    return json.loads(x)\n",
    "broken_own.py": "x = 1\ny = x / 0\n",
    "needs_own.py": "\nimport no_such_thing_at_all\n",
    "syntax_own.py": "x = 1\ndef (\n",
    "leaves_own.py": "import sys\nsys.exit(3)\n",
    "package_own/__init__.py": "",
    "package_own/inner.py": "def make():\n    return 7\n",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if "_own" in name]:
        del sys.modules[name]


@pytest.mark.usefixtures("here")
def test_a_function_in_the_present_folder_is_found() -> None:
    assert imported("fine_own:make", "model.name")("[1]") == [1]
    assert imported("package_own.inner:make", "model.name")() == 7


@pytest.mark.usefixtures("here")
def test_the_folder_of_the_start_is_searched_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "START", tmp_path)
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    assert imported("package_own.inner:make", "model.name")() == 7


def test_a_file_in_the_present_folder_stands_in_for_no_library(here: Path) -> None:
    (here / "colorsys.py").write_text("")
    imported("fine_own:make", "model.name")
    assert sys.path[-1] == str(here)
    assert sys.path.count(str(here)) == 1
    found = importlib.util.find_spec("colorsys")
    assert found is not None
    assert found.origin != str(here / "colorsys.py")


@pytest.mark.parametrize(
    ("path", "says"),
    {
        "make": "it must be package.module:function",
        "fine_own.py:make:x": "it must be package.module:function",
        "nowhere_own:make": "there is no module nowhere_own, neither in .* nor on the Python path",
        "package_own.other:make": "there is no module package_own.other, ",
        "fine_own:build": "fine_own.py has no build$",
        "fine_own:number": "fine_own.py has number, which cannot be called$",
        "broken_own:make": "broken_own.py line 2: ZeroDivisionError: division by zero$",
        "needs_own:make": "needs_own.py line 2: ModuleNotFoundError: No module named 'no_such_thing_at_all'$",
        "syntax_own:make": "syntax_own.py line 2: SyntaxError: ",
        "leaves_own:make": "leaves_own.py line 2: SystemExit: 3$",
    }.items(),
)
@pytest.mark.usefixtures("here")
def test_what_is_wrong_is_said_in_one_line(path: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as raised:
        imported(path, "model.name")
    assert str(raised.value).startswith(f"model.name={path}: ")
    assert "\n" not in str(raised.value)


def test_the_innermost_line_of_the_users_own_is_blamed(here: Path) -> None:
    make = imported("fine_own:make", "dataset.source")
    says = re.escape(f"{here}/fine_own.py line 5: JSONDecodeError: Expecting value")
    with pytest.raises(UserError, match=says), own_code("dataset.source=fine_own:make"):
        make("no json")
