"""Errors that a user can cause and mend, what to say of others, and exit codes."""

import errno
import re

CRASHED, USAGE, DIVERGED, MACHINE, SIGNALLED, BROKEN_PIPE = 1, 2, 3, 4, 128, 141
"""Exit codes; a signal's number is added to that of signals."""

MALFORMED = (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
"""What comes of files that somebody else wrote."""

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.EFBIG}
"""Errors of a disk, none of the user."""

NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory")
"""How torch says that memory is exhausted, of a GPU or the CPU."""


class UserError(Exception):
    """One line: what is wrong, where, and what to do about it. Ends the program with exit code 2."""


class Diverged(UserError):
    """The same of a network whose numbers are not finite, nan or infinite. Ends the program with exit code 3."""


class MachineError(UserError):
    """The same where a disk is full, read-only or gone, or memory is exhausted. Ends the program with exit code 4."""


def of_system(error: OSError, message: str) -> UserError:
    """What to raise in place of an error of the system: one of the machine where the disk is at fault."""
    return (MachineError if error.errno in DISK else UserError)(message)


def first_line(error: BaseException) -> str:
    """What an exception says first, its type where it says nothing: for errors that are reported in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory is exhausted, as Python, the system or torch say it: the file that was read is not at fault."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and NO_MEMORY.search(str(error)) is not None)
    )
