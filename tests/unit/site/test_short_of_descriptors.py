"""A daemon that has no descriptor left for a moment says so and goes on."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from kmel_p2p.site.observe import sampling
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.observe.sampling import Sampler
from kmel_p2p.site.observe.status_builder import _resident_bytes
from kmel_p2p.site.trainer.process import TrainerProcess
from kmel_p2p.site.trainer.supervisor import TrainerSupervisor
from tests.support.net_peers import until


class NoDescriptors:
    def __init__(self, *_: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")


def test_memory_is_known_without_reading_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "Process", NoDescriptors)
    assert _resident_bytes() > 1_000_000
    process = object.__new__(TrainerProcess)
    process._process = SimpleNamespace(pid=1)  # type: ignore[assignment]
    assert process.resident_bytes == 0


async def test_the_tick_survives_what_passes_and_says_so_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "TICK_S", 0.001)
    samples = iter([OSError(errno.EMFILE, "Too many open files"), None, None])
    seen: list[tuple[str, ...]] = []
    activity = Activity(lambda: 0.0)

    async def sample() -> None:
        seen.append(tuple(alarm.what for alarm in activity.alarms))
        error = next(samples, None)
        if error is not None:
            raise error

    sampler = object.__new__(Sampler)
    sampler._activity = activity
    sampler._sample = sample  # type: ignore[method-assign]
    sampler.start()
    await until(lambda: len(seen) >= 3)
    await sampler.close()
    assert seen[:3] == [(), ("short of resources",), ()]


async def test_a_trainer_that_could_not_be_started_is_started_later() -> None:
    tries = iter([OSError(errno.EMFILE, "Too many open files"), OSError(errno.ENOMEM, "Cannot allocate memory"), None])
    supervisor = object.__new__(TrainerSupervisor)
    supervisor._backoff_s = 0.001

    async def launch() -> None:
        if (error := next(tries)) is not None:
            raise error

    supervisor._launch = launch  # type: ignore[method-assign]
    await supervisor._start_later()
    assert list(tries) == []
