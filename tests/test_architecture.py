"""The shape of the house: who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

from conftest import ROOT

PACKAGE = ROOT / "camtrain"

# A composition root sees everything; only the entry point, which imports it late, sees a composition root.
ROOTS = {
    "camtrain.experiment",
    "camtrain.explain",
    "camtrain.again",
    "camtrain.across",
    "camtrain.cli",
    "camtrain.__main__",
}

# From the bottom up: configuration, data, model, cam, loss, arm, train, evaluate, report. Nobody reaches up.
LEVELS = [
    {"camtrain.errors", "camtrain.streams", "camtrain.files", "camtrain.normalisation"},
    {"camtrain.config", "camtrain.complaints", "camtrain.statistics", "camtrain.pareto"},
    {"camtrain.data", "camtrain.residual", "camtrain.indicators", "camtrain.machine", "camtrain.sanity"},
    {
        "camtrain.cam",
        "camtrain.score",
        "camtrain.terms",
        "camtrain.layers",
        "camtrain.faithfulness",
        "camtrain.localisation",
        "camtrain.control",
        "camtrain.stability",
        "camtrain.learning",
        "camtrain.optim",
        "camtrain.balance",
    },
    {"camtrain.head", "camtrain.graph", "camtrain.loss", "camtrain.performance", "camtrain.road", "camtrain.claim"},
    {"camtrain.model"},
    {"camtrain.arm"},
    {"camtrain.train", "camtrain.evaluate", "camtrain.checkpoint", "camtrain.preconditions", "camtrain.compiled"},
    {
        "camtrain.drawing",
        "camtrain.comparison",
        "camtrain.tensorboard",
        "camtrain.result",
        "camtrain.narration",
        "camtrain.finished",
    },
    {"camtrain.closely", "camtrain.summary", "camtrain.page", "camtrain.plots"},
    {"camtrain.report", "camtrain.wall"},
    {"camtrain.conclusion"},
]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def level(name: str) -> int:
    whole = ".".join(name.split(".")[:2])
    return next(number for number, names in enumerate(LEVELS) if whole in names)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                f"{node.module}.{alias.name}" if node.module == "camtrain" else node.module for alias in node.names
            }
    return found


def test_imports_go_one_way() -> None:
    for path in PACKAGE.rglob("*.py"):
        name = module_name(path)
        if name in ROOTS or name == "camtrain":
            continue
        for imported in imports(path):
            if imported.startswith("camtrain"):
                assert imported not in ROOTS, f"{name} imports the composition root"
                assert level(imported) <= level(name), f"{name} reaches up to {imported}"


def test_every_module_has_a_place() -> None:
    for path in PACKAGE.rglob("*.py"):
        name = module_name(path)
        assert name == "camtrain" or name in ROOTS or level(name) >= 0


def test_configuration_does_not_import_torch() -> None:
    for name in ("config", "cli", "complaints", "errors", "files"):
        assert not any(
            imported.split(".")[0] in ("torch", "torchvision") for imported in imports(PACKAGE / f"{name}.py")
        )
