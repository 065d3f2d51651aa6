"""What two runs of the same settings have to have in common, to the last bit: everything but times and places."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TIMES = ("time/", "timing", "seconds")

OF_TIMES = ("step time, ms", "<dt>step</dt>", "<dt>time</dt>")
"""In lines of the report."""


def content(run: Path) -> dict[str, Any]:
    """By what it is, of a completed run."""
    result = json.loads((run / "result.json").read_text())
    found: dict[str, Any] = dict(_leaves(_without_times(result)))
    found["pictures.csv"] = (run / "pictures.csv").read_text()
    for arm in result["arms"]:
        weights = torch.load(run / arm / "weights.pt", weights_only=True)
        found |= {f"{arm} {name}": _digest(value) for name, value in weights.items()}
        found |= {f"tb {arm} {name}": value for name, value in _events(run / "tb" / arm).items()}
    for image in sorted((run / "pictures").glob("*.png")):
        found[image.name] = hashlib.sha256(image.read_bytes()).hexdigest()
    lines = (run / "report.html").read_text().splitlines()
    found["report"] = [_digest_bytes(line.encode()) for line in lines if not any(word in line for word in OF_TIMES)]
    return found


def differences(run: Path, other: Path) -> list[str]:
    """What is not the same in both."""
    first, second = content(run), content(other)
    return [name for name in {**first, **second} if first.get(name) != second.get(name)]


def _without_times(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_times(part) for key, part in tree.items() if not key.startswith(TIMES)}
    return [_without_times(part) for part in tree] if isinstance(tree, list) else tree


def _leaves(tree: Any, name: str = "") -> Any:
    if isinstance(tree, dict | list):
        for key, part in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _leaves(part, f"{name}/{key}")
    else:
        yield name, tree


def _events(folder: Path) -> dict[str, Any]:
    """Of every tag the steps with their values; a step that is there twice would show."""
    events = EventAccumulator(
        str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0}, purge_orphaned_data=False
    )
    events.Reload()
    tags = events.Tags()
    scalars = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in tags["scalars"]
        if not tag.startswith(TIMES)
    }
    images = {
        tag: [(event.step, _digest_bytes(event.encoded_image_string)) for event in events.Images(tag)]
        for tag in tags["images"]
    }
    return {**scalars, **images}


def _digest(value: torch.Tensor) -> str:
    return _digest_bytes(value.flatten().numpy().tobytes())


def _digest_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
