"""The formats of exported networks: each as bytes of one file, and run from these by its own runtime."""

from __future__ import annotations

import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export import ExportedProgram

from camtrain.config.options import ExportFormat
from camtrain.errors import UserError

INPUT, OUTPUTS = "images", ("logits", "probabilities", "map")

METADATA = "camtrain"
"""Under which name a file holds what it says of itself, as JSON."""

Runner = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""From images to logits, probabilities and maps."""


class Format(NamedTuple):
    """How a program becomes a file, and runs."""

    suffix: str
    packages: tuple[str, ...]
    extra: str
    written: Callable[[ExportedProgram, str], bytes]  # of the program and its metadata
    opened: Callable[[bytes], tuple[Runner, Any]]  # and the metadata


def onnx_bytes(program: ExportedProgram, metadata: str) -> bytes:
    """An ONNX file. What the exporter notes about its source, paths of this machine included, is left out."""
    with quiet():
        made = torch.onnx.export(program, dynamo=True, input_names=[INPUT], output_names=OUTPUTS, verbose=False)
    assert made is not None
    proto = made.model_proto
    graph = proto.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        size = value.type.tensor_type.shape.dim[0]
        if size.dim_param:
            size.dim_param = "batch"
    proto.metadata_props.add(key=METADATA, value=metadata)
    content: bytes = proto.SerializeToString()
    return content


def onnx_runner(content: bytes) -> tuple[Runner, Any]:
    """By ONNX Runtime, at one thread."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, probabilities, maps = map(torch.from_numpy, session.run(OUTPUTS, {INPUT: images.numpy()}))
        return logits, probabilities, maps

    return run, json.loads(session.get_modelmeta().custom_metadata_map[METADATA])


def executorch_bytes(program: ExportedProgram, metadata: str) -> bytes:
    """An ExecuTorch file, whose convolutions and products XNNPACK computes."""
    with quiet():
        exir = importlib.import_module("executorch.exir")
        xnnpack = importlib.import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
        lowered = exir.to_edge_transform_and_lower(
            program, partitioner=[xnnpack.XnnpackPartitioner()], constant_methods={METADATA: metadata}
        )
        content: bytes = lowered.to_executorch().buffer
    return content


def executorch_runner(content: bytes) -> tuple[Runner, Any]:
    """By the Python bindings of ExecuTorch's runtime."""
    with quiet():
        runtime = importlib.import_module("executorch.runtime")
        program = runtime.Runtime.get().load_program(content)
        method = program.load_method("forward")
        (metadata,) = program.load_method(METADATA).execute([])

    def run(images: Tensor, _kept: object = program) -> tuple[Tensor, Tensor, Tensor]:  # the method reads its memory
        logits, probabilities, maps = (part.clone() for part in method.execute([images.contiguous()]))
        return logits, probabilities, maps

    return run, json.loads(metadata)


def torch_bytes(program: ExportedProgram, metadata: str) -> bytes:
    """A file of `torch.export`."""
    written = io.BytesIO()
    with quiet():
        torch.export.save(program, written, extra_files={METADATA: metadata})
    return written.getvalue()


def torch_runner(content: bytes) -> tuple[Runner, Any]:
    """By torch."""
    extra = {METADATA: ""}
    with quiet():
        module = torch.export.load(io.BytesIO(content), extra_files=extra).module()

    def run(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            logits, probabilities, maps = module(images)
        return logits, probabilities, maps

    return run, json.loads(extra[METADATA])


_ONNX = Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), "export", onnx_bytes, onnx_runner)

FORMATS: Mapping[ExportFormat, Format] = {
    ExportFormat.onnx: _ONNX,
    ExportFormat.executorch: Format(".pte", ("executorch",), "executorch", executorch_bytes, executorch_runner),
    ExportFormat.torch: Format(".pt2", (), "", torch_bytes, torch_runner),
    ExportFormat.web: _ONNX,
}


def check_installed(kind: ExportFormat) -> None:
    """Raise :class:`UserError` if a package is missing that writes or runs such files."""
    form = FORMATS[kind]
    for package in form.packages:
        try:
            importlib.import_module(package)
        except ImportError:
            raise UserError(
                f"export.format={kind.value}: {package} is not installed; pip install 'camtrain[{form.extra}]'"
            ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters warn of what their users cannot change, and log what they do."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
