"""What a scenario file can do to a federation, one class per `do`: to its hosts here, to the network next door."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import pydantic

from kmel_p2p.core.effects import LoopLag
from kmel_p2p.core.membership import DescribeSelf, Leave, MemberState, RosterSite, SetRoster
from kmel_p2p.core.types import MILLISECOND, SECOND
from tests.testbed.membership.action import Action, HostsAction, Milliseconds, Seconds, micros
from tests.testbed.membership.federation import address_of
from tests.testbed.membership.hostile import FORGERIES, forge
from tests.testbed.membership.network_actions import Block, Clog, Heal, Interface, Partition, Weather
from tests.testbed.membership.stage import Stage


class MarkAction(Action):
    """Only a name for this moment."""

    do: Literal["mark"]

    def apply(self, stage: Stage) -> None:
        return None


class Start(HostsAction):
    """Switch on, at random moments within `over_s`."""

    do: Literal["start"]
    over_s: Seconds = 0.0

    def apply(self, stage: Stage) -> None:
        for host in stage.hosts(self.hosts):
            delay = stage.rng.randrange(micros(self.over_s) + 1)
            stage.network.call_at(stage.network.now + delay, partial(stage.start, host))


class Crash(HostsAction):
    """Switch off; with `reset` the kernel closes the connections, without it they fall silent."""

    do: Literal["crash"]
    reset: bool = False

    def apply(self, stage: Stage) -> None:
        for host in stage.hosts(self.hosts):
            stage.crash(host, self.reset)


class Restart(HostsAction):
    """Crash and start again, each host at a random moment within `over_s`, `down_s` later."""

    do: Literal["restart"]
    over_s: Seconds = 0.0
    down_s: Seconds = 0.0
    disk: Literal["kept", "wiped", "clock"] = "kept"
    """wiped: the generation counts from 1 again; clock: from a floor far above, as wall-clock seconds give."""
    leave: bool = False

    def apply(self, stage: Stage) -> None:
        now = stage.network.now
        for host in stage.hosts(self.hosts):
            moment = now + stage.rng.randrange(micros(self.over_s) + 1)
            if self.leave:
                stage.network.call_at(moment, partial(stage.command, host, Leave()))
                moment += SECOND // 2
            stage.network.call_at(moment, partial(stage.crash, host, True))
            if self.disk != "kept":
                floor = 1_700_000_000 if self.disk == "clock" else 0
                stage.network.call_at(moment, partial(stage.federation.wipe, host, floor))
            stage.network.call_at(moment + micros(self.down_s), partial(stage.start, host))


class Pause(HostsAction):
    """SIGSTOP."""

    do: Literal["pause"]

    def apply(self, stage: Stage) -> None:
        for host in stage.hosts(self.hosts):
            stage.pause(host)


class Resume(HostsAction):
    """SIGCONT; `clock` says whether the host's clock went on meanwhile."""

    do: Literal["resume"]
    clock: Literal["went on", "stood still"] = "went on"

    def apply(self, stage: Stage) -> None:
        for host in stage.hosts(self.hosts):
            stage.resume(host, self.clock == "stood still")


class Jump(HostsAction):
    """The clock leaps forward."""

    do: Literal["jump clock"]
    by_s: Seconds

    def apply(self, stage: Stage) -> None:
        for host in stage.hosts(self.hosts):
            stage.network.jump_clock(host, micros(self.by_s))


class Starve(HostsAction):
    """Handle received messages late (uniform between the two), timers on time; `work_ms` per message instead."""

    do: Literal["starve"]
    late_ms: tuple[Milliseconds, Milliseconds] = (0.0, 0.0)
    work_ms: Milliseconds = 0.0
    for_s: Seconds = 0.0

    def apply(self, stage: Stage) -> None:
        hosts = stage.hosts(self.hosts)
        for host in hosts:
            low, high = (round(x * MILLISECOND) for x in self.late_ms)
            host.receive_delay_us = (low, high)
            host.work_us = round(self.work_ms * MILLISECOND)
            stage.observer.unwell[host.index] = None
        if self.for_s:
            for host in hosts:
                stage.network.call_at(stage.network.now + micros(self.for_s), partial(_feed, stage, host))


def _feed(stage: Stage, host: Any) -> None:
    host.receive_delay_us, host.work_us = (0, 0), 0
    stage.observer.unwell.pop(host.index, None)


class LeaveAction(HostsAction):
    """Graceful departure."""

    do: Literal["leave"]

    def apply(self, stage: Stage) -> None:
        for host in stage.hosts(self.hosts):
            stage.command(host, Leave())
            stage.observer.stopped(host)
            stage.observer.expect(host, MemberState.LEFT)


class Describe(HostsAction):
    """Move to another address (and listen there), or try to advertise an unusable one."""

    do: Literal["describe"]
    address: str = ""
    """Empty: a fresh usable address per host."""
    software_chars: int = 0

    def apply(self, stage: Stage) -> None:
        for host in stage.hosts(self.hosts):
            address = self.address or address_of(host.index + 1_000 * (1 + host.starts + len(stage.marks)))
            refused = stage.local_refusals["ConfigError"]
            software = "x" * self.software_chars or None
            if not host.running:
                host.addresses = (address,)
                continue
            stage.command(host, DescribeSelf(addresses=(address,), software=software))
            if stage.local_refusals["ConfigError"] == refused:
                host.addresses = (address,)


class TakeAddress(HostsAction):
    """Listen at the addresses of another host (a new site on an old machine)."""

    do: Literal["take address"]
    of: str

    def apply(self, stage: Stage) -> None:
        (old,) = stage.hosts(self.of)
        for host in stage.hosts(self.hosts):
            host.addresses, old.addresses = old.addresses, ()


class Roster(Action):
    """Amend the charter: remove and add hosts, and tell every running site."""

    do: Literal["roster"]
    remove: str = ""
    add: str = ""

    def apply(self, stage: Stage) -> None:
        federation = stage.federation
        roster = dict(federation.roster)
        for host in stage.hosts(self.remove) if self.remove else []:
            roster.pop(host.key, None)
        for host in stage.hosts(self.add) if self.add else []:
            roster[host.key] = RosterSite(host.key, host.name, host.addresses)
        federation.roster = roster
        for host in federation.hosts:
            if host.key in roster:
                stage.command(host, SetRoster(roster))
        for host in federation.hosts:
            stage.observer.expect(host, stage.observer.truth[host.key])


class Lag(HostsAction):
    """The driver's loop reports this lateness."""

    do: Literal["loop lag"]
    late_ms: Milliseconds

    def apply(self, stage: Stage) -> None:
        for host in stage.hosts(self.hosts):
            stage.command(host, LoopLag(round(self.late_ms * MILLISECOND)))


class Operator(HostsAction):
    """The operator reads events only after `for_s`, and calls back from inside the handler."""

    do: Literal["slow operator"]
    for_s: Seconds

    def apply(self, stage: Stage) -> None:
        for host in stage.hosts(self.hosts):
            stage.slow_operator(host, stage.network.now + micros(self.for_s))


class Forge(Action):
    """A hostile member sends made-up messages to each target."""

    do: Literal["forge"]
    kind: Annotated[str, pydantic.Field(pattern="|".join(f"^{k}$" for k in FORGERIES))]
    source: str
    target: str
    subject: str = "0"
    count: Annotated[int, pydantic.Field(ge=1, le=10_000)] = 1

    def apply(self, stage: Stage) -> None:
        (subject,) = stage.hosts(self.subject)
        for source in stage.hosts(self.source):
            for target in stage.hosts(self.target):
                if source is not target:
                    forge(stage, self.kind, source, target, subject, self.count)


AnyAction = Annotated[
    MarkAction
    | Start
    | Crash
    | Restart
    | Pause
    | Resume
    | Jump
    | Partition
    | Heal
    | Block
    | Clog
    | Weather
    | Starve
    | Interface
    | LeaveAction
    | Describe
    | TakeAddress
    | Roster
    | Lag
    | Operator
    | Forge,
    pydantic.Field(discriminator="do"),
]
