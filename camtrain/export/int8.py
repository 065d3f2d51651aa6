"""Networks whose convolutions compute with whole numbers of 8 bits, scaled by what images of the training split gave.

Weights have a scale for each channel, activations one for each tensor. What follows
the logits stays in floats: the gradient and the map.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor
from torch.export import ExportedProgram

from camtrain.export.formats import INPUT, OUTPUTS, onnx_bytes, quiet

WHOLE = ("Conv", "Add", "Mul", "MaxPool", "AveragePool", "Concat")
"""Operations of ONNX that are computed so; a last linear layer stays as it is, because logits are compared."""


def onnx_int8(program: ExportedProgram, metadata: str, images: list[Tensor]) -> bytes:
    """An ONNX file in which whole numbers stand between QuantizeLinear and DequantizeLinear.

    Args:
        program: the float network.
        metadata: of the file.
        images: batches as the network takes them.
    """
    onnx, quantization = importlib.import_module("onnx"), importlib.import_module("onnxruntime.quantization")
    shape_inference = importlib.import_module("onnxruntime.quantization.shape_inference")
    network = onnx.load_from_string(onnx_bytes(program, metadata))
    with TemporaryDirectory() as name, quiet():
        given, ready, made = (Path(name) / f"{stage}.onnx" for stage in ("given", "ready", "made"))
        onnx.save(network, given)
        shape_inference.quant_pre_process(given, ready, skip_symbolic_shape=True)
        quantization.quantize_static(
            ready,
            made,
            _Reader(images),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(WHOLE),
            nodes_to_exclude=_behind_logits(onnx.load(ready).graph),
            per_channel=True,
            reduce_range=True,  # 7 bits of weights: processors without VNNI add products in 16 bits, which overflow
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        whole = onnx.load(made)
    del whole.metadata_props[:]
    whole.metadata_props.extend(network.metadata_props)
    content: bytes = whole.SerializeToString()
    return content


class _Reader:
    """Images as ONNX Runtime's calibration asks for them."""

    def __init__(self, images: list[Tensor]) -> None:
        self.images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        part = next(self.images, None)
        return None if part is None else {INPUT: part.numpy()}

    def __len__(self) -> int:
        raise TypeError("batches are not counted")


def _behind_logits(graph: Any) -> list[str]:
    """Names of the nodes that depend on the logits."""
    depend, found = {OUTPUTS[0]}, []
    for node in graph.node:  # in an order in which they can be computed
        if not depend.isdisjoint(node.input):
            depend.update(node.output)
            found.append(node.name)
    return found
