"""The shape of the house: who may import whom, and how large a room may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "camtrain"

# From the ground up: a package may import those on lower floors and itself, but none beside it on its own floor.
FLOORS = [
    ("errors", "streams", "normalisation", "regions", "interrupts"),
    ("arms",),
    ("files", "importing", "config.options"),
    ("distributed",),
    ("packed",),
    ("config",),
    ("device",),
    ("cam", "data"),
    ("loss", "metrics", "networks"),
    ("training",),
    ("evaluation",),
    ("runs", "export"),
    ("analysis",),
    ("report",),
    ("tasks", "interface"),
    ("sweeps",),
    ("cli",),
    ("__main__",),
]

MATHEMATICS = ("cam", "loss", "metrics")
"""They import torch and plain options, never a configuration tree."""

LONGEST, LONGEST_WITH_FORMULA, MOST_PARAMETERS, MOST_FILES = 60, 90, 7, 14


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """Without `camtrain.` in front."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def floor(name: str) -> int:
    places = [
        number
        for number, names in enumerate(FLOORS)
        for entry in names
        if name == entry
        or (name.startswith(f"{entry}.") and entry != "config")
        or (entry == "config" and name.split(".")[0] == "config" and name != "config.options")
    ]
    assert len(places) == 1, f"{name} has no place of its own"
    return places[0]


def imports(path: Path) -> set[str]:
    """Names of the project's modules that a file imports."""
    known = {module_name(other) for other in modules()}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "camtrain":
            inner = node.module.removeprefix("camtrain").lstrip(".")
            for alias in node.names:
                whole = f"{inner}.{alias.name}".lstrip(".")
                found.add(f"camtrain.{whole if whole in known else inner}")
    return {name.removeprefix("camtrain.") for name in found if name.startswith("camtrain.")}


def test_imports_go_one_way() -> None:
    for path in modules():
        name = module_name(path)
        if name == "__init__":
            continue
        floor(name)  # every module has a place
        for imported in imports(path):
            same = name.split(".")[0] == imported.split(".")[0]
            assert same or floor(imported) < floor(name), f"{name} reaches up, or across, to {imported}"


def test_the_mathematics_knows_no_configuration_tree() -> None:
    for path in modules():
        if module_name(path).split(".")[0] in MATHEMATICS:
            odd = {name for name in imports(path) if name.startswith("config") and name != "config.options"}
            assert not odd, f"{path} imports {odd}"
    code = (
        "import sys, camtrain.cam, camtrain.loss, camtrain.metrics, camtrain.cam.make, camtrain.loss.criterion,"
        " camtrain.metrics.catalogue; assert not {'hydra', 'omegaconf'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_nobody_below_the_tasks_takes_the_whole_configuration() -> None:
    for path in modules():
        package = module_name(path).split(".")[0]
        if package in ("config", "tasks", "cli", "runs"):  # a record of a run holds its configuration
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "camtrain.config.schema":
                assert "Config" not in {alias.name for alias in node.names}, path


def test_configuration_does_not_import_torch() -> None:
    code = "import sys, camtrain.cli, camtrain.config.reference; assert not {'torch', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_few_modules_stand_beside_the_packages() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_FILES


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_functions_are_short_and_take_few_parameters(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            lines = node.end_lineno - node.lineno + 1  # type: ignore[operator]
            docstring = len((ast.get_docstring(node) or "").splitlines())
            longest = (
                LONGEST_WITH_FORMULA
                if 2 * docstring > lines and ".. math::" in (ast.get_docstring(node) or "")
                else LONGEST
            )
            assert lines <= longest, f"{path}: {node.name} has {lines} lines"
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = sum(argument.arg not in ("self", "cls") for argument in arguments)
            assert count <= MOST_PARAMETERS, f"{path}: {node.name} has {count} parameters"
