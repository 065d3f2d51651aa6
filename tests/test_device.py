"""What is asked of the machine: freed memory is kept, and used again."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from camtrain import device
from camtrain.config.options import Device
from camtrain.config.schema import TrainerConfig

PAGES_TAKEN = """
import resource, statistics, torch
from camtrain.config.options import Device
from camtrain.config.schema import TrainerConfig
from camtrain.device import prepare_device

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(25_000_000).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages()
before = pages()
prepare_device(TrainerConfig(device=Device.cpu))
pages()
print(before, statistics.median(pages() for _ in range(7)))  # now and then a small block lies in the way
"""


def test_memory_is_kept_on_a_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    monkeypatch.setattr(device, "keep_freed_memory", lambda: kept.append(True))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert device.prepare_device(TrainerConfig(device=Device.cuda)).type == "cuda"
    assert not kept
    device.prepare_device(TrainerConfig(device=Device.cpu))
    assert kept


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc"
)
def test_freed_memory_is_used_again() -> None:
    done = subprocess.run([sys.executable, "-c", PAGES_TAKEN], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before > 40  # at least one for every 2 MiB, the largest page there is
    assert after < before / 10
