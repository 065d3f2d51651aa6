"""torch.compile for as much of a network as can be compiled.

Compiled code has no second derivative, and a hook on one of its results does not see what flows back inside it. In
training the trunk below the target layer is therefore compiled, and the head above it, through which the gradients at
the layer are taken, stays as it is. In evaluation the whole network is compiled where the map has a closed form.

The network is cut at the layer with the help of torch.fx, which has to be able to trace it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.split_module import split_module
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from camtrain.cam.routes import GradientRoute
from camtrain.errors import UserError, first_line
from camtrain.networks.classifier import Classifier
from camtrain.networks.layers import Layer, Layout, from_grid, to_grid

TRUNK, HEAD = 0, 1


def compile_network(network: Classifier, layer: Layer, backend: str = "inductor") -> None:
    """Let the network run compiled code from now on; its weights stay where they are.

    The code is generated at the first batch of each kind. A copy made afterwards would share it, so arms
    are copied first. Backends are those of torch.compile.

    Args:
        network: with its routes.
        layer: the target layer's output.
        backend: of torch.compile.

    Raises:
        UserError: the network cannot be traced.
    """
    try:
        traced = trace(network.backbone, network.layer, layer)
    except Exception as error:  # whatever a network's own code makes of values that are not there
        raise UserError(
            f"trainer.compile=true: this network cannot be traced ({first_line(error)}); use trainer.compile=false"
        ) from error
    for mode, graph in ((True, traced.train_graph), (False, traced.eval_graph)):
        whole = fx.GraphModule(traced, cast(fx.Graph, graph))
        all_of_it = not mode and network.routes.evaluation is GradientRoute.closed
        run = torch.compile(whole, backend=backend) if all_of_it else _compiled_trunk(whole, backend)
        network.runs[mode] = cast("Callable[[Tensor], tuple[Tensor, Tensor]]", run)


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


def trace(network: nn.Module, name: str, layer: Layer) -> nn.Module:
    """The network rewritten to return logits and the grid of a layer, through which the logits are computed.

    In-place operations are made out of place, because one after the layer would overwrite its activations.

    Args:
        network: whose modules the result shares.
        name: of the layer.
        layer: its output.

    Returns:
        A module with a graph for either mode, `train_graph` and `eval_graph`.
    """
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    # Names of operations, in training and in evaluation mode. A module that is one operation is found by its own name
    # instead: in these names a number at its end (ln_2) is taken for a repetition.
    names = get_graph_node_names(network)
    ends = [next((end for end in reversed(of_mode) if end.startswith(f"{name}.")), None) for of_mode in names]
    nodes = [{end: end for end in (own, of_mode[-1]) if end} for own, of_mode in zip(ends, names, strict=True)]
    traced = create_feature_extractor(network, train_return_nodes=nodes[0], eval_return_nodes=nodes[1])
    for graph, end, operations in zip((traced.train_graph, traced.eval_graph), ends, names, strict=True):
        assert isinstance(graph, fx.Graph)
        modules = {node.target: node for node in graph.nodes if node.op == "call_module"}
        results: Any = graph.output_node().args[0]
        output = modules.get(name) or results[end]
        graph.output_node().args = ((results[operations[-1]], output),)
        for node in graph.nodes:
            if node.kwargs.get("inplace"):  # functional in-place ReLU, as in DenseNet
                node.update_kwarg("inplace", False)
        if layer.layout is not Layout.channels_first:
            _route_through_grid(graph, output, layer)
        graph.lint()
    traced.recompile()
    return cast(nn.Module, traced)


def _route_through_grid(graph: fx.Graph, node: fx.Node, layer: Layer) -> None:
    logits = cast(Any, graph.output_node().args[0])[0]
    with graph.inserting_after(node):
        grid = graph.call_function(to_grid, (node, layer.layout.name, layer.height, layer.width))
    with graph.inserting_after(grid):
        back = graph.call_function(from_grid, (grid, node, layer.layout.name))
    node.replace_all_uses_with(back, delete_user_cb=lambda user: user not in (grid, back))
    graph.output_node().args = ((logits, grid),)


def _compiled_trunk(whole: fx.GraphModule, backend: str) -> fx.GraphModule:
    """The network in two parts, of which the first, all that does not depend on the target layer, is compiled."""
    grid = cast(Any, whole.graph.output_node().args[0])[1]
    above = {grid}
    for node in whole.graph.nodes:  # in the order of computation
        if any(argument in above for argument in node.all_input_nodes):
            above.add(node)
    above.discard(grid)
    parts = split_module(whole, whole, lambda node: HEAD if node in above else TRUNK)
    trunk = parts.get_submodule(f"submod_{TRUNK}")
    setattr(parts, f"submod_{TRUNK}", torch.compile(trunk, backend=backend))
    return parts
