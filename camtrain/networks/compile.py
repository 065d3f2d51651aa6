"""torch.compile for as much of a network as can be compiled.

Compiled code has no second derivative, and a hook on one of its results does not see what flows back inside it. In
training the trunk below the target layer is therefore compiled, and the head above it, through which the gradients at
the layer are taken, stays as it is. In evaluation the whole network is compiled where the map has a closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import fx
from torch.fx.passes.split_module import split_module

from camtrain.cam.routes import GradientRoute
from camtrain.errors import UserError, first_line
from camtrain.networks.classifier import Classifier

TRUNK, HEAD = 0, 1


def compile_network(network: Classifier, backend: str = "inductor") -> None:
    """Let the network run compiled code from now on; its weights stay where they are.

    The code is generated at the first batch of each kind. A copy made afterwards would share it, so arms
    are copied first. Backends are those of torch.compile.
    """
    for mode in (True, False):
        network.train(mode)
        graph = cast(fx.Graph, network.backbone.graph)
        whole = fx.GraphModule(network.backbone, graph)
        all_of_it = not mode and network.routes.evaluation is GradientRoute.closed
        run = torch.compile(whole, backend=backend) if all_of_it else _compiled_trunk(network, whole, backend)
        network.runs[mode] = cast("Callable[[torch.Tensor], dict[str, torch.Tensor]]", run)
    network.train()


def check_compiler(device: torch.device) -> None:
    """Compile something tiny, so that it is known before a run begins whether this machine can.

    Raises:
        UserError: it cannot, such as for want of a C++ compiler.
    """
    try:
        torch.compile(lambda values: values.sin() + 1)(torch.zeros(8, device=device))
    except Exception as error:  # whatever the compiler and what it calls may raise
        raise UserError(
            f"trainer.compile=true: torch cannot compile here ({first_line(error)}); install a C++ compiler such as"
            " g++, or leave trainer.compile out"
        ) from error


def _compiled_trunk(network: Classifier, whole: fx.GraphModule, backend: str) -> fx.GraphModule:
    """The network in two parts, of which the first, all that does not depend on the target layer, is compiled."""
    results: Any = whole.graph.output_node().args[0]
    above = {results[network.layer]}
    for node in whole.graph.nodes:  # in the order of computation
        if any(argument in above for argument in node.all_input_nodes):
            above.add(node)
    above.discard(results[network.layer])
    parts = split_module(whole, network.backbone, lambda node: HEAD if node in above else TRUNK)
    trunk = parts.get_submodule(f"submod_{TRUNK}")
    setattr(parts, f"submod_{TRUNK}", torch.compile(trunk, backend=backend))
    return parts
