"""A network rewritten (torch.fx) so that one forward pass gives logits and the activations of chosen layers.

No hooks are needed, names of weights stay as they were, and the activations are grids (batch, channels, height, width)
through which the logits are computed, whatever the layer's own layout: their gradient is the one a map needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from camtrain.networks.layers import Layer, Layout

LOGITS = "logits"


def to_grid(output: Tensor, layout: str, side: int) -> Tensor:
    """A layer's output as (batch, channels, height, width); the class token is left out."""
    if layout == Layout.channels_last.name:
        return output.permute(0, 3, 1, 2)
    cells = output[:, 1:] if layout == Layout.class_token.name else output
    return cells.mT.reshape(len(cells), cells.shape[2], side, side)


def from_grid(grid: Tensor, output: Tensor, layout: str) -> Tensor:
    """The inverse of :func:`to_grid`; the class token is taken from `output`."""
    if layout == Layout.channels_last.name:
        return grid.permute(0, 2, 3, 1)
    cells = grid.flatten(2).mT
    return torch.cat([output[:, :1], cells], 1) if layout == Layout.class_token.name else cells


def trace(network: nn.Module, layers: Mapping[str, Layer]) -> nn.Module:
    """The network as a module that returns a dict: `logits`, and the grid of each layer by its name.

    Every layer's grid lies on the way to the logits, layers after one another included. In-place operations are made
    out of place, because one after a layer would overwrite its activations.
    """
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    # Names of operations, in training and in evaluation mode. A module that is one operation is found by its own name
    # instead: in these names a number at its end (ln_2) is taken for a repetition.
    names = get_graph_node_names(network)
    ends = [{layer: end for layer in layers if (end := _end(layer, of_mode))} for of_mode in names]
    nodes = [{end: end for end in (*of_mode.values(), all_[-1])} for of_mode, all_ in zip(ends, names, strict=True)]
    traced = create_feature_extractor(network, train_return_nodes=nodes[0], eval_return_nodes=nodes[1])
    for graph, of_mode, operations in zip((traced.train_graph, traced.eval_graph), ends, names, strict=True):
        assert isinstance(graph, fx.Graph)
        modules = {node.target: node for node in graph.nodes if node.op == "call_module"}
        results: Any = graph.output_node().args[0]
        grids = {layer: modules.get(layer) or results[of_mode[layer]] for layer in layers}
        graph.output_node().args = ({LOGITS: results[operations[-1]], **grids},)
        for node in graph.nodes:
            if node.kwargs.get("inplace"):  # functional in-place ReLU, as in DenseNet
                node.update_kwarg("inplace", False)
        for name, layer in layers.items():
            if layer.layout is not Layout.channels_first:
                _route_through_grid(graph, name, layer)
        graph.lint()
    traced.recompile()
    return traced


def _end(layer: str, operations: Sequence[str]) -> str | None:
    """The last operation inside a module; None for a module that is one operation."""
    return next((name for name in reversed(operations) if name.startswith(f"{layer}.")), None)


def _route_through_grid(graph: fx.Graph, name: str, layer: Layer) -> None:
    output = graph.output_node()
    results: Any = output.args[0]
    node = results[name]
    layout = layer.layout.name
    with graph.inserting_after(node):
        grid = graph.call_function(to_grid, (node, layout, layer.height))
    with graph.inserting_after(grid):
        back = graph.call_function(from_grid, (grid, node, layout))
    node.replace_all_uses_with(back, delete_user_cb=lambda user: user not in (grid, back))
    results = output.args[0]
    output.args = ({**results, name: grid},)
