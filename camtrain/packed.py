"""Trees of tensors and plain values as one file that is either whole or known to be damaged.

The bytes are in the safetensors format: tensors by name, everything else as JSON in its header, and there a SHA-256 of
all bytes, computed while its own place holds zeros. Nothing is ever executed by reading one.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from camtrain.errors import MALFORMED
from camtrain.files import write_atomically

TREE = "state"
"""Under which name the header holds everything but the tensors."""

_CHECKSUM, _TENSOR = "sha256", "tensor"

_UNKNOWN = "0" * 64

KINDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
"""Types of tensors, as the format calls them."""

_PLACE = re.compile(rb'"sha256":"([0-9a-f]{64})"')


class Damaged(Exception):
    """A file is not whole, not what was written, or not a file of this kind; the message says which."""


def write(tree: Any, opened: BinaryIO) -> None:
    """Write nested dictionaries, lists and tuples of tensors, numbers, texts and None; tuples become lists.

    Ours, since the library makes several copies of all tensors in memory, where this makes none, and ends the process
    where memory does not suffice. The library reads it, and so do the tests.

    Args:
        tree: what to write.
        opened: where, from its beginning on; it has to be able to seek.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_without_tensors(tree, "", tensors))
    header: dict[str, Any] = {"__metadata__": {_CHECKSUM: _UNKNOWN, TREE: text}}
    end, names = 0, sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": KINDS[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [begin, end]}
    coded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    coded += b" " * (-len(coded) % 8)
    head = len(coded).to_bytes(8, "little") + coded
    digest = hashlib.sha256(head)
    opened.write(head)
    for name in names:
        part = tensors.pop(name).flatten().view(torch.uint8).numpy().data
        digest.update(part)
        opened.write(part)
    opened.seek(head.index(_UNKNOWN.encode()))
    opened.write(digest.hexdigest().encode())
    opened.seek(0, io.SEEK_END)


def unpack(whole: bytes) -> Any:
    """The inverse of :func:`write`.

    Raises:
        Damaged: a byte is missing or another one than was written, or it is something else.
    """
    place = _PLACE.search(whole)
    if place is None:
        raise Damaged("it has no checksum")
    digest = hashlib.sha256(whole[: place.start(1)])
    digest.update(_UNKNOWN.encode())
    digest.update(memoryview(whole)[place.end(1) :])
    if digest.hexdigest().encode() != place[1]:
        raise Damaged("its checksum is another one than was written")
    try:
        # The header begins behind the 8 bytes of its length.
        header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
        return _with_tensors(json.loads(header["__metadata__"][TREE]), load(whole))
    except (SafetensorError, *MALFORMED) as error:
        raise Damaged(f"it is no file of this kind ({type(error).__name__})") from error


def write_packed(path: Path, tree: Any, keep: Path | None = None) -> None:
    """Write a tree whole or not at all; `keep` and errors as for :func:`camtrain.files.write_atomically`."""
    write_atomically(path, lambda opened: write(tree, opened), keep)


def read_packed(path: Path) -> Any:
    """Read a tree; errors as for :func:`unpack`, and OSError."""
    return unpack(path.read_bytes())


def _without_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The tree with a reference in place of each tensor, which goes to `tensors`.

    A dictionary becomes a list of its items: JSON has no keys but texts, and an optimiser's are numbers.
    """
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous()
        return {_TENSOR: name}
    if isinstance(value, dict):
        return {"items": [[key, _without_tensors(part, f"{name}/{key}", tensors)] for key, part in value.items()]}
    if isinstance(value, list | tuple):
        return [_without_tensors(part, f"{name}/{number}", tensors) for number, part in enumerate(value)]
    return value


def _with_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of :func:`_without_tensors`."""
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key: _with_tensors(part, tensors) for key, part in value["items"]}
    return [_with_tensors(part, tensors) for part in value] if isinstance(value, list) else value
