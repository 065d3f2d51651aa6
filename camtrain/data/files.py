"""Which files of a folder are images, which are left alone, and why the others are left out.

What is an image goes by the suffix, because a folder may hold a million files; what an image is, by its content.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image, ImageFile

PLUGINS = ("pillow_heif", "pillow_avif", "pillow_jxl")
"""Packages that teach Pillow a format; the last two by being imported."""

SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
SYSTEM_FOLDERS = {"@eadir", "@recycle", "#recycle", "__macosx", "$recycle.bin", "lost+found", "__pycache__"}
"""What file systems and tools leave behind, in lower case; so do names that begin with a dot."""

NO_PIXELS = {"EPS", "MPEG"}
"""Formats that Pillow knows, but cannot decode by itself."""

REASONS = {
    "needs pillow-heif: pip install pillow-heif": ".heic .heif .hif",
    "needs Pillow 11.3 or later: pip install -U pillow": ".avif .avifs",
    "needs pillow-jxl-plugin: pip install pillow-jxl-plugin": ".jxl",
    "a raw photograph: convert it to TIFF or JPEG": ".3fr .arw .cr2 .cr3 .dng .nef .nrw .orf .pef .raf .raw .rw2 .srw",
    "a drawing: export it as PNG": ".ai .emf .eps .pdf .ps .svg .wmf",
    "a video: extract its frames": ".avi .m4v .mkv .mov .mp4 .mpeg .mpg .webm .wmv",
    "an archive: unpack it": ".7z .bz2 .gz .rar .tar .tgz .xz .zip",
    "an array: convert it to TIFF": ".bufr .dcm .grib .h5 .hdf .hdf5 .mat .mha .mhd .nii .npy .npz .nrrd .pt .zarr",
    "no suffix": "",
}
"""Why a file is left out, and the suffixes that it holds for."""

SIGNATURES = {
    "HEIF": (4, (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1")),
    "AVIF": (4, (b"ftypavif", b"ftypavis")),
    "JPEG XL": (0, (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    "PDF": (0, (b"%PDF",)),
    "a Git LFS pointer: run git lfs pull": (0, (b"version https://git-lfs",)),
    "text, such as SVG or a web page": (0, (b"<",)),
}
"""What files without pixels that are called like images begin with, and at which byte."""

_REASON = {suffix: reason for reason, suffixes in REASONS.items() for suffix in suffixes.split() or [""]}
_PACKAGES = {"HEIF": ".heic", "AVIF": ".avif", "JPEG XL": ".jxl"}


def load_plugins() -> None:
    """Let Pillow open what the installed :data:`PLUGINS` can decode."""
    for name in PLUGINS:
        with suppress(ImportError):
            plugin = importlib.import_module(name)
            getattr(plugin, "register_heif_opener", lambda: None)()


load_plugins()  # once, because threads decode


@functools.cache
def suffixes() -> frozenset[str]:
    """Suffixes, in lower case, of the formats that Pillow decodes here."""
    registered = Image.registered_extensions()

    def has_pixels(kind: str) -> bool:
        if kind == "MPO":  # opened as JPEG
            return True
        factory = Image.OPEN.get(kind, (None,))[0]
        stub = isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
        return factory is not None and not stub and kind not in NO_PIXELS

    return frozenset(suffix for suffix, kind in registered.items() if has_pixels(kind))


def is_image(path: Path) -> bool:
    """Whether a file is called like an image."""
    return path.suffix.lower() in suffixes()


def is_system(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or left behind by a file system or a tool."""
    return name.startswith(".") or name.casefold() in SYSTEM_FILES | SYSTEM_FOLDERS


def below(folder: Path) -> list[Path]:
    """Every file in a folder and the folders below it, in order, but for system files; links are followed, once."""
    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else [name for name in folders if not is_system(name)]
        if real not in seen:
            found += [Path(place, name) for name in files if not is_system(name)]
        seen.add(real)
    return sorted(found, key=lambda path: path.parts)


def why_left_out(path: Path) -> str:
    """Why a file that is not called like an image is no image."""
    return _REASON.get(path.suffix.lower(), "no image")


@contextmanager
def open_image(path: Path) -> Iterator[ImageFile.ImageFile]:
    """An image as Pillow opens it, not decoded yet; by way of a file object, since what Pillow maps into memory by the
    file's name it scrambles, where a TIFF lies on its side."""
    with path.open("rb") as file, Image.open(file) as opened:
        yield opened


def content(path: Path) -> str | None:
    """What a file holds that Pillow cannot identify, with the remedy if there is one; None if that is not known."""
    with path.open("rb") as opened:
        start = opened.read(32)
    if not start:
        return "the file is empty"
    for name, (at, beginnings) in SIGNATURES.items():
        if start[at:].startswith(beginnings):
            suffix = _PACKAGES.get(name)
            if suffix in suffixes():
                return f"a damaged {name} file"
            return f"it is {name}, which {_REASON[suffix]}" if suffix else f"it is {name}"
    return None


def counted(what: str, left_out: Iterable[tuple[Path, str]]) -> Iterator[str]:
    """A line that counts files by suffix and reason, if there are any: `6 files left out: 6 x .heic (needs ...)`.

    Args:
        what: is counted, such as `file`, and what became of it: `file% left out`, with % where the plural's s goes.
        left_out: the files, each with its reason.
    """
    files = list(left_out)
    kinds = Counter((path.suffix.lower() or path.name, reason) for path, reason in files)
    if files:
        parts = [f"{count} x {suffix} ({reason})" for (suffix, reason), count in kinds.most_common(SHOWN_KINDS)]
        more = sum(kinds.values()) - sum(count for _, count in kinds.most_common(SHOWN_KINDS))
        yield (
            f"{len(files)} {what.replace('%', 's' * (len(files) > 1))}: {', '.join(parts)}"
            f"{f' and {more} more' if more else ''}; the first: {files[0][0]}"
        )


SHOWN_KINDS = 6
"""Kinds of files that a line counts one by one."""
