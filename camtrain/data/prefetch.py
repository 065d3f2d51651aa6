"""Results that are made in threads a little before they are needed."""

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

    In the threads each of torch's operations keeps to its own thread: sharing it out among others as well would only
    make all wait for each other, and for the training. The number of the thread that calls stays; threads that are
    started later by others begin with one, too.

    Args:
        task: runs in the threads; what it raises is raised here.
        items: taken one by one as they are needed.
        threads: how many.
        begun: so many tasks at most are begun before they are needed: what waits takes memory.
    """
    remaining = iter(items)
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    torch.get_num_threads()  # settles the number of the thread that calls, before others say theirs
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
