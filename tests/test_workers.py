from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Event, current_thread

import pytest

from fcn_convert.workers import Workers, work_off


class Broken(Exception):
    pass


@pytest.mark.parametrize("threads", [0, 1, 3], ids=["none-wanted", "alone", "three"])
def test_each_job_is_done_once_with_the_memory_of_its_thread(threads: int) -> None:
    memories: list[set[str]] = []
    done: list[int] = []

    def memory() -> set[str]:
        memories.append(set())
        return memories[-1]

    def job(number: int, scratch: set[str]) -> None:
        scratch.add(current_thread().name)
        done.append(number)

    with Workers(2) as helpers:
        work_off([partial(job, number) for number in range(100)], memory, helpers, threads)
    assert sorted(done) == list(range(100))
    assert len(memories) <= max(threads, 1)
    assert all(len(names) <= 1 for names in memories)


def test_helpers_that_have_other_work_are_not_waited_for() -> None:
    go_on, done = Event(), list[int]()
    with Workers(1) as helpers:
        other = helpers.start(go_on.wait)
        jobs = [lambda _, number=number: done.append(number) for number in range(9)]
        work_off(jobs, lambda: None, helpers, 2)
        assert done == list(range(9))
        assert not other.done()
        go_on.set()


def test_helpers_that_are_free_do_join() -> None:
    arrived, names = Event(), list[str]()

    def first(_: None) -> None:
        names.append(current_thread().name)
        assert arrived.wait(30)

    def second(_: None) -> None:
        names.append(current_thread().name)
        arrived.set()

    with Workers(1) as helpers:
        work_off([first, second], lambda: None, helpers, 2)
    assert len(set(names)) == 2


@pytest.mark.parametrize("where", ["here", "in-a-helper"])
def test_what_fails_ends_all_and_is_raised_when_all_have_ended(where: str) -> None:
    started, failed, done = Event(), Event(), list[int]()
    here = current_thread()

    def meet(_: None) -> None:
        """One of two that begin at once fails, and then the other one comes to its end."""
        if (current_thread() is here) == (where == "here"):
            assert started.wait(30)
            failed.set()
            raise Broken
        started.set()
        assert failed.wait(30)
        done.append(1)

    rest: list[Callable[[None], None]] = [lambda _: done.append(2)] * 1_000_000
    with Workers(1) as helpers:
        with pytest.raises(Broken):
            work_off([meet, meet, *rest], lambda: None, helpers, 2)
        assert done[:1] == [1]
        assert len(done) < 1_000_000
