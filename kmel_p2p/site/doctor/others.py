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
from kmel_p2p.site.doctor.findings import Area, Finding, good, problem
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
    name, check = contact.rule.name, f"to {contact.rule.name}"
    if contact.facts is not None:
        return good(Area.NETWORK, check, f"answers at {contact.address}")
    if not contact.failures:
        return Finding(Area.NETWORK, check, "note", f"{name} has no address: it dials, and nobody dials it")
    todo = f"do what the message says, or ask the operator of {name}; kmel-peer doctor there sees the other side"
    return problem(Area.NETWORK, check, "; ".join(contact.failures), todo)


def _inward(contact: Contact) -> Finding:
    name, check = contact.rule.name, f"from {contact.rule.name}"
    if contact.looked is None:
        return Finding(Area.NETWORK, check, "note", f"{name} did not look: {contact.not_looked}")
    reached = [row["address"] for row in contact.looked if not row["problem"]]
    if reached:
        return good(Area.NETWORK, check, f"{name} reaches this site at {', '.join(reached)}")
    if not contact.looked:
        text = f"{name} knows no address of this site, so it cannot dial it"
        todo = "set network.advertise, unless this site is only to dial out: then outbound_only = true"
        return problem(Area.NETWORK, check, text, todo)
    text = f"{name} does not reach this site: {'; '.join(row['problem'] for row in contact.looked)}"
    todo = "open the port in the firewall and forward it, or correct network.advertise; else outbound_only = true"
    return problem(Area.NETWORK, check, text, todo)


def _clock(answered: Sequence[Contact]) -> Finding:
    off = [contact for contact in answered if abs(contact.ahead_s[0]) > CLOCK_S + contact.ahead_s[1]]
    if not off:
        return good(Area.MACHINE, "clock", f"within {CLOCK_S:g} s of {len(answered)} other sites")
    ours = statistics.median(contact.ahead_s[0] for contact in answered)
    if abs(ours) > CLOCK_S:
        way = "behind" if ours > 0 else "ahead of"
        text = f"this machine's clock is {abs(ours):.0f} s {way} those of {_names(off)}"
        return problem(Area.MACHINE, "clock", text, "set it by NTP (timedatectl set-ntp true)")
    text = f"the clock of {_names(off)} differs from this one and most others"
    return Finding(Area.MACHINE, "clock", "warning", text, "tell the operator there")


def _versions(answered: Sequence[Contact]) -> Iterator[Finding]:
    ours = (VERSION, PROTOCOL)
    others = [one for one in answered if one.facts and (one.facts.get("version"), one.facts.get("protocol")) != ours]
    if not others:
        yield good(Area.FILES, "version", f"{VERSION}, as the others")
        return
    for contact in others:
        facts = contact.facts or {}
        text = f"{contact.rule.name} runs {str(facts.get('version'))[:40]}, this site {VERSION}"
        if facts.get("protocol") != PROTOCOL:
            yield _other_protocol(contact.rule.name, facts.get("protocol"), text)
        else:
            yield Finding(Area.FILES, "version", "warning", text, "update the older one when it suits")


def _other_protocol(name: str, protocol: object, text: str) -> Finding:
    differ = versions_differ("protocol", protocol, PROTOCOL, name, "this site")
    todo = "upgrade as docs/upgrades.md says (All sites together); nothing is lost meanwhile, and neither gets entries"
    return problem(Area.FILES, "version", f"{text}: {differ or 'it does not say which protocol it speaks'}", todo)


def _agreement(answered: Sequence[Contact], constitution: Constitution) -> Iterator[Finding]:
    same = True
    for contact in answered:
        facts, name = contact.facts or {}, contact.rule.name
        if facts.get("charter") != constitution.id.hex():
            same = False
            text = f"{name} goes by another charter ({str(facts.get('charter'))[:16]}) than this site"
            yield problem(
                Area.FILES,
                "agreement",
                text,
                "compare the two (kmel-peer charter diff): one of the sites took a wrong file",
            )
            continue
        number = max(0, int(facts["amendments"]))
        if number <= constitution.number and facts.get("head") != constitution.hash_at(number).hex():
            same = False
            text = f"{name} has another amendment {number} in force than this site"
            todo = "stop, and talk to the other operators: the sites have parted"
            yield problem(Area.FILES, "agreement", text, todo)
        elif number != constitution.number:
            same = False
            text = f"{name} has {number} amendments in force, this site {constitution.number}"
            todo = "nothing, while both peers run: the missing ones come by themselves"
            yield Finding(Area.FILES, "agreement", "warning", text, todo)
    if same:
        yield good(Area.FILES, "agreement", f"the same charter and amendments as {_names(answered)}")


def _names(contacts: Sequence[Contact]) -> str:
    names = [contact.rule.name for contact in contacts]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
