"""Files of weights as people have them: from any layout of PyTorch's or safetensors to tensors by name.

No code of a file is ever run: torch reads with `weights_only=True`, and objects of classes that it does not know, which
checkpoints hold beside their weights (options, paths, NumPy numbers), are replaced by empty stand-ins.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from camtrain.errors import UserError, first_line, out_of_memory
from camtrain.packed import TREE

PYTORCH = "only PyTorch's own files (.pt, .pth) and safetensors can be loaded"
AGAIN = "download or copy it again"
STATE = "the state_dict of its network"

STARTS = {
    b"version https://git-lfs": ("a Git LFS pointer to one", "fetch the file with git lfs pull"),
    b"\x89HDF\r\n": ("an HDF5 file, as Keras writes", PYTORCH),
    b"\x93NUMPY": ("a NumPy array", PYTORCH),
    b"GGUF": ("a GGUF file", PYTORCH),
    b"\x1f\x8b": ("a file packed by gzip", "unpack it first"),
    b"BZh": ("a file packed by bzip2", "unpack it first"),
    b"\xfd7zXZ": ("a file packed by xz", "unpack it first"),
    b"7z\xbc\xaf": ("a 7-Zip archive", "unpack it first"),
    b"Rar!": ("a RAR archive", "unpack it first"),
}
"""How files of other kinds begin, what they are, and what to do."""

SUFFIXES = {
    ".onnx": "an ONNX model",
    ".h5": "a file of Keras",
    ".keras": "a file of Keras",
    ".tflite": "a TensorFlow Lite model",
    ".pb": "a TensorFlow model",
    ".index": "a part of a TensorFlow checkpoint",
    ".meta": "a part of a TensorFlow checkpoint",
    ".msgpack": "a file of Flax",
    ".pdparams": "a file of PaddlePaddle",
    ".caffemodel": "a Caffe model",
    ".mlmodel": "a Core ML model",
}
"""Files that do not say what they are."""

ZIPPED = {
    "constants.pkl": (
        "a TorchScript archive, a whole network with its code",
        'write its weights into a file: torch.save(torch.jit.load({}).state_dict(), "weights.pth")',
    ),
    "model.weights.h5": ("a file of Keras", PYTORCH),
    "saved_model.pb": ("a TensorFlow model", PYTORCH),
    "archive_format": ("a program of torch.export", f"save {STATE} instead"),
    ".npy": ("an archive of NumPy arrays", PYTORCH),
    "": ("a ZIP archive", "unpack it first"),
}
"""ZIP archives that are no state dict: how the name of a member ends, what the archive is, and what to do."""

RUNS_CODE = re.compile(
    r"(os|posix|nt|sys|subprocess|runpy|importlib|shutil|socket)\b|builtins\.(eval|exec|compile|open|__import__)$"
)
"""What only a file that was made to do harm names."""


class Unread:
    """Stands for an object of a class that torch does not load safely; takes whatever it is made of, and drops it."""

    network = False  # whether it is a module

    def __new__(cls, *_: object, **__: object) -> Unread:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.network = isinstance(state, dict) and "_modules" in state


def read_state(path: Path, name: str, remedy: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file of weights.

    Args:
        path: a state dict, or a checkpoint that holds one at any depth, as `torch.save` or safetensors write it.
        name: says in errors which file it is.
        remedy: says what to do about any of them, where that is known.

    Returns:
        In the order of the file, each by the keys that lead to it, joined by dots: `model.module.conv1.weight`. Of a
        checkpoint that is everything, an optimiser's state included.

    Raises:
        UserError: it holds no tensors by name, cannot be read, or is a file of another kind, which is named.
    """
    try:
        return _read(path)
    except _Refused as refused:
        problem, usual = f"not a file of weights but {refused.what}", refused.remedy
        raise UserError(f"{name}: {problem}; {remedy or usual}") from refused
    except OSError as error:
        problem = f"cannot be read ({error.strerror or first_line(error)})"
        raise UserError(f"{name}: {problem}; {remedy or 'give a file that can'}") from error
    except (SafetensorError, EOFError, zipfile.BadZipFile, RuntimeError, LookupError, ValueError, TypeError) as error:
        if out_of_memory(error):
            raise
        size = path.stat().st_size
        problem = f"not a file of weights, or damaged or cut off after {size} bytes ({first_line(error)[:200]})"
        raise UserError(f"{name}: {problem}; {remedy or AGAIN}") from error


class _Refused(Exception):
    """A file of another kind."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


def _read(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as opened:
        start = opened.read(512)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return _from_safetensors(path)
    _refuse_other_kinds(path, start)
    if start[:2] == b"PK":
        _refuse_other_archives(path)
    elif start[:1] != b"\x80":  # a pickle
        raise _Refused("data of an unknown kind", f"{AGAIN}, {PYTORCH}")
    return _tensors(_from_torch(path), str(path))


def _refuse_other_kinds(path: Path, start: bytes) -> None:
    """Raise :class:`_Refused` for what its first bytes or its suffix tell."""
    if not start:
        raise _Refused("an empty file", AGAIN)
    for magic, (what, remedy) in STARTS.items():
        if start.startswith(magic):
            raise _Refused(what, remedy)
    if start[257:262] == b"ustar":
        raise _Refused("a tar archive", "unpack it first")
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        raise _Refused("a web page", "download the file itself, not the page that shows it")
    if path.suffix.lower() in SUFFIXES and start[:1] != b"\x80":
        raise _Refused(SUFFIXES[path.suffix.lower()], PYTORCH)
    if start[:1] == b"\x08" and (b"pytorch" in start or b"onnx" in start):
        raise _Refused("an ONNX model", PYTORCH)
    if start[4:8] == b"TFL3":
        raise _Refused("a TensorFlow Lite model", PYTORCH)
    if path.name.endswith(".index.json"):
        raise _Refused("a table of several files of weights", "join those files into one")
    if all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in start):
        raise _Refused("text", f"{AGAIN}, {PYTORCH}")


def _refuse_other_archives(path: Path) -> None:
    """Raise :class:`_Refused` for a ZIP archive that `torch.save` did not write."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    kinds = [end for end in ZIPPED if end and any(name.endswith(end) for name in names)]
    if kinds or not any(name.endswith("data.pkl") for name in names):
        what, remedy = ZIPPED[kinds[0] if kinds else ""]
        raise _Refused(what, remedy.format(json.dumps(str(path))))


def _from_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, it is no mapping
        own = (opened.metadata() or {}).get(TREE)
    if own is None:
        return tensors
    # A checkpoint of a run of ours: its names are paths, and its arms stand in their order, the reference first.
    names = [name for name in _texts(json.loads(own)) if name in tensors]
    return {name.strip("/").replace("/", "."): tensors[name] for name in names}


def _texts(tree: Any) -> Iterator[str]:
    """Every text in nested lists and dictionaries, in order."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _texts(part)


def _from_torch(path: Path) -> Any:
    """What `torch.save` wrote, with stand-ins for objects of classes that torch does not load safely."""
    stand_ins: dict[str, type] = {}
    problems: set[str] = set()
    zipped = zipfile.is_zipfile(path)
    misnamed = path.suffix == ".safetensors"  # torch would go by it
    while True:
        try:
            with (
                warnings.catch_warnings(action="ignore"),
                torch.serialization.safe_globals([(kind, name) for name, kind in stand_ins.items()]),
            ):
                source = io.BytesIO(path.read_bytes()) if misnamed else path
                # Mapped, what is not used, such as an optimiser's state, is never read.
                return torch.load(source, "cpu", weights_only=True, mmap=zipped and not misnamed)
        except pickle.UnpicklingError as error:
            problem = str(error)
            name, kind = _stand_in(problem, path)
            if problem in problems:  # the stand-in did not help
                raise _Refused(f"one with objects that cannot be loaded safely ({name})", f"save {STATE}") from error
            problems.add(problem)
            stand_ins[name] = kind


def _stand_in(problem: str, path: Path) -> tuple[str, type]:
    """The class that torch stumbled over, by the text of its error, and what to put in its place."""
    if found := re.search(r"GLOBAL (\S+) (whose module|was not an allowed)", problem):
        name = found[1] if "." in found[1] else f"builtins.{found[1]}"
        if RUNS_CODE.match(name):
            raise _Refused(f"one that runs code when it is opened ({name})", "do not open it")
        return name, _class(name, Unread, None)
    if found := re.search(r"Can only (SETITEM|append).* got <class '(\S+)'>", problem):
        return found[2], _class(found[2], object, OrderedDict if found[1] == "SETITEM" else list)
    if "persistent_load of storage" in problem:  # how torch before 1.6 saved a network's code
        raise _Refused("a whole network with its code", _resave(str(path), ""))
    if "Unsupported operand" in problem or "magic number" in problem:
        raise _Refused("a pickle of another kind than torch's", "save it by torch.save, without pickle_protocol")
    reason = problem.partition("\n\nCheck the documentation")[0].splitlines()[-1]
    raise _Refused(f"a pickle that cannot be loaded safely ({reason[:200]})", f"save {STATE} by torch.save")


def _class(name: str, base: type, makes: type | None) -> type:
    module, _, short = name.rpartition(".")
    return type(short, (base,), {"__module__": module, **({"__new__": lambda *_: makes()} if makes else {})})


def _resave(path: str, entry: str) -> str:
    whole = f"torch.load({json.dumps(path)}, weights_only=False){entry}"
    return f'where its code is, write its weights into a file: torch.save({whole}.state_dict(), "weights.pth")'


def _tensors(tree: Any, path: str) -> dict[str, Tensor]:
    """The tensors in nested dictionaries.

    Raises:
        _Refused: there are none.
    """
    found = dict(_leaves(tree, ""))
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor) and not value.is_meta}
    if tensors and "" not in tensors:
        return tensors
    for name, value in found.items():
        if isinstance(value, Unread) and value.network:
            where, entry = (f" in its entry {name}", f'["{name}"]') if name else ("", "")
            raise _Refused(f"a whole network with its code ({_kind(value)}){where}", _resave(path, entry))
    if "" in found:
        holds = f"a single {_kind(tree)}"
    else:
        some = ", ".join(f"{name} ({_kind(value)})" for name, value in list(found.items())[:3])
        holds = f"a dict of {len(found)} other things, {some}" if found else "an empty dict"
    raise _Refused(f"{holds}, not a state dict (a dict of tensors)", f"save {STATE} by torch.save")


def _kind(value: object) -> str:
    """Name of a value's class; what NumPy makes an array by is no class."""
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return "numpy.ndarray" if name.startswith("numpy.") and name.endswith("_reconstruct") else name


def _leaves(tree: Any, name: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, Mapping):
        yield name, tree
        return
    for key, value in tree.items():
        yield from _leaves(value, f"{name}.{key}" if name else str(key))
