"""Networks as users write them: no tracer follows them, and they hold their grids in many ways."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Untraceable(nn.Module):
    """Control flow on values, and an in-place operation behind the last convolution."""

    def __init__(self, num_classes: int = 3, channels: int = 3, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, 2, 1)
        self.last = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(2 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if float(x.detach().sum()) > -1e9:
            x = x.relu_()
        x = self.act(self.last(x))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


class Tokens(nn.Module):
    """Patches as tokens behind a class token and registers, as transformers hold them; a mapping is returned."""

    def __init__(self, others: int = 1) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 8, 8)
        self.others = nn.Parameter(torch.randn(1, others, 12))
        self.block = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 12), nn.GELU())
        self.head = nn.Linear(12, 3)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        patches = self.patch(pixel_values).flatten(2).mT
        tokens = self.block(torch.cat([self.others.expand(len(patches), -1, -1), patches], 1))
        return {"logits": self.head(tokens.mean(1)), "tokens": tokens}


class ChannelsLast(nn.Module):
    """(batch, height, width, channels), and a block that returns a tuple."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(10, 10)

        def forward(self, x: Tensor) -> tuple[str, Tensor]:
            return "named", self.linear(x).relu()

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 10, 4, 4)
        self.pair = self.Pair()
        self.fc = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pair(self.patch(x).permute(0, 2, 3, 1))[1]
        out: Tensor = self.fc(x.relu_().mean((1, 2)))
        return out


class Wrapped(nn.Module):
    """A network inside another module, as training code keeps it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *given: Any, **named: Any) -> Any:
        return self.network(*given, **named)


def make(num_classes: int, width: int = 8, channels: int = 3) -> nn.Module:
    return Untraceable(num_classes, channels, width)


class Faulty(Untraceable):
    """As long as a file is there, something happens at this training step."""

    def __init__(self, num_classes: int, fault: str, marker: str, step: int = 6) -> None:
        super().__init__(num_classes)
        self.fault, self.marker, self.left = fault, Path(marker), step

    def forward(self, x: Tensor) -> Tensor:
        self.left -= self.training
        if self.left < 0 and self.marker.exists():
            match self.fault:
                case "raise":
                    raise RuntimeError("the fault")
                case "exit":
                    os._exit(1)
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "wait":  # a step is finished before a signal is heeded
                    self.marker.with_name("waits").touch()
                    time.sleep(2)
        return super().forward(x)


def faulty(num_classes: int, fault: str, marker: str) -> nn.Module:
    return Faulty(num_classes, fault, marker)
