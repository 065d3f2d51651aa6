"""How the processes of a training find each other: those that torchrun has started, or that this one starts.

Rank 0 is the command that the user gave: it alone looks at the command line, writes, and prints. The others wait for
what is to be done, and end when it ends. What ends one of them, it leaves in the store that all share, where rank 0
finds it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from camtrain.distributed import environment
from camtrain.distributed.ranks import ALONE, Lost, Ranks
from camtrain.errors import Diverged, MachineError, UserError, first_line
from camtrain.importing import this_program
from camtrain.interrupts import STOPPING

PATIENCE = timedelta(days=1)
"""How long a rank waits for another one, which may read, write, or wait for another run's baseline meanwhile. That a
process has ended is told by its connection."""

TO_SPEAK = timedelta(seconds=5)
"""How long a rank waits for rank 0 to tell an error before it ends, upon which torchrun ends all."""

FAULT, HEARD, HERE = "camtrain/fault", "camtrain/heard", "camtrain/here/{}"
"""Keys of the store: what ended a rank, whether rank 0 knows, and that a rank has come."""

KINDS = {kind.__name__: kind for kind in (UserError, Diverged)}
"""Errors that end the command as they would end one process alone; any other is one of the machine."""

LOOK_EVERY = 0.05
"""Seconds between looks at whether all ranks have come."""


@contextlib.contextmanager
def together(processes: int | None) -> Iterator[Ranks]:
    """Within the block this is rank 0 of so many processes, which are started unless torchrun has done so.

    Raises:
        UserError: torchrun has started another number, or another rank could not go on, for which it gave the reason.
        Lost: another rank has ended, and nobody knows why.
    """
    started = environment.world_size()
    if started is not None and processes not in (None, started):
        raise UserError(f"trainer.processes={processes}: torchrun has started {started}; leave the setting out")
    size = started or processes or 1
    if size == 1:
        yield ALONE
        return
    with contextlib.ExitStack() as undo:
        if started is not None:
            store = _part_of(next(rendezvous("env://", timeout=PATIENCE))[0])
        else:
            own = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
            undo.enter_context(_environment(environment.of(0, size, own.port)))
            others = [undo.enter_context(_started(rank, size, own.port)) for rank in range(1, size)]
            store = _part_of(own)
            wait_for(store, others)
        ranks = _join(store, 0, size)
        undo.callback(dist.destroy_process_group)
        try:
            yield ranks
        except Lost as error:
            if not store.check([FAULT]):
                raise
            kind, reason = json.loads(store.get(FAULT))
            store.set(HEARD, "")
            raise KINDS.get(kind, MachineError)(reason) from error


@contextlib.contextmanager
def following() -> Iterator[Ranks]:
    """Within the block this is a rank that follows rank 0: it prints nothing, ends where rank 0 does, and leaves in the
    store what ends it before."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)  # rank 0 has it too, and saves before it ends
    logging.disable(logging.CRITICAL)
    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    store = _part_of(store)
    store.set(HERE.format(rank), "")
    try:
        yield _join(store, rank, size)
    except Lost:  # rank 0 has ended, or says which other one has
        with contextlib.suppress(RuntimeError):
            if store.check([FAULT]):
                store.wait([HEARD], TO_SPEAK)
        sys.exit(1)
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        line = (
            f"process {rank} on {socket.gethostname()}: {error if isinstance(error, UserError) else first_line(error)}"
        )
        with contextlib.suppress(RuntimeError):
            store.set(FAULT, json.dumps([type(error).__name__, line]))
            dist.destroy_process_group()  # upon which rank 0 looks there
            store.wait([HEARD], TO_SPEAK)
        sys.exit(1)
    dist.destroy_process_group()


def wait_for(store: Store, others: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until the other ranks have come.

    Raises:
        Lost: one has ended before.
    """
    while not store.check([HERE.format(rank) for rank in range(1, len(others) + 1)]):
        if any(other.poll() is not None for other in others):
            raise Lost("a process of the training ended before it had begun")
        time.sleep(LOOK_EVERY)


def _part_of(store: Store) -> Store:
    """What of the store belongs to these processes: torchrun may have started others before, which have ended."""
    return PrefixStore(f"start {environment.restarts()}", store)


def _join(store: Store, rank: int, size: int) -> Ranks:
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except RuntimeError as error:
        raise Lost("another process of the training ended before it had begun") from error
    return Ranks(rank, size)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name)


@contextlib.contextmanager
def _started(rank: int, size: int, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that follows, in a group of its own, which signals of the terminal do not reach; ended after the
    block, if it is still there."""
    child = subprocess.Popen(
        this_program(),
        env={**os.environ, **environment.of(rank, size, port)},
        stdin=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
