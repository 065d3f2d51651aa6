"""Results that are computed in threads shortly before they are needed.

Ours and not torch's DataLoader, whose processes would each open the data set and copy every batch: decoding and
gathering release Python's lock, so threads do as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetched(
    task: Callable[[Item], Result], items: Iterable[Item], threads: int, begun: int
) -> Generator[tuple[Item, Result], None, None]:
    """(item, the task's result) of each item, in order.

    Each of these threads computes alone: torch's operations in it are not shared among further threads, which would
    only wait for each other and for the training. The calling thread keeps its number of torch threads; threads that
    others start later begin with one, too.

    Args:
        task: runs in the threads; what it raises is raised here.
        items: taken one by one as they are needed.
        threads: number of threads.
        begun: largest number of tasks begun before they are needed, because waiting results take memory.
    """
    remaining = iter(items)
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    torch.get_num_threads()  # fixes the calling thread's number before the others set theirs
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for item in islice(remaining, begun):
            waiting.append((item, pool.submit(task, item)))
        while waiting:
            item, future = waiting.popleft()
            result = future.result()
            for following in islice(remaining, 1):
                waiting.append((following, pool.submit(task, following)))
            yield item, result
    finally:
        pool.shutdown(cancel_futures=True)
