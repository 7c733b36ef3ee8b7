"""A whole examination of a site, with or without its daemon."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.charter import SiteRule
from kmel_p2p.agreement.errors import ConfigError, KmelError, LocalError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.net.desk import DeskGuest
from kmel_p2p.site.config import SiteConfig
from kmel_p2p.site.control.client import ControlClient, NotRunningError, RefusedError, StartingError
from kmel_p2p.site.desk.members import MembersDesk
from kmel_p2p.site.desk.room import DeskRoom
from kmel_p2p.site.doctor.findings import Area, Finding, good, note, problem, warning
from kmel_p2p.site.doctor.machine import ThisMachine
from kmel_p2p.site.doctor.others import contact_all, examine_contacts
from kmel_p2p.site.doctor.own_files import OwnFiles, examine_files
from kmel_p2p.site.observe.status import SitePhase, StatusDocument, span_text
from kmel_p2p.site.state import lockfile
from kmel_p2p.site.state.orders import OrderBook
from kmel_p2p.site.trainer.limits import BY_CGROUP

STATUS_S = 3.0
ALARMS_NAMED = 3


@dataclass(frozen=True)
class Examination:
    """See the module docstring.

    Attributes:
        config_path: of the site.
        machine: how this machine is looked at.
        clock: seconds since 1970.
    """

    config_path: Path
    machine: ThisMachine = field(default_factory=ThisMachine)
    clock: Callable[[], float] = time.time

    def findings(self) -> Iterator[Finding]:
        """One after another, as they are found."""
        own = OwnFiles()
        yield from examine_files(self.config_path, own)
        if own.config is None:
            return
        running = lockfile.holder(own.config.site.state_dir) is not None
        charter = own.document.charter if own.document else None
        yield from self.machine.examine(own.config, charter, running)
        status = yield from _daemon(own.config, running)
        yield from _limits(own.config, status)
        if own.identity is None or own.constitution is None or own.identity.key not in own.constitution.roster:
            says = "the other sites were not asked: that takes this site's key and a charter that lists it"
            yield note(Area.NETWORK, "others", says)
            return
        yield from self._network(own.config, own.identity, own.constitution, status, running)

    def _network(
        self,
        config: SiteConfig,
        identity: Identity,
        constitution: Constitution,
        status: StatusDocument | None,
        running: bool,
    ) -> Iterator[Finding]:
        listens = running
        with contextlib.ExitStack() as open_:
            if config.network.outbound_only:
                yield good(Area.NETWORK, "port", "none: this site only dials out (outbound_only)")
            elif running:
                address = status.address if status else config.network.bind
                yield good(Area.NETWORK, "port", "the daemon listens at {address}", address=address)
            else:
                try:
                    room = open_.enter_context(_room(config, identity, constitution))
                except (ConfigError, LocalError) as error:
                    advice = "correct network.bind; where another program has the port, stop it or choose another port"
                    yield problem(Area.NETWORK, "port", "{error}", advice, error=error)
                else:
                    listens = True
                    yield good(Area.NETWORK, "port", "{address} can be listened at", address=room.address)
            blocked = OrderBook(config.site.state_dir).blocked
            rules = [rule for key, rule in constitution.roster.items() if key != identity.key and key not in blocked]
            told = {member.key: member.address for member in status.members} if status else {}

            def addresses(rule: SiteRule) -> list[str]:
                return list(dict.fromkeys(filter(None, (*rule.addresses, told.get(rule.key, "")))))

            look = listens and not config.network.outbound_only
            contacts = contact_all(identity, rules, addresses, look, self.clock, config.network.proxy_address)
            yield from examine_contacts(contacts, constitution, look)


def _daemon(config: SiteConfig, running: bool) -> Any:
    """Yields what is found of the daemon; returns its status."""
    if not running:
        yield note(Area.MACHINE, "daemon", "does not run; kmel-peer run starts it")
        return None
    try:
        with ControlClient(config.site.state_dir, STATUS_S) as client:
            status = client.status()
    except (NotRunningError, StartingError, RefusedError) as error:
        # Refused: `kmel-peer invite` holds the state directory and has no status yet.
        yield note(Area.MACHINE, "daemon", "{error}", error=error)
        return None
    except KmelError as error:
        advice = "look at peer.log in the state directory, then restart it"
        yield problem(Area.MACHINE, "daemon", "{error}", advice, error=error)
        return None
    up = span_text(status.process.uptime_s)
    if status.phase is SitePhase.FAILED:
        says, why = "has run for {span} and cannot go on: {reason}", status.reason or status.last_error
        yield problem(Area.MACHINE, "daemon", says, "look at the last lines of peer.log", span=up, reason=why)
    elif status.alarms:
        named = "; ".join(f"{alarm.what}: {alarm.text}" for alarm in status.alarms[:ALARMS_NAMED])
        says = "has run for {span}, and needs attention: {alarms}"
        yield warning(Area.MACHINE, "daemon", says, "kmel-peer status shows all", span=up, alarms=named)
    else:
        says = "has run for {span}, phase {phase}"
        yield good(Area.MACHINE, "daemon", says, span=up, phase=status.phase.value)
    return status


def _limits(config: SiteConfig, status: StatusDocument | None) -> Iterator[Finding]:
    """What holds the trainer to its limits, which the daemon alone can tell: it is in another cgroup than this one."""
    if not (config.resources.cpus or config.resources.memory_mb):
        return
    if status is None:
        yield note(Area.MACHINE, "limits", "once the peer runs, this says what holds the trainer to them")
    elif status.trainer.limits.startswith(BY_CGROUP):
        yield good(Area.MACHINE, "limits", "{limits}", limits=status.trainer.limits)
    else:
        advice = "to limit all of the trainer's processes together, see docs/operate.md, Limits"
        says = status.trainer.limits or "those of site.toml are not in force"
        yield warning(Area.MACHINE, "limits", "{limits}", advice, limits=says)


def _room(config: SiteConfig, identity: Identity, constitution: Constitution) -> DeskRoom:
    """Listens in the daemon's place, so that the others can look at the port."""
    desk = MembersDesk(identity, lambda: constitution, lambda key: ())

    async def answer(guest: DeskGuest, name: str, arguments: Mapping[str, Any]) -> Any:
        if guest.site is None or name != "facts":
            raise LocalError("only kmel-peer doctor runs here; the peer does not")
        return await desk.answer(guest.site, name, arguments)

    return DeskRoom(identity, config.network.bind, answer, members=lambda: list(constitution.roster))
