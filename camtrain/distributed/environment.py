"""What torchrun tells a process about the training that it is a part of, in environment variables; without torch."""

from __future__ import annotations

import os


def world_size() -> int | None:
    """Processes that were started together with this one; None where nobody did that."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(os.environ) else None


def follows() -> bool:
    """Whether this process does what rank 0 tells it."""
    return world_size() is not None and int(os.environ["RANK"]) > 0


def restarts() -> int:
    """How often torchrun has started all processes again, after one of them had ended."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def local_size() -> int:
    """Processes of the training on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def local_rank() -> int:
    """Which of these this is."""
    return int(os.environ.get("LOCAL_RANK", 0))


def of(rank: int, size: int, port: int) -> dict[str, str]:
    """The same of a process on this machine that torchrun did not start."""
    sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(size))
    ranks = dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
    return {**sizes, **ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
