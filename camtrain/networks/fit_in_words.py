"""How a file of weights fits a network, as lines for the log and for errors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from torch import Tensor
from torchvision import models

from camtrain.networks.fit_weights import COUNTER, Fit

SHOWN = 3
"""Tensors that a message names."""

STATISTICS = ("running_mean", "running_var")


def summary(found: Fit, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """How many tensors match, which part is fresh, and what of the file is not used."""
    counted = [name for name in own if name in found.matched or not name.endswith(COUNTER)]
    matched, total = len(found.matched), len(counted)
    text = f"all {total} tensors match" if matched == total else f"{matched} of {total} tensors match"
    if found.prefix:
        text += f", in the file under {found.prefix}"
    if found.fresh is not None:
        former = found.reshaped.get(f"{found.fresh}.weight")
        reason = "the file has none" if former is None else f"the file's has {len(state[former])} outputs"
        text += f"; {found.fresh}, the last layer, starts fresh ({reason})"
    groups = Counter(_group(key, found.prefix) for key in found.unused)
    if groups:
        text += f"; not used: {_few([f'{name} ({count})' for name, count in groups.items()])}"
    return text


def _group(key: str, prefix: str) -> str:
    """The outermost part of a file that a tensor belongs to and those that are used do not."""
    parts, used = key.split("."), prefix.split(".")[:-1]
    common = takewhile(lambda pair: pair[0] == pair[1], zip(parts, used, strict=False))
    return ".".join(parts[: len(list(common)) + 1])


def misfit(found: Fit, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Why a file is none of a network's."""
    parts = [f"{len(found.matched) or 'none'} of its {len(own)} tensors match"]
    if found.missing:
        parts.append(f"the file lacks {_few(found.missing)}")
    if found.misshapen:
        shapes = [
            f"{name} as {_shape(state[found.reshaped[name]])} instead of {_shape(own[name])}"
            for name in found.misshapen
        ]
        size = any(re.search("pos_?emb|relative_position", name) for name in found.misshapen)
        parts.append(f"the file has {_few(shapes)}" + size * " (made for another dataset.image_size)")
    if other := found.unknown or ([] if found.matched else found.unused):
        parts.append(f"the file has the unknown {_few(other)}")
    columns = zip(*(key.split(".")[:-1] for key in state), strict=False)
    common = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
    if common and not found.matched:
        parts.append(f"all its names begin with {'.'.join(common)}.")
    return ", ".join(parts)


def guess(state: Mapping[str, Tensor], name: str) -> str:
    """Torchvision's network with as many parameters as the file, which is known for 1000 classes."""
    parameters = {
        key: value for key, value in state.items() if value.is_floating_point() and not key.endswith(STATISTICS)
    }
    final = next((value for key, value in reversed(parameters.items()) if value.ndim > 1), None)
    if final is None:
        return ""
    count = sum(value.numel() for value in parameters.values())
    count += (1000 - len(final)) * (final[0].numel() + 1)
    for other in models.list_models(module=models):
        weights: Any = models.get_model_weights(other)
        if weights["DEFAULT"].meta["num_params"] == count:
            library = "; they have the size of it, but another library's names"
            return library if other == name else f"; they may be {other}'s"
    return ""


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def _shape(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" of {str(tensor.dtype).removeprefix('torch.')}"
    return (" x ".join(map(str, tensor.shape)) or "a number") + kind
