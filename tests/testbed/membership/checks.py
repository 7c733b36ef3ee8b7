"""What must hold after every single step, whatever the scenario does. A breach ends the run with its newest steps."""

from __future__ import annotations

from collections import Counter

from kmel_p2p.agreement.errors import Bug
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect
from kmel_p2p.core.membership import Membership, MemberState
from kmel_p2p.core.types import Micros
from tests.testbed.membership.federation import Federation, membership_of
from tests.testbed.network.host import Host

FULL_CHECK_SITES = 32
"""Up to this size the whole table is checked after every step that changed it; above it, the subjects of events."""
UNPROMPTED = 64


class Checks:
    """Safety of membership: never dead in one's own table, one record per key, facts only grow, queues are bounded."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self.queue_peak = 0
        """Most membership facts that ever waited at one host."""
        self.health_peak: Counter[int] = Counter()
        """Worst local health score by host index."""
        self._versions: dict[int, tuple[int, int]] = {}
        self._steps: dict[int, int] = {}
        self._newest: dict[tuple[int, int, SiteKey], tuple[int, int, int]] = {}

    def stepped(self, host: Host, now: Micros) -> None:
        """Check one host after one step."""
        membership = membership_of(host)
        if membership is None:
            return
        waiting = membership.waiting_facts
        if waiting > self.queue_peak:
            self.queue_peak = waiting
            if waiting > len(membership.roster) + 1:
                self._fail(host, f"{waiting} facts queued about {len(membership.roster) + 1} sites")
        score = membership.health
        if score and score > self.health_peak[host.index]:
            self.health_peak[host.index] = score
        if self._is_due(host, membership):
            if membership.state(host.key) not in (MemberState.ALIVE, MemberState.LEFT):
                self._fail(host, "holds itself dead")
            if len(membership.roster) <= FULL_CHECK_SITES:
                self._check_table(host, membership)

    def _is_due(self, host: Host, membership: Membership) -> bool:
        """After every step that changed the table, and now and then in case a change was not counted."""
        version = (host.starts, membership.table_version)
        steps = self._steps.get(host.index, 0) + 1
        self._steps[host.index] = steps
        due = self._versions.get(host.index) != version or steps % UNPROMPTED == 0
        self._versions[host.index] = version
        return due

    def _check_table(self, host: Host, membership: Membership) -> None:
        for key in membership.roster:
            self._check_growth(host, membership, key)
        if tuple(sorted(set(membership.alive()))) != membership.alive():
            self._fail(host, "lists members alive twice or unsorted")

    def _check_growth(self, host: Host, membership: Membership, key: SiteKey) -> None:
        version = membership.version(key)
        if version is None:
            return
        index = (host.index, host.starts, key)
        before, after = self._newest.get(index), version
        if before is not None and after < before:
            self._fail(host, f"went back from {before} to {after} about {key[:4].hex()}")
        self._newest[index] = after

    def _fail(self, host: Host, what: str) -> None:
        network = self._federation.network
        raise Bug(f"{host.name} {what} (seed {network.seed})\n" + "\n".join(network.trace.lines()))

    def effect(self, host: Host, effect: Effect, size_bytes: int, now: Micros) -> None:
        """In a large federation the table is checked where something was said about it."""
        key = getattr(getattr(effect, "event", None), "key", None)
        membership = membership_of(host) if key is not None else None
        if membership is not None and len(membership.roster) > FULL_CHECK_SITES and key in membership.roster:
            self._check_growth(host, membership, key)

    def refused(self, host: Host, sender: Host, error: Exception, now: Micros) -> None:
        """Nothing to check."""
