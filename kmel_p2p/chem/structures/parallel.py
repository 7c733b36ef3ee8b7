"""Many molecules on all cores, in child processes that never outlive this one.

A molecule on which a process ends, because RDKit crashes or takes all memory, costs itself alone: what was lost with
the process is done again in another one, one molecule at a time, and what ends that one, too, is given up.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Generic, TypeVar

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


class _Workers(Generic[Item, Result]):
    """Processes for one kind of work.

    Args:
        work: a picklable function of one chunk.
        lost: result for an item on which a process ended.
        processes: at most.
    """

    def __init__(
        self, work: Callable[[Sequence[Item]], Result], lost: Callable[[Item], Result], processes: int
    ) -> None:
        self._work, self._lost, self._processes = work, lost, processes
        self._pool = _pool(processes)

    def __enter__(self) -> _Workers[Item, Result]:
        return self

    def __exit__(self, *given: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(self, chunk: Sequence[Item]) -> Future[Result]:
        """Begin with a chunk."""
        try:
            return self._pool.submit(self._work, chunk)
        except BrokenProcessPool:
            # Waiting costs a moment. A broken pool that is let go while its thread still ends the other processes makes
            # that thread wait for itself (Python 3.13.0), and this process with it when it ends.
            self._pool.shutdown()
            self._pool = _pool(self._processes)
            return self._pool.submit(self._work, chunk)

    def results(self, future: Future[Result], chunk: Sequence[Item]) -> list[Result]:
        """What a chunk gave: one result, or one for each item where a process ended.

        Raises:
            BrokenProcessPool: processes end before they do anything.
        """
        try:
            return [future.result()]
        except BrokenProcessPool:
            return self._apart(chunk)

    def _apart(self, chunk: Sequence[Item]) -> list[Result]:
        found = []
        alone = _ready_process()
        try:
            for item in chunk:
                try:
                    found.append(alone.submit(self._work, [item]).result())
                except BrokenProcessPool:
                    found.append(self._lost(item))
                    alone.shutdown()
                    alone = _ready_process()
        finally:
            alone.shutdown()
        return found


def _pool(processes: int) -> ProcessPoolExecutor:
    # spawn: a fork of a process that runs torch or ZeroMQ threads can deadlock.
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), end_with_parent)


def _ready_process() -> ProcessPoolExecutor:
    """A single process that can work; otherwise, every item would seem to end it."""
    pool = _pool(1)
    try:
        pool.submit(usable_cores).result()
    except BaseException:
        # Not let go while it ends: see `_Workers.submit`.
        pool.shutdown()
        raise
    return pool


def map_blocks(
    work: Callable[[Sequence[Item]], Result],
    blocks: Iterable[Sequence[Item]],
    *,
    chunk: int,
    workers: int,
    lost: Callable[[Item], Result],
    isolated: bool = False,
    done: Callable[[int], None] = lambda count: None,
) -> Iterator[list[Result]]:
    """Apply `work` to consecutive chunks of each block; one pool serves all blocks, however many there are.

    The next blocks are worked on while the caller uses one: four chunks for each process, and at least one block.

    Args:
        work, workers, lost: as `map_chunks`.
        blocks: taken as they are needed.
        chunk: items per call.
        isolated: never do the work in this process, so that no item can end it.
        done: told how many items were finished, after each chunk that is waited for.

    Yields:
        for each block the results of its chunks, in order.
    """
    pieces = ([block[start : start + chunk] for start in range(0, len(block), chunk)] for block in blocks)
    head = list(islice(pieces, 2))
    few = workers <= 1 or sum(map(len, head)) < 2
    if (few and not isolated) or multiprocessing.current_process().daemon:
        for block in chain(head, pieces):
            found = []
            for piece in block:
                found.append(work(piece))
                done(len(piece))
            yield found
        return
    processes = max(1, workers if len(head) > 1 else min(workers, sum(map(len, head))))
    with _Workers(work, lost, processes) as pool:
        waiting: deque[list[tuple[Future[Result], Sequence[Item]]]] = deque()
        for block in chain(head, pieces):
            waiting.append([(pool.submit(piece), piece) for piece in block])
            while len(waiting) > 1 and sum(map(len, waiting)) - len(waiting[0]) >= 4 * processes:
                yield _results(pool, waiting.popleft(), done)
        while waiting:
            yield _results(pool, waiting.popleft(), done)


def _results(
    pool: _Workers[Item, Result],
    block: Iterable[tuple[Future[Result], Sequence[Item]]],
    done: Callable[[int], None],
) -> list[Result]:
    found: list[Result] = []
    for future, piece in block:
        found += pool.results(future, piece)
        done(len(piece))
    return found


def map_chunks(
    work: Callable[[Sequence[Item]], Result],
    items: Sequence[Item],
    *,
    chunk: int,
    workers: int,
    lost: Callable[[Item], Result],
) -> Iterator[tuple[int, list[Result]]]:
    """Apply `work` to consecutive chunks of `items`.

    Args:
        work: a picklable function of one chunk.
        chunk: items per call.
        workers: processes; 1, or fewer than two chunks, stays in this process.
        lost: result for an item on which a process ended.

    Yields:
        (index of the chunk, its result), in order of completion; several results where a process ended.
    """
    pieces = [items[start : start + chunk] for start in range(0, len(items), chunk)]
    # A daemonic process may not have children; it does the work itself.
    if workers <= 1 or len(pieces) < 2 or multiprocessing.current_process().daemon:
        for index, piece in enumerate(pieces):
            yield index, [work(piece)]
        return
    with _Workers(work, lost, min(workers, len(pieces))) as pool:
        waiting: dict[Future[Result], int] = {}
        for index, piece in enumerate(pieces):
            waiting[pool.submit(piece)] = index
            if len(waiting) >= 4 * workers:
                yield from _finished(pool, waiting, pieces)
        while waiting:
            yield from _finished(pool, waiting, pieces)


def _finished(
    pool: _Workers[Item, Result], waiting: dict[Future[Result], int], pieces: Sequence[Sequence[Item]]
) -> Iterator[tuple[int, list[Result]]]:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        index = waiting.pop(future)
        yield index, pool.results(future, pieces[index])
