"""Runs of the command, each in a process of its own that ends by a fault at one of its moments.

A moment is a call that matters: a training step of an arm, a forward pass of a measurement, a write (of which half is
done), a flush, a rename. Each line of the input asks for a run, as JSON: `arguments` of the command, `cwd`, `out` for
what it prints, `limit` in seconds after which SIGALRM ends it, and `fault` at moment `number`: a signal's name, which
is sent then, or that of an error of the system, such as ENOSPC, which all writes from then on meet. For each the exit
status comes back, negative for a signal; the number of moments is the last thing printed.

The processes are forked from one that has imported everything, which saves most of the time of a short run.
"""

from __future__ import annotations

import errno
import functools
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from camtrain import cli, files


class Fault:
    """What happens, and when."""

    def __init__(self, name: str = "", number: int = 0) -> None:
        self.name, self.number, self.seen = name, number, 0

    def moment(self, writes: bool = False) -> None:
        """One more; at the wanted one, the fault."""
        self.seen += 1
        if hasattr(errno, self.name):
            if writes and self.seen >= self.number:
                raise OSError(getattr(errno, self.name), os.strerror(getattr(errno, self.name)))
        elif self.seen == self.number:
            os.kill(os.getpid(), getattr(signal, self.name))


fault = Fault()


def before(owner: Any, name: str, writes: bool = False) -> None:
    """Make each call of a function a moment, before and, where it is no write, behind it."""
    plain = getattr(owner, name)

    @functools.wraps(plain)
    def noted(*args: Any, **settings: Any) -> Any:
        fault.moment(writes)
        found = plain(*args, **settings)
        if not writes:
            fault.moment()
        return found

    setattr(owner, name, noted)


def halfway(write_atomically: Callable[..., None]) -> Callable[..., None]:
    """Between the halves of what is written to a file there is a moment."""

    def noted(path: Path, write: Callable[[Any], object], keep: Path | None = None) -> None:
        def both(opened: Any) -> None:
            whole = io.BytesIO()
            write(whole)
            data = whole.getvalue()
            opened.write(data[: len(data) // 2])
            opened.flush()
            fault.moment(writes=True)
            opened.write(data[len(data) // 2 :])

        write_atomically(path, both, keep)

    return noted


def watch() -> None:
    """Make moments of what matters."""
    files.write_atomically = halfway(files.write_atomically)  # before the others import it
    before(os, "fsync", writes=True)
    before(os, "replace", writes=True)
    from tensorboard.summary.writer.record_writer import RecordWriter

    from camtrain.evaluation import equivariance, every_epoch, faithfulness, localisation, other_maps, randomisation
    from camtrain.report import build
    from camtrain.tasks import resume  # noqa: F401 - with everything that a run needs
    from camtrain.training import loop

    before(RecordWriter, "write", writes=True)
    for place in (every_epoch, equivariance, randomisation, faithfulness):
        before(place, "forward_maps")
    before(other_maps, "forward_several")
    before(localisation, "energy_in_mask")
    before(loop, "train_step")
    before(build, "write")


def run(asked: dict[str, Any]) -> None:
    """In a process of its own: the command, to its end or to the fault."""
    os.dup2(os.open(asked["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    fault.__init__(asked.get("fault", ""), asked.get("number", 0))  # type: ignore[misc]
    os.chdir(asked["cwd"])
    signal.alarm(asked["limit"])
    sys.argv[:] = ["camtrain", *asked["arguments"]]
    code: object = 0
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    print(f"moments: {fault.seen}", flush=True)
    os._exit(code if isinstance(code, int) else 1)


def serve() -> None:
    """A run for each line of the input."""
    watch()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            run(json.loads(line))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status, flush=True)


if __name__ == "__main__":
    serve()
