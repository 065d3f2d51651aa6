"""Run a network that task=export wrote over images: NumPy, Pillow and ONNX Runtime are all it takes.

python run_onnx.py regularised.onnx cat.jpg dog.jpg    # prints classes, and draws cat.map.png and dog.map.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps


def seen(path: str, wanted: dict[str, Any]) -> tuple[Image.Image, np.ndarray]:
    """What the network sees of an image file, and the same as it takes it: (1, channels, height, width)."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB" if wanted["channels"] == 3 else "L")
    size = wide, high = wanted["width"], wanted["height"]
    if wanted["fit"] == "crop":  # the largest central part of this aspect
        width, height = image.size
        across = min(width, max(1, round(height * wide / high))), min(height, max(1, round(width * high / wide)))
        left, top = (width - across[0]) // 2, (height - across[1]) // 2
        image = image.resize(size, Image.Resampling.BILINEAR, (left, top, left + across[0], top + across[1]))
    elif wanted["fit"] == "stretch":
        image = image.resize(size, Image.Resampling.BILINEAR)
    else:
        grey = (124, 116, 104) if wanted["channels"] == 3 else 128
        image = ImageOps.pad(image, size, Image.Resampling.BILINEAR, color=grey)
    pixels = np.asarray(image).reshape(high, wide, -1).transpose(2, 0, 1)[None]
    return image, pixels if wanted["range"] == [0, 255] else (pixels / 255).astype(np.float32)


def hats(axis: dict[str, float], pixels: int) -> np.ndarray:
    """Linear interpolation between the cells where they lie, (pixels, cells): cell o is at `first + step * o`."""
    at = ((np.arange(pixels) - axis["first"]) / axis["step"]).clip(0, axis["cells"] - 1)
    found: np.ndarray = (1 - np.abs(at[:, None] - np.arange(axis["cells"]))).clip(0)
    return found


def drawn(image: Image.Image, cells: np.ndarray, axes: dict[str, Any]) -> Image.Image:
    """An image, red where its map (rows, columns) is high."""
    whole = hats(axes["rows"], image.height) @ cells @ hats(axes["columns"], image.width).T
    share = (0.7 * whole / max(whole.max(), 1e-30))[:, :, None]
    return Image.fromarray(((1 - share) * np.asarray(image.convert("RGB")) + share * [255, 0, 0]).astype(np.uint8))


def say(path: str, image: Image.Image, outputs: list[np.ndarray], facts: dict[str, Any]) -> None:
    """Print the class of an image, and draw its map."""
    _, probabilities, maps = (part[0] for part in outputs)
    best = int(probabilities.argmax())
    print(f"{path}: {facts['classes'][best]} {probabilities[best]:.3f}")
    for number, cells in enumerate(maps.reshape(-1, *maps.shape[-2:])):  # one, or one for each class
        name = f".{facts['classes'][number]}" if maps.ndim == 3 else ""
        drawn(image, cells, facts["map"]).save(Path(path).with_suffix(f"{name}.map.png").name)


if __name__ == "__main__":
    import onnxruntime

    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["camtrain"])
    for path in sys.argv[2:]:
        image, pixels = seen(path, facts["input"])
        say(path, image, session.run(["logits", "probabilities", "map"], {"images": pixels}), facts)
