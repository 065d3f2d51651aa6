"""Files that are either whole or not there, and paths as users give them.

Writing is ours because it is a few lines: the packages that did the same are no longer maintained.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import glob
import io
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from camtrain.interrupts import deferred

FULL = 2**16
"""Bytes that are free on a disk that counts as full."""

UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line breaks, marks that turn the direction of text, and bytes that are no UTF-8."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object], keep: Path | None = None) -> None:
    """Write beside `path`, flush to disk, then rename: a reader or a crash sees the old file or the new one.

    Signals that would stop the program wait until the file is whole.

    Args:
        path: of the file; its folder is made.
        write: is called with the opened file.
        keep: in the same folder, what the old file is called from then on; None: it is gone.

    Raises:
        OSError: the disk is full, or the like; with its number and the path, whatever `write` made of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with deferred():
        try:
            with partial.open("wb") as opened:
                write(opened)
                opened.flush()
                os.fsync(opened.fileno())
            if keep is not None and path.exists():
                path.replace(keep)
            partial.replace(path)
            _sync_folder(path.parent)
        except Exception as error:
            number = _errno(error, path.parent)
            if number is None:
                raise
            raise OSError(number, os.strerror(number), str(path)) from error
        finally:
            partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, where the system can do that."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _errno(error: BaseException | None, folder: Path) -> int | None:
    """The system's number for what lies behind an error while a file was written; None if it was something else."""
    seen = error
    while seen is not None:  # torch turns the error of a full disk into one of its own
        if isinstance(seen, OSError) and seen.errno:
            return seen.errno
        seen = seen.__cause__ or seen.__context__
    # NumPy does not hand on the number.
    return errno.ENOSPC if shutil.disk_usage(folder).free < FULL else None


def write_text(path: Path, text: str) -> None:
    r"""Write a text file atomically, in UTF-8; a byte of a file's name that is no UTF-8 becomes an escape, `\udce9`.

    JSON has the same escape, so that such names can be read again from there.
    """
    write_atomically(path, lambda opened: opened.write(text.encode(errors="backslashreplace")))


def write_csv(path: Path, heading: Iterable[object], rows: Iterable[Iterable[object]]) -> None:
    """Write a table atomically, as CSV in UTF-8 with one line per row."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(heading)
    lines.writerows(rows)
    write_text(path, text.getvalue())


def printable(text: str) -> str:
    r"""A text as one line that can be shown and written anywhere: other signs become escapes, as `\n` or `\udce9`."""
    return UNPRINTABLE.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)


def expanded(path: str) -> Path:
    """A path in which `~` stands for a home folder; unchanged where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def absolute(path: str) -> str:
    """A path, or a pattern of paths, that means the same from any folder; its own characters stay as they are."""
    place = expanded(path)
    base = os.getcwd()  # noqa: PTH109
    if glob.has_magic(path) and not place.exists():
        base = glob.escape(base)
    return os.path.join(base, place)  # noqa: PTH118
