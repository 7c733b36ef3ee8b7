"""Many molecules on all cores, in child processes that never outlive this one."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import chain, islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    """Cores that this process may run on; fewer than the machine has where its affinity is limited."""
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent() -> None:
    """End this process at once when the process that started it is gone, however it went.

    Otherwise, the children of a pool wait forever for work from a parent that was killed.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent.sentinel,), name="parent-watch", daemon=True).start()


def _watch(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def map_blocks(
    work: Callable[[Sequence[Item]], Result],
    blocks: Iterable[Sequence[Item]],
    *,
    chunk: int,
    workers: int,
    done: Callable[[int], None] = lambda count: None,
) -> Iterator[list[Result]]:
    """Apply `work` to consecutive chunks of each block; one pool serves all blocks, however many there are.

    The next blocks are worked on while the caller uses one: four chunks for each process, and at least one block.

    Args:
        work, workers: as `map_chunks`.
        blocks: taken as they are needed.
        chunk: items per call.
        done: told how many items were finished, after each chunk that is waited for.

    Yields:
        for each block the results of its chunks, in order.
    """
    pieces = ([block[start : start + chunk] for start in range(0, len(block), chunk)] for block in blocks)
    head = list(islice(pieces, 2))
    if workers <= 1 or sum(map(len, head)) < 2 or multiprocessing.current_process().daemon:
        for block in chain(head, pieces):
            found = []
            for piece in block:
                found.append(work(piece))
                done(len(piece))
            yield found
        return
    processes = workers if len(head) > 1 else min(workers, len(head[0]))
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        waiting: deque[list[tuple[Future[Result], int]]] = deque()
        try:
            for block in chain(head, pieces):
                waiting.append([(pool.submit(work, piece), len(piece)) for piece in block])
                while len(waiting) > 1 and sum(map(len, waiting)) - len(waiting[0]) >= 4 * processes:
                    yield _results(waiting.popleft(), done)
            while waiting:
                yield _results(waiting.popleft(), done)
        finally:
            for future, _ in chain.from_iterable(waiting):
                future.cancel()


def _results(block: Iterable[tuple[Future[Result], int]], done: Callable[[int], None]) -> list[Result]:
    found = []
    for future, count in block:
        found.append(future.result())
        done(count)
    return found


def map_chunks(
    work: Callable[[Sequence[Item]], Result], items: Sequence[Item], *, chunk: int, workers: int
) -> Iterator[tuple[int, Result]]:
    """Apply `work` to consecutive chunks of `items`.

    Args:
        work: a picklable function of one chunk.
        chunk: items per call.
        workers: processes; 1, or fewer than two chunks, stays in this process.

    Yields:
        (index of the chunk, its result), in order of completion.
    """
    pieces = [items[start : start + chunk] for start in range(0, len(items), chunk)]
    # A daemonic process may not have children; it does the work itself.
    if workers <= 1 or len(pieces) < 2 or multiprocessing.current_process().daemon:
        for index, piece in enumerate(pieces):
            yield index, work(piece)
        return
    # spawn: a fork of a process that runs torch or ZeroMQ threads can deadlock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(pieces)), context, end_with_parent) as pool:
        waiting: dict[Future[Result], int] = {}
        following = iter(enumerate(pieces))
        try:
            for index, piece in following:
                waiting[pool.submit(work, piece)] = index
                if len(waiting) >= 4 * workers:
                    yield from _finished(waiting)
            while waiting:
                yield from _finished(waiting)
        finally:
            for future in waiting:
                future.cancel()


def _finished(waiting: dict[Future[Result], int]) -> Iterator[tuple[int, Result]]:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        yield waiting.pop(future), future.result()
