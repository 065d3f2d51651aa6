"""Train image classifiers with and without concentrated class activation maps, and compare.

What is listed here is the Python interface, for loops and networks of one's own; the command line is
:mod:`camtrain.cli`. Nothing is imported before it is used: `import camtrain` alone does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camtrain.errors import UserError as UserError
    from camtrain.interface import Compared as Compared
    from camtrain.interface import compare as compare
    from camtrain.interface import load_run as load_run
    from camtrain.interface import maps as maps
    from camtrain.interface import measure as measure
    from camtrain.interface import views as views
    from camtrain.loss.criterion import CamLoss as CamLoss
    from camtrain.networks.capture import capture as capture

_PLACES = {
    "capture": "networks.capture",
    "CamLoss": "loss.criterion",
    "maps": "interface",
    "measure": "interface",
    "views": "interface",
    "compare": "interface",
    "Compared": "interface",
    "load_run": "interface",
    "UserError": "errors",
}

__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return [*_PLACES, *(name for name in globals() if name.startswith("__"))]
