"""The shape of the house: who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

from conftest import ROOT

PACKAGE = ROOT / "camtrain"

# A composition root sees everything; only the entry point, which imports it late, sees a composition root.
ROOTS = {
    "camtrain.tasks.train",
    "camtrain.tasks.explain",
    "camtrain.tasks.evaluate",
    "camtrain.tasks.report",
    "camtrain.cli",
    "camtrain.__main__",
}

# From the bottom up: configuration, data, model, cam, loss, arm, train, evaluate, report. Nobody reaches up.
LEVELS = [
    {"camtrain.errors", "camtrain.streams", "camtrain.files", "camtrain.normalisation"},
    {"camtrain.config.schema", "camtrain.config.messages", "camtrain.analysis.intervals", "camtrain.analysis.pareto"},
    {
        "camtrain.data",
        "camtrain.networks.small_resnet",
        "camtrain.metrics.concentration",
        "camtrain.device",
        "camtrain.metrics.randomisation",
    },
    {
        "camtrain.cam.methods",
        "camtrain.cam.gradients",
        "camtrain.loss.terms",
        "camtrain.networks.layers",
        "camtrain.metrics.faithfulness",
        "camtrain.metrics.localisation",
        "camtrain.evaluation.sharpened",
        "camtrain.metrics.equivariance",
        "camtrain.metrics.learning_curves",
        "camtrain.training.optim",
        "camtrain.loss.balance",
    },
    {
        "camtrain.cam.routes",
        "camtrain.networks.fx_capture",
        "camtrain.loss.criterion",
        "camtrain.metrics.classification",
        "camtrain.metrics.road",
        "camtrain.analysis.verdict",
    },
    {"camtrain.networks.build"},
    {"camtrain.training.step"},
    {
        "camtrain.training.loop",
        "camtrain.evaluation.every_epoch",
        "camtrain.training.checkpoint",
        "camtrain.training.checks",
        "camtrain.networks.compile",
    },
    {
        "camtrain.report.overlay",
        "camtrain.analysis.comparison",
        "camtrain.runs.tensorboard",
        "camtrain.runs.result",
        "camtrain.report.console",
        "camtrain.runs.load",
    },
    {
        "camtrain.evaluation.after_training",
        "camtrain.analysis.over_seeds",
        "camtrain.report.page",
        "camtrain.report.plots",
    },
    {"camtrain.report.build", "camtrain.report.gallery"},
    {"camtrain.tasks.session"},
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
