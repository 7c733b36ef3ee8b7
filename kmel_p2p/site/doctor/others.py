"""The ways to and from the other sites, and whether they agree with this one: each is asked at its desk."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.charter import SiteRule
from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.agreement.shown import one_line
from kmel_p2p.core.wire import PROTOCOL, versions_differ
from kmel_p2p.net.connection_failure import ConnectionFailure
from kmel_p2p.net.desk import member_keys
from kmel_p2p.net.desk_client import DeskUnreachableError, ask_desk, encode_question
from kmel_p2p.site.doctor.findings import Area, Finding, good, note, problem, warning
from kmel_p2p.version import VERSION

ASK_S = 6.0
LOOK_S = 15.0
"""The other site tries all of our addresses meanwhile."""

SITES_AT_ONCE = 16

CLOCK_S = 5.0
"""Clocks may differ by so much; logs and deadlines of people bear more, certificates do not."""


@dataclass(frozen=True, slots=True)
class Contact:
    """What came of asking one site.

    Attributes:
        address: at which it answered; empty when nowhere.
        facts: what it says of itself; None when nothing was answered.
        failures: one text for each address that did not answer.
        ahead_s: its clock less ours, and how exactly that is known.
        looked: addresses of ours that it tried, each with `problem` (empty: reached); None: it did not look.
        not_looked: why it did not.
    """

    rule: SiteRule
    address: str = ""
    facts: Mapping[str, Any] | None = None
    failures: tuple[str, ...] = ()
    ahead_s: tuple[float, float] = (0.0, 0.0)
    looked: Sequence[Mapping[str, str]] | None = None
    not_looked: str = ""


def contact_all(
    identity: Identity,
    rules: Sequence[SiteRule],
    addresses: Callable[[SiteRule], Sequence[str]],
    have_looked: bool,
    clock: Callable[[], float] = time.time,
    proxy: str = "",
) -> list[Contact]:
    """Ask every site, several at once.

    Args:
        addresses: where each is said to be reached.
        have_looked: whether to ask each of them to try our port.
        proxy: through which this site dials, host:port; empty: none.
    """
    with ThreadPoolExecutor(SITES_AT_ONCE) as pool:
        return list(pool.map(lambda rule: _contact(identity, rule, addresses(rule), have_looked, clock, proxy), rules))


def _contact(
    identity: Identity,
    rule: SiteRule,
    addresses: Sequence[str],
    have_looked: bool,
    clock: Callable[[], float],
    proxy: str,
) -> Contact:
    keys = member_keys(identity, rule.site_key, asks=True)
    if keys is None:
        return Contact(rule, failures=(f"the charter's key of {rule.name} cannot be held by anybody",))
    failures = []
    for address in addresses:
        before = clock()
        try:
            facts = ask_desk(keys, rule.site_key, address, encode_question("facts"), ASK_S, proxy)
        except LocalError as error:
            failures.append(_worded(error, rule, identity))
            continue
        after = clock()
        if type(facts) is not dict or type(facts.get("time")) is not float or type(facts.get("amendments")) is not int:
            differ = versions_differ("protocol", facts.get("protocol") if type(facts) is dict else None, PROTOCOL)
            told = differ or "ask its operator which version of kmel-peer runs there"
            failures.append(f"{address} answered what this version cannot read: {told}")
            continue
        ahead = facts["time"] - (before + after) / 2, (after - before) / 2
        looked, not_looked = None, ""
        if have_looked:
            try:
                looked = _looked(ask_desk(keys, rule.site_key, address, encode_question("look"), LOOK_S, proxy))
            except LocalError as error:
                not_looked = str(error)
        return Contact(rule, address, facts, tuple(failures), ahead, looked, not_looked)
    return Contact(rule, failures=tuple(failures))


def _worded(error: LocalError, rule: SiteRule, identity: Identity) -> str:
    if isinstance(error, DeskUnreachableError) and error.failure is ConnectionFailure.NOT_ADMITTED:
        return (
            f"{rule.name} does not let this site in: its charter or amendments lack the key "
            f"{identity.key.hex()[:16]}…, its operator has blocked this site, or it runs a version without a desk"
        )
    return str(error)


def _looked(answer: Any) -> Sequence[Mapping[str, str]]:
    rows = answer.get("looked") if type(answer) is dict else None
    if type(rows) is not list or not all(type(row) is dict for row in rows):
        raise LocalError("it answered what this version cannot read; update kmel-peer there or here")
    return [{name: one_line(str(row.get(name, "")), 500) for name in ("address", "problem")} for row in rows]


def examine_contacts(contacts: Sequence[Contact], constitution: Constitution, asked_to_look: bool) -> Iterator[Finding]:
    """What the answers mean."""
    for contact in contacts:
        yield _outward(contact)
        if contact.facts is not None and asked_to_look:
            yield _inward(contact)
    answered = [contact for contact in contacts if contact.facts is not None]
    if not answered:
        return
    yield _clock(answered)
    yield from _versions(answered)
    yield from _agreement(answered, constitution)


def _outward(contact: Contact) -> Finding:
    name, title = contact.rule.name, "to {site}"
    if contact.facts is not None:
        return good(Area.NETWORK, title, "answers at {address}", site=name, address=contact.address)
    if not contact.failures:
        return note(Area.NETWORK, title, "{site} has no address: it dials, and nobody dials it", site=name)
    advice = "do what the message says, or ask the operator of {site}; kmel-peer doctor there sees the other side"
    return problem(Area.NETWORK, title, "{failures}", advice, site=name, failures="; ".join(contact.failures))


def _inward(contact: Contact) -> Finding:
    name, title = contact.rule.name, "from {site}"
    if contact.looked is None:
        return note(Area.NETWORK, title, "{site} did not look: {reason}", site=name, reason=contact.not_looked)
    reached = [row["address"] for row in contact.looked if not row["problem"]]
    if reached:
        says = "{site} reaches this site at {addresses}"
        return good(Area.NETWORK, title, says, site=name, addresses=", ".join(reached))
    if not contact.looked:
        says = "{site} knows no address of this site, so it cannot dial it"
        advice = "set network.advertise, unless this site is only to dial out: then outbound_only = true"
        return problem(Area.NETWORK, title, says, advice, site=name)
    says, failures = "{site} does not reach this site: {failures}", "; ".join(row["problem"] for row in contact.looked)
    advice = "open the port in the firewall and forward it, or correct network.advertise; else outbound_only = true"
    return problem(Area.NETWORK, title, says, advice, site=name, failures=failures)


def _clock(answered: Sequence[Contact]) -> Finding:
    off = [contact for contact in answered if abs(contact.ahead_s[0]) > CLOCK_S + contact.ahead_s[1]]
    if not off:
        says = "within {seconds} s of {count} other sites"
        return good(Area.MACHINE, "clock", says, seconds=f"{CLOCK_S:g}", count=len(answered))
    ours = statistics.median(contact.ahead_s[0] for contact in answered)
    if abs(ours) > CLOCK_S:
        says = "this machine's clock is {seconds} s ahead of those of {sites}"
        if ours > 0:
            says = "this machine's clock is {seconds} s behind those of {sites}"
        advice = "set it by NTP (timedatectl set-ntp true)"
        return problem(Area.MACHINE, "clock", says, advice, seconds=f"{abs(ours):.0f}", sites=_names(off))
    says = "the clock of {sites} differs from this one and most others"
    return warning(Area.MACHINE, "clock", says, "tell the operator there", sites=_names(off))


def _versions(answered: Sequence[Contact]) -> Iterator[Finding]:
    ours = (VERSION, PROTOCOL)
    others = [one for one in answered if one.facts and (one.facts.get("version"), one.facts.get("protocol")) != ours]
    if not others:
        yield good(Area.FILES, "version", "{version}, as the others", version=VERSION)
        return
    for contact in others:
        facts, name = contact.facts or {}, contact.rule.name
        theirs, protocol = one_line(str(facts.get("version")), 40), facts.get("protocol")
        if protocol != PROTOCOL:
            says = "{site} runs {theirs}, this site {ours}, and the two do not understand each other: {reason}"
            advice = "upgrade as docs/upgrades.md says, All sites together; until then neither gets the other's entries"
            reason = versions_differ("protocol", protocol, PROTOCOL, name, "this site") or "it names no protocol"
            yield problem(Area.FILES, "version", says, advice, site=name, theirs=theirs, ours=VERSION, reason=reason)
        else:
            says, advice = "{site} runs {theirs}, this site {ours}", "update the older one when it suits"
            yield warning(Area.FILES, "version", says, advice, site=name, theirs=theirs, ours=VERSION)


def _agreement(answered: Sequence[Contact], constitution: Constitution) -> Iterator[Finding]:
    same = True
    for contact in answered:
        facts, name = contact.facts or {}, contact.rule.name
        if facts.get("charter") != constitution.id.hex():
            same = False
            says, id = "{site} goes by another charter ({id}) than this site", one_line(str(facts.get("charter")), 16)
            advice = "compare the two (kmel-peer charter diff): one of the sites took a wrong file"
            yield problem(Area.FILES, "agreement", says, advice, site=name, id=id)
            continue
        number = max(0, int(facts["amendments"]))
        if number <= constitution.number and facts.get("head") != constitution.hash_at(number).hex():
            same = False
            says = "{site} has another amendment {number} in force than this site"
            advice = "stop, and talk to the other operators: the sites have parted"
            yield problem(Area.FILES, "agreement", says, advice, site=name, number=number)
        elif number != constitution.number:
            same = False
            says = "{site} has {theirs} amendments in force, this site {ours}"
            advice = "nothing, while both peers run: the missing ones come by themselves"
            yield warning(Area.FILES, "agreement", says, advice, site=name, theirs=number, ours=constitution.number)
    if same:
        says = "the same charter and amendments as {sites}"
        yield good(Area.FILES, "agreement", says, sites=_names(answered))


def _names(contacts: Sequence[Contact]) -> str:
    names = [contact.rule.name for contact in contacts]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
