"""What the configuration says about the machine, as torch wants it."""

from __future__ import annotations

import ctypes
import os
import sys
import time

import torch

from camtrain.config.options import Device, Precision
from camtrain.config.schema import TrainerConfig
from camtrain.distributed.environment import local_rank, local_size
from camtrain.errors import UserError

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Names of two settings in glibc's `malloc.h`."""


def prepare_device(config: TrainerConfig) -> torch.device:
    """Set torch's threads, choose the device, keep freed memory; errors as for :func:`choose_device`."""
    device = choose_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    elif local_size() > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cpus() // local_size()))
    if device.type == "cpu":
        keep_freed_memory()
    return device


def keep_freed_memory() -> None:
    """Let the C library keep what is freed until the process ends, where it is glibc; elsewhere nothing is done.

    By default glibc asks the system for each large block, as a batch's activations are, and gives it back afterwards.
    The system then has to clear every page anew, at each layer of each step: a quarter of the time of SqueezeNet's
    training steps and a third of its forward passes at 192 px, for an eighth more memory at the peak. Blocks above
    64 MiB that other threads than the main one ask for are still given back.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        set_option(_MMAP_MAX, 0)
        set_option(_TRIM_THRESHOLD, -1)  # never


def choose_device(device: Device) -> torch.device:
    """The device to work on; `auto` takes a GPU where there is one. Processes that train together take one each.

    Raises:
        UserError: there is no GPU, and one was asked for; there are fewer than processes.
    """
    if device is Device.cuda and not torch.cuda.is_available():
        raise UserError("trainer.device=cuda: torch finds no CUDA device here; use trainer.device=cpu")
    if device is Device.cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    if local_size() == 1:
        return torch.device("cuda")
    if local_size() > (count := torch.cuda.device_count()):
        raise UserError(
            f"{local_size()} processes on a machine with {count} CUDA devices: start fewer, or use trainer.device=cpu"
        )
    torch.cuda.set_device(local_rank())
    return torch.device("cuda", local_rank())


def worker_threads(config: TrainerConfig) -> int:
    """Threads that decode images and make batches."""
    return config.workers or config.threads or max(1, cpus() // local_size())


def memory_format(config: TrainerConfig) -> torch.memory_format:
    """How networks and batches lie in memory."""
    return torch.channels_last if config.channels_last else torch.contiguous_format


def compute_dtype(config: TrainerConfig) -> torch.dtype:
    """What networks compute in."""
    dtype = getattr(torch, config.precision.value)
    assert isinstance(dtype, torch.dtype)
    return dtype


def emulates_precision(config: TrainerConfig, device: torch.device) -> bool:
    """Whether the precision is one for which the CPU has no instructions: much slower than float32."""
    if config.precision is not Precision.bfloat16 or device.type != "cpu":
        return False
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return not (available and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Clock:
    """Seconds of the device's work between two moments, neither of which waits for it.

    Args:
        device: on which the clock starts.
    """

    def __init__(self, device: torch.device) -> None:
        both = range(2) if device.type == "cuda" else ()
        self.events = [torch.cuda.Event(enable_timing=True) for _ in both]  # type: ignore[no-untyped-call]
        self.stopped = 0.0
        if self.events:
            self.events[0].record(torch.cuda.current_stream(device))
        self.started = time.perf_counter()

    def stop(self) -> Clock:
        """The clock itself, stopped."""
        self.stopped = time.perf_counter()
        if self.events:
            self.events[1].record()
        return self

    def seconds(self) -> float:
        """Between start and stop; waits for the device."""
        if not self.events:
            return self.stopped - self.started
        start, stop = self.events
        stop.synchronize()
        return float(start.elapsed_time(stop)) / 1000
