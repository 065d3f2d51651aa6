"""A user's own Python code: found by `package.module:function`, with its errors as one line that says where."""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from camtrain.errors import UserError, first_line

OTHERS = ("<", *(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "purelib", "platlib")))
OTHERS += (f"{Path(__file__).parent}{os.sep}",)
"""Beginnings of the names of files that a user did not write."""

START = Path.cwd()
"""The folder that the program was started in, as long as this module is imported before it moves to another."""


def this_program(*arguments: str) -> list[str]:
    """The command that starts this program in another process, where modules are looked for as in this one: in the
    present folder only where that is so here."""
    isolated = [] if {"", str(Path.cwd())} & set(sys.path) else ["-P"]
    return [sys.executable, *isolated, "-m", "camtrain", *arguments]


def imported(path: str, key: str) -> Callable[..., Any]:
    """What `package.module:function` names; the present folder is searched first, as by `python -m`, then that of the
    start, which `hydra.job.chdir` leaves.

    Args:
        path: the module, a colon and the name in it.
        key: the setting that it comes from, for messages.

    Raises:
        UserError: there is no such module, it cannot be imported, or it has no such name or nothing that can be called.
    """
    module_name, _, name = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise UserError(f"{key}={path}: it must be package.module:function, such as mymodule:make")
    here = list(dict.fromkeys((str(Path.cwd()), str(START))))
    importlib.invalidate_caches()
    with own_code(f"{key}={path}"), _searched_first(here):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise  # something that it imports
            raise UserError(
                f"{key}={path}: there is no module {error.name}, neither in {' or '.join(here)} nor on the Python path"
                " (PYTHONPATH)"
            ) from error
    found = getattr(module, name, None)
    if not callable(found):
        what = f"has no {name}" if not hasattr(module, name) else f"has {name}, which cannot be called"
        raise UserError(f"{key}={path}: {module.__file__} {what}")
    called: Callable[..., Any] = found
    return called


def optional(name: str, what: str, extra: str) -> Any:
    """A package that not everybody has.

    Args:
        name: of the package.
        what: needs it, for the message.
        extra: of camtrain's, which installs it.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"{what}: {error.name} is not installed; pip install 'camtrain[{extra}]'") from None


@contextmanager
def _searched_first(folders: list[str]) -> Iterator[None]:
    """Within the block modules are looked for in these folders first; afterwards last, for what the user's code imports
    when it is called: a file there must not stand in for a module that a library needs."""
    added = [folder for folder in folders if folder not in sys.path]
    sys.path[:0] = added
    try:
        yield
    finally:
        for folder in added:
            sys.path.remove(folder)
        sys.path += added


@contextmanager
def own_code(what: str) -> Iterator[None]:
    """Turn whatever the user's code raises in this block into a :class:`UserError` that begins with `what`."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{what}: {blame(error)}") from error


def blame(error: BaseException) -> str:
    """`FILE line N: TYPE: MESSAGE`, with the innermost line that is the user's own, if there is one."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        frames.append((error.filename or "<unknown>", error.lineno))
    own = [f"{file} line {line}: " for file, line in frames if not file.startswith(OTHERS)]
    said = error.msg if isinstance(error, SyntaxError) else first_line(error)
    kind = type(error).__name__
    return f"{own[-1] if own else ''}{kind if said == kind else f'{kind}: {said}'}"
