"""Run a network that task=export wrote for ExecuTorch over images, by the Python bindings of its runtime.

python run_executorch.py regularised.pte cat.jpg dog.jpg    # with run_onnx.py beside it
"""

from __future__ import annotations

import json
import sys

import torch
from executorch.runtime import Runtime
from run_onnx import say, seen

if __name__ == "__main__":
    program = Runtime.get().load_program(sys.argv[1])
    (said,) = program.load_method("camtrain").execute([])
    facts, network = json.loads(said), program.load_method("forward")
    for path in sys.argv[2:]:
        image, pixels = seen(path, facts["input"])
        outputs = network.execute([torch.from_numpy(pixels.copy())])
        say(path, image, [part.numpy() for part in outputs], facts)
