"""What actions of a scenario act on: the federation, the observer's truth, the marks and the selectors."""

from __future__ import annotations

import random
from collections import Counter

from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.core.membership import MemberState
from kmel_p2p.core.types import Micros
from tests.testbed.membership.checks import Checks
from tests.testbed.membership.federation import Federation
from tests.testbed.membership.observe import Observer
from tests.testbed.membership.operator import SlowOperator
from tests.testbed.network.host import Host, Power


class Stage:
    """One running scenario."""

    def __init__(self, federation: Federation, observer: Observer, checks: Checks, rng: random.Random) -> None:
        self.federation = federation
        self.network = federation.network
        self.observer = observer
        self.checks = checks
        self.rng = rng
        self.marks: dict[str, Micros] = {}
        self.started_us: dict[int, Micros] = {}
        self.operators: list[SlowOperator] = []
        self.local_refusals: Counter[str] = Counter()
        self._partition: list[list[Host]] = []

    def mark(self, name: str) -> None:
        """Remember this moment; the last one of a name counts."""
        self.marks[name] = self.network.now

    def hosts(self, selector: str) -> list[Host]:
        """Hosts of "all" (of the roster), "random" (one that runs), "3", "0-7" or "0-3,9"."""
        hosts = self.federation.hosts
        if selector == "all":
            return [h for h in hosts if h.key in self.federation.roster]
        if selector == "random":
            return [self.rng.choice([h for h in hosts if h.running])]
        chosen: list[Host] = []
        for part in selector.split(","):
            low, _, high = part.partition("-")
            if not low.isdigit() or (high and not high.isdigit()) or int(high or low) >= len(hosts):
                raise ConfigError(f"hosts {selector!r}: {part!r} is not a number or range below {len(hosts)}")
            chosen += hosts[int(low) : int(high or low) + 1]
        return chosen

    # -- power ---------------------------------------------------------------------------------------------------

    def start(self, host: Host) -> None:
        """Switch on; the others should come to hold it alive."""
        if host.power is not Power.OFF:
            return
        self.network.start(host)
        self.started_us[host.index] = self.network.now
        self.observer.expect(host, MemberState.ALIVE)
        self.observer.booted(host)

    def crash(self, host: Host, reset: bool) -> None:
        """Switch off without a word."""
        if host.power is Power.OFF:
            return
        left = self.observer.truth[host.key] is MemberState.LEFT
        self.network.crash(host, reset)
        self.observer.stopped(host)
        if not left:
            self.observer.expect(host, MemberState.DEAD)

    def pause(self, host: Host) -> None:
        """Suspend; the others should come to hold it dead."""
        self.network.pause(host)
        self.observer.stopped(host)
        self.observer.expect(host, MemberState.DEAD)

    def resume(self, host: Host, clock_stood_still: bool) -> None:
        """Go on."""
        self.network.resume(host, clock_stood_still)
        self.observer.expect(host, MemberState.ALIVE)
        self.observer.booted(host)

    def command(self, host: Host, cmd: object) -> None:
        """Give a command, counting what is refused as the local fault it is."""
        if not host.running:
            return
        try:
            self.network.command(host, cmd)
        except (ConfigError, LocalError) as error:
            self.local_refusals[type(error).__name__] += 1

    def slow_operator(self, host: Host, reads_at: Micros) -> None:
        """From now on this host's events are read late and answered from inside the handler."""
        operator = SlowOperator(self.federation, host, reads_at)
        self.operators.append(operator)
        self.network.watch(operator, steps=False, sends=False)

    # -- partitions ----------------------------------------------------------------------------------------------

    def partition(self, groups: list[list[Host]]) -> None:
        """Cut every pair of groups apart, both ways."""
        self.heal()
        self._partition = groups
        for group in groups:
            for other in groups:
                if other is not group:
                    self.network.block(group, other)

    def heal(self) -> None:
        """Undo the partition."""
        for group in self._partition:
            for other in self._partition:
                if other is not group:
                    self.network.unblock(group, other)
        self._partition = []
