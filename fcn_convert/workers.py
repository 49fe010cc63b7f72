"""Threads that work beside their owner, and end when it does."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import ParamSpec, Self, TypeVar

MAX_THREADS = 4
"""What is computed here is soon bound by memory; and each thread has blocks of its own."""

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")


class _EndedError(Exception):
    """Raised in a worker whose owner no longer waits for it."""


class Workers:
    """Threads whose work ends early where their owner fails; a context manager.

    Long work calls `go_on` now and then, so that an interrupted command does not first read the
    rest of a file.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._ended = False

    def start(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Let a thread do the work; its result, or what it raised, is the future's."""
        return self._pool.submit(work, *args, **kwargs)

    def go_on(self) -> None:
        """Return as long as the owner waits for results."""
        if self._ended:
            raise _EndedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what goes on at its next step, and wait for that."""
        self._ended = True
        self._pool.shutdown(cancel_futures=True)


def work_off(
    jobs: Iterable[Callable[[S], None]],
    make_memory: Callable[[], S],
    helpers: Workers,
    threads: int,
) -> None:
    """Do all jobs in `threads` threads, this one and helpers; returns when none is at work.

    A helper joins when it has nothing else to do: more threads than cores would only take turns.
    Each thread has memory of its own.
    """
    waiting = deque(jobs)

    def work() -> None:
        try:
            memory = make_memory()
            while waiting:
                helpers.go_on()
                try:
                    job = waiting.popleft()
                except IndexError:  # another thread was quicker
                    return
                job(memory)
        except BaseException:
            waiting.clear()  # nobody goes on where one failed
            raise

    helping = [helpers.start(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        wait(helping := [helper for helper in helping if not helper.cancel()])
    for helper in helping:
        helper.result()


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_to_compute() -> int:
    """Return how many threads to compute with: as many as there are cores, a few at most."""
    return min(cores(), MAX_THREADS)
