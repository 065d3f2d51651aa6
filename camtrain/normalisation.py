"""Mean and deviation of red, green and blue over ImageNet's images, 0..1: what torchvision's weights expect."""

from __future__ import annotations

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


def mean_colour(channels: int) -> tuple[float, ...]:
    """What stands for no image in pixels that are padded or erased, 0..1: the mean above, else the middle grey."""
    return MEAN if channels == len(MEAN) else (0.5,) * channels
