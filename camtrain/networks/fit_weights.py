"""Which tensor of a file belongs where in a network: names with other prefixes, and what may be missing."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

FORMER = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\."), r"\1\2."),
    (re.compile(r"\bmlp\.linear_1\."), "mlp.0."),
    (re.compile(r"\bmlp\.linear_2\."), "mlp.3."),
)
"""Names in the files of torchvision's DenseNet and ViT, and what they are called in its networks today."""

COUNTER = "num_batches_tracked"
"""Batch norm's count of batches, which old files lack and no output depends on."""


@dataclass(frozen=True)
class Fit:
    """How a file's tensors fit a network."""

    prefix: str  # before the names in the file
    matched: dict[str, str]  # from the network's names to the file's, where both have the same shape
    reshaped: dict[str, str]  # the same where the shapes differ, in the fresh part too
    missing: list[str]  # the network's names that the file lacks
    unknown: list[str]  # the file's names that the network lacks, although it has the part that they belong to
    unused: list[str]  # all the file's names that the network has no place for
    fresh: str | None  # the part of the network that keeps its fresh weights

    @property
    def complete(self) -> bool:
        """Whether these are weights of this network, for whatever classes."""
        return bool(self.matched) and not (self.misshapen or self.missing or self.unknown)

    @property
    def misshapen(self) -> list[str]:
        """The network's names of tensors that the file has with another shape, but for the fresh part."""
        return [name for name in self.reshaped if not below(name, self.fresh)]


def fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], head: str | None) -> Fit:
    """Find the part of a file that fits a network best.

    Names may have any prefix in the file (`model.module.`), and the network's names another one, where the file is of a
    part of it. The pair of prefixes is taken under which most tensors have the same shape; of several, the one without
    a prefix in the network, then weights that are no moving average, then what stands first in the file.

    The last layer may be missing or have another shape, and so may all of the part that it belongs to be missing: a
    backbone of VGG has no `classifier`, which is three layers. Parts that the network does not have at all are left out
    (auxiliary classifiers, projection heads, losses); a tensor more in a part that it has makes it another network.

    Args:
        own: the network's state dict.
        state: the file's tensors.
        head: name of the network's last layer.
    """
    prefix, inner = _prefixes(own, state)
    names = {name: key for name in own if (key := _key(name, own, state, prefix, inner)) is not None}
    matched = {name: key for name, key in names.items() if alike(own[name], state[key])}
    absent = [name for name in own if name not in names and not name.endswith(COUNTER)]
    reshaped = {name: key for name, key in names.items() if name not in matched}
    fresh = None
    if head is not None and any(below(name, head) for name in (*absent, *reshaped)):
        wider = (head[: match.start()] for match in re.finditer(r"\.", head))
        fresh = next((part for part in wider if not any(below(name, part) for name in names)), head)
    missing = [name for name in absent if not below(name, fresh)]
    placed, parts = {*names.values()}, {_first(name.removeprefix(inner)) for name in own if name.startswith(inner)}
    unused = [key for key, value in state.items() if key not in placed and value.numel() > 1]
    inside = {key: key.removeprefix(prefix) for key in unused if key.startswith(prefix)}
    unknown = [
        key
        for key, rest in inside.items()
        if (_first(rest) in parts or _first(rest).isdigit()) and not below(inner + rest, fresh)
    ]
    matched = {name: key for name, key in matched.items() if not below(name, fresh)}  # no half of a fresh layer
    return Fit(prefix, matched, reshaped, missing, unknown, unused, fresh)


def below(name: str, part: str | None) -> bool:
    """Whether a tensor belongs to a part of the network."""
    return part is not None and name.startswith(f"{part}.")


def alike(own: Tensor, other: Tensor) -> bool:
    """Whether one can be copied to the other: the same shape, and no integers (quantised weights) for real numbers."""
    return own.shape == other.shape and (other.is_floating_point() or not own.is_floating_point())


def modern(state: Mapping[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """The tensors by today's names, where the network itself does not use the former ones."""
    rules = [(former, name) for former, name in FORMER if not any(former.search(key) for key in own)]
    found = {}
    for key, value in state.items():
        for former, name in rules:
            key = former.sub(name, key)
        found[key] = value
    return found


def _prefixes(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[str, str]:
    """Of the names in the file and in the network."""
    ends: dict[str, list[str]] = defaultdict(list)
    for name in own:
        for inner, rest in _splits(name):
            ends[rest].append(inner)
    votes: Counter[tuple[str, str]] = Counter()
    for key, value in state.items():
        for prefix, rest in _splits(key):
            for inner in ends.get(rest, ()):
                if value.numel() > 1 and alike(own[inner + rest], value):
                    votes[prefix, inner] += 1
    rank = {pair: (count, pair[1] == "", "ema" not in pair[0].lower()) for pair, count in votes.items()}
    return max(rank, key=lambda pair: rank[pair], default=("", ""))


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Every way to part a name at a dot, and the name whole; the last word alone would fit anything."""
    yield "", name
    for match in re.finditer(r"\.", name):
        if "." in name[match.end() :]:
            yield name[: match.end()], name[match.end() :]


def _key(name: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor], prefix: str, inner: str) -> str | None:
    """The file's name of a tensor; None if it lacks it.

    A last layer may stand outside of what holds the rest: `backbone.conv1.weight`, `fc.weight`.
    """
    if name.startswith(inner) and prefix + name.removeprefix(inner) in state:
        return prefix + name.removeprefix(inner)
    outer = ["", *(prefix[: match.end()] for match in re.finditer(r"\.", prefix))]
    found = (start + name for start in reversed(outer) if start + name in state)
    return next((key for key in found if alike(own[name], state[key])), None)


def _first(name: str) -> str:
    return name.partition(".")[0]
