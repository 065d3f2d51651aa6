"""What the configuration says about the machine, as torch wants it."""

from __future__ import annotations

import torch

from camtrain.config import Device, Precision, TrainerConfig
from camtrain.data.ahead import cpus
from camtrain.errors import UserError


def prepare(config: TrainerConfig) -> torch.device:
    """Set torch's threads, and choose the device; errors as for :func:`choose_device`."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return choose_device(config.device)


def choose_device(device: Device) -> torch.device:
    """The device to work on; `auto` takes a GPU where there is one.

    Raises:
        UserError: there is no GPU, and one was asked for.
    """
    if device is Device.cuda and not torch.cuda.is_available():
        raise UserError("trainer.device=cuda: torch finds no CUDA device here; use trainer.device=cpu")
    if device is Device.auto:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device.value)


def workers(config: TrainerConfig) -> int:
    """Threads that decode pictures and make batches."""
    return config.workers or config.threads or cpus()


def layout(config: TrainerConfig) -> torch.memory_format:
    """How networks and batches lie in memory."""
    return torch.channels_last if config.channels_last else torch.contiguous_format


def precision(config: TrainerConfig) -> torch.dtype:
    """What networks compute in."""
    return torch.bfloat16 if config.precision is Precision.bfloat16 else torch.float32


def emulates(config: TrainerConfig, device: torch.device) -> bool:
    """Whether the precision is one for which the CPU has no instructions: much slower than float32."""
    if precision(config) is torch.float32 or device.type != "cpu":
        return False
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return not (available and torch.ops.mkldnn._is_mkldnn_bf16_supported())
