"""Arithmetic off the event loop: in order, one at a time, bounded where others ask for it."""

from __future__ import annotations

from collections import deque

from kmel_p2p.core.computing import MAX_QUEUED
from kmel_p2p.core.effects import Compute, Effect
from kmel_p2p.core.pushsum.coding import Coding


def test_small_work_is_done_at_once() -> None:
    outbox: deque[Effect] = deque()
    done: list[int] = []
    assert Coding(outbox, 10, at_once=10).run(lambda: lambda: 7, done.append)
    assert done == [7]
    assert not outbox


def test_large_work_takes_turns_and_is_prepared_at_its_turn() -> None:
    outbox: deque[Effect] = deque()
    coding = Coding(outbox, 11, at_once=10)
    log: list[str] = []

    def start(name: str, wanted: bool = True) -> None:
        def prepare():  # type: ignore[no-untyped-def]
            log.append(f"prepare {name}")
            return (lambda: name) if wanted else None

        coding.run(prepare, lambda result: log.append(f"then {result}"))

    for name, wanted in (("a", True), ("b", False), ("c", True)):
        start(name, wanted)
    assert log == ["prepare a"]
    assert coding.is_busy
    while outbox:
        effect = outbox.popleft()
        assert isinstance(effect, Compute)
        assert not outbox, "one at a time"
        result = effect.work()
        coding.computed(effect.ticket + 1, result)
        coding.computed(effect.ticket, result)
        coding.computed(effect.ticket, result)
    assert log == ["prepare a", "then a", "prepare b", "prepare c", "then c"]
    assert not coding.is_busy


def test_what_others_ask_for_is_bounded_and_own_work_never_turned_away() -> None:
    outbox: deque[Effect] = deque()
    coding = Coding(outbox, 11, at_once=10)
    taken = sum(coding.run(lambda: lambda: 0, lambda result: None, must=False) for _ in range(1000))
    assert taken == MAX_QUEUED + 1
    assert coding.run(lambda: lambda: 0, lambda result: None)
