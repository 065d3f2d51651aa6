"""torch.compile for as much of a network as can be compiled.

Compiled code has no second derivative. Where the closed form applies none is needed, and the whole network is compiled;
elsewhere the trunk below the target layer is, and the head above it, through which the map's gradient is
differentiated once more, stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import fx
from torch.fx.passes.split_module import split_module

from camtrain.head import Path, Paths
from camtrain.model import Classifier

TRUNK, HEAD = 0, 1


def compile_network(model: Classifier, paths: Paths) -> None:
    """Let the model run compiled code from now on; its weights stay where they are.

    The code is generated at the first batch of each kind. A copy of the model made afterwards would share it, so arms
    are copied first.
    """
    for mode, path in ((True, paths.training), (False, paths.evaluation)):
        model.train(mode)
        graph = cast(fx.Graph, model.backbone.graph)
        whole = fx.GraphModule(model.backbone, graph)
        run = torch.compile(whole) if path is Path.closed else _compiled_trunk(model, whole)
        model.runs[mode] = cast("Callable[[torch.Tensor], dict[str, torch.Tensor]]", run)
    model.train()


def _compiled_trunk(model: Classifier, whole: fx.GraphModule) -> fx.GraphModule:
    """The network in two parts, of which the first, all that does not depend on the target layer, is compiled."""
    results: Any = whole.graph.output_node().args[0]
    above = {results[model.layer]}
    for node in whole.graph.nodes:  # in the order of computation
        if any(argument in above for argument in node.all_input_nodes):
            above.add(node)
    above.discard(results[model.layer])
    parts = split_module(whole, model.backbone, lambda node: HEAD if node in above else TRUNK)
    trunk = parts.get_submodule(f"submod_{TRUNK}")
    setattr(parts, f"submod_{TRUNK}", torch.compile(trunk))
    return parts
