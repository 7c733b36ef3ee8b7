"""Who belongs to the federation: the charter's roster, its replacement after an amendment, and our own description."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.agreement.identity import SiteKey, short
from kmel_p2p.core.membership.commands import DescribeSelf
from kmel_p2p.core.membership.context import Context
from kmel_p2p.core.membership.descriptor import (
    HANDLE_BYTES,
    Descriptor,
    RosterSite,
    check_own,
    is_authentic,
    loopback_federation,
)
from kmel_p2p.core.membership.dial_schedule import DialSchedule
from kmel_p2p.core.membership.events import MemberRemoved
from kmel_p2p.core.membership.members import handle_of, roster_without
from kmel_p2p.core.membership.prober import Prober
from kmel_p2p.core.membership.transitions import Transitions


class RosterKeeper:
    """Keeps the table of members equal to the roster, and what is known of each equal to what it signed."""

    __slots__ = ("_context", "_dials", "_prober", "_transitions")

    def __init__(self, context: Context, transitions: Transitions, prober: Prober, dials: DialSchedule) -> None:
        self._context = context
        self._transitions = transitions
        self._prober = prober
        self._dials = dials

    def admit(self, roster: Mapping[SiteKey, RosterSite]) -> None:
        """Enter every other site of the roster; those that are new are dialled."""
        context = self._context
        others = roster_without(roster, context.key)
        context.remote = not loopback_federation(others)
        for site in others:
            known = context.table.get(site.key) is not None
            member = context.table.admit(site, context.now, context.settings.assume_links)
            if not known:
                self._dials.first(member)

    def replace(self, roster: Mapping[SiteKey, RosterSite]) -> None:
        """Replace the roster: sites no longer in it are forgotten.

        Raises:
            ConfigError: clashing keys; nothing changed.
            LocalError: our key is missing; nothing changed.
        """
        context = self._context
        check_roster(context.key, roster)
        for member in [m for m in context.table if m.key not in roster]:
            self._dials.forget(member)
            context.queues.discard(member.handle)
            context.table.remove(member)
            self._transitions.forget(member)
            self._prober.forget(member)
            context.emit(MemberRemoved(member.key))
        self.admit(roster)

    def recall(self, descriptors: tuple[Descriptor, ...]) -> None:
        """Take descriptors kept from an earlier run, of members that have not described themselves in this one."""
        context = self._context
        for descriptor in descriptors:
            member = context.table.get(descriptor.key)
            if member is None or member.descriptor is not None:
                continue
            if is_authentic(descriptor, context.charter_id, context.verify):
                context.table.describe(member, descriptor)
            else:
                context.counters.recalled_forgeries += 1

    def describe_own(self, change: DescribeSelf) -> None:
        """Sign and announce a changed description of this site.

        Raises:
            ConfigError: values others could not use; nothing changed.
        """
        context, own = self._context, self._context.own
        changed = replace(
            own,
            addresses=own.addresses if change.addresses is None else change.addresses,
            size_class=own.size_class if change.size_class is None else change.size_class,
            outbound_only=own.outbound_only if change.outbound_only is None else change.outbound_only,
            software=own.software if change.software is None else change.software,
        )
        check_own(changed, [m.site for m in context.table])
        if changed != own:
            context.renew(changed)


def check_roster(own: SiteKey, roster: Mapping[SiteKey, RosterSite]) -> None:
    """Check a roster before anything changes.

    Raises:
        ConfigError: two keys share their leading bytes, which honest key generation never produces.
        LocalError: our key is missing.
    """
    if own not in roster:
        raise LocalError(f"our key {short(own)} is not in the roster")
    named: dict[bytes, str] = {}
    for site in roster_without(roster, own):
        other = named.setdefault(handle_of(site.key), site.name)
        if other != site.name:
            raise ConfigError(f"roster keys of {other} and {site.name} share their first {HANDLE_BYTES} bytes")
