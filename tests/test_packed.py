"""Trees of tensors in a file whose every byte is accounted for."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from camtrain.packed import KINDS, Damaged, read_packed, unpack, write, write_packed

SHARED = torch.arange(6.0).reshape(2, 3)

TREE = {
    "network": {"weight": torch.randn(3, 4), "half": torch.ones(2).bfloat16(), "count": torch.tensor(7)},
    "tied": [SHARED, SHARED, SHARED[0]],
    "laid out": torch.randn(1, 2, 3, 4).to(memory_format=torch.channels_last),
    "numbers": {0: 0.1 + 0.2, 1: math.nan, 2: math.inf, 3: None, 4: True, 5: -(2**70)},
    'a name with "sha256":"' + "0" * 64 + '"': "and \u00fc\udce9",
    "nothing": {},
}


def pack(tree: Any) -> bytes:
    opened = io.BytesIO()
    write(tree, opened)
    return opened.getvalue()


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    write_packed(tmp_path / "tree", TREE)
    found = read_packed(tmp_path / "tree")
    assert list(found) == list(TREE)
    for name, value in TREE["network"].items():
        assert torch.equal(found["network"][name], value)
        assert found["network"][name].dtype == value.dtype
    assert torch.equal(found["laid out"], TREE["laid out"])
    assert all(torch.equal(*pair) for pair in zip(found["tied"], TREE["tied"], strict=True))
    assert found["numbers"][0] == 0.1 + 0.2
    assert math.isnan(found["numbers"].pop(1))
    assert found["numbers"] == {key: value for key, value in TREE["numbers"].items() if key != 1}
    assert found["nothing"] == {}


def test_a_changed_byte_is_found_wherever_it_is() -> None:
    whole = pack({"weight": torch.arange(5.0), "epoch": 3})
    for place in range(len(whole)):
        for change in (1, 0x20, 0x80):
            damaged = bytearray(whole)
            damaged[place] ^= change
            with pytest.raises(Damaged):
                unpack(bytes(damaged))


def test_a_file_that_breaks_off_is_found() -> None:
    whole = pack({"weight": torch.arange(5.0), "epoch": 3})
    for length in range(len(whole)):
        with pytest.raises(Damaged):
            unpack(whole[:length])
    with pytest.raises(Damaged):
        unpack(whole + b"\0")


@pytest.mark.parametrize("other", [b"", b"\x80\x04.", b"PK\x03\x04", b"{}", b"\xff" * 100])
def test_other_files_are_none_of_these(other: bytes) -> None:
    with pytest.raises(Damaged):
        unpack(other)


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_lie_as_the_library_writes_them(kind: torch.dtype) -> None:
    tensors = {"b ä": torch.arange(3).to(kind), "a": torch.ones(2, 3).to(kind), "none": torch.zeros(2, 0, dtype=kind)}
    tensors["one"] = torch.tensor(3.0, dtype=torch.complex64)
    ours, theirs = pack(tensors), save({f"/{name}": tensor for name, tensor in tensors.items()})
    found = load(ours)
    assert found.keys() == {f"/{name}" for name in tensors}
    assert all(torch.equal(tensor, found[f"/{name}"]) for name, tensor in tensors.items())
    data = theirs[8 + int.from_bytes(theirs[:8], "little") :]
    assert ours.endswith(data)
    assert (len(ours) - len(data)) % 8 == 0
