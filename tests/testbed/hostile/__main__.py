"""Run one hostile site: `python -m tests.testbed.hostile SITE_TOML ATTACK`, or an honest one that keeps a pace.

It joins, prints `ready`, and obeys lines on its standard input: `attack` begins, `rest` ends the attack. It ends with
its input. With a number in place of the attack it is honest, and trains rounds of so many seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import TextIO

from kmel_p2p.core.effects import Machine
from tests.testbed.hostile.attacks import ATTACKS, Hostile, Rewriting
from tests.testbed.puppet import Puppet

ROUND_S = 1.0


async def attack(config: Path, name: str) -> None:
    """Be the site until the input ends."""
    chosen, machines = ATTACKS[name], list[Rewriting]()

    def driven(peer: Machine) -> Rewriting:
        machines.append(Rewriting(peer))
        return machines[0]

    faults: list[str] = []
    puppet = Puppet(
        config,
        7,
        period_s=ROUND_S if chosen.trains else None,
        driven=driven,
        on_fault=lambda where, error: faults.append(f"{where}: {error!r}"),
    )
    await puppet.start()
    hostile = Hostile(puppet, machines[0])
    say(sys.stdout, "ready")
    running: asyncio.Task[None] | None = None
    while line := (await _line()):
        if running is not None:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            running = None
        if line == "attack":
            running = asyncio.ensure_future(_run(chosen.run(hostile)))
    say(sys.stderr, *faults[:5])


async def keep_pace(config: Path, round_s: float) -> None:
    """Be an honest site until the input ends."""
    puppet = Puppet(config, 8, period_s=round_s)
    await puppet.start()
    say(sys.stdout, "ready")
    while await _line():
        pass


def say(stream: TextIO, *lines: str) -> None:
    """Lines for the program that started this one."""
    stream.writelines(f"{line}\n" for line in lines)
    stream.flush()


async def _run(work: Awaitable[None]) -> None:
    try:
        await work
    except asyncio.CancelledError:
        raise
    except Exception as error:
        say(sys.stderr, f"the attack failed: {error!r}")
        raise


async def _line() -> str:
    return (await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)).strip()


def main(arguments: Sequence[str]) -> None:
    """See the module docstring."""
    config, what = Path(arguments[0]), arguments[1]
    work = attack(config, what) if what in ATTACKS else keep_pace(config, float(what))
    asyncio.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])
