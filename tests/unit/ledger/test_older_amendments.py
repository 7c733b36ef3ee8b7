"""Who builds on what was made under an amendment goes by it: an older one, with looser caps, is no way out."""

from __future__ import annotations

from dataclasses import replace

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.entry import NO_AMENDMENTS, Entry, create
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Verdict
from kmel_p2p.core.ledger.rules.rules import Rules
from kmel_p2p.core.ledger.rules.validity import Refusal
from tests.support.plain_ledgers import next_entry
from tests.testbed.ledger.toy import ToyCodec, toy_charter, toy_identities, toy_trunk

SITES = toy_identities(4)
HOSTILE, B, C, D = SITES
CHARTER = toy_charter(SITES, {"weight_cap": 2.0, "trusted_after": 1}, {"start_sites": 1})
BEFORE = Constitution(CHARTER)


def ledger_of(*entries: Entry, amended: bool = True) -> Ledger:
    ledger = Ledger(Accumulator.from_trunk(toy_trunk()), ToyCodec(), Rules.of(CHARTER, 7, toy_trunk()))
    ledger.amend(campaign() if amended else BEFORE)
    for entry in entries:
        assert ledger.offer(entry).verdict is Verdict.APPLIED
    return ledger


def campaign() -> Constitution:
    """One that allows less weight than the charter."""
    after = dict.fromkeys((site.name for site in BEFORE.roster.values()), 1)
    document = BEFORE.draft(
        campaign={"number": 2, "entries": 6, "after": after, "settings": {"averaging.weight_cap": 1.0}}
    )
    for site in SITES[1:]:
        document = document.signed_by(site, BEFORE)
    return BEFORE.followed_by(document)


def made(site: Identity, ledger: Ledger, weight: int = 1000) -> Entry:
    return next_entry(site, ledger, 1000 + ledger.head(site.key), charter_id=CHARTER.id, weight=weight)


def under_the_charter(entry: Entry, author: Identity, ledger: Ledger) -> Entry:
    """The same entry, signed as if its author knew no amendment."""
    return create(
        author,
        charter_id=CHARTER.id,
        number=entry.number,
        previous=ledger.head_hash(author.key),
        basis=replace(entry.basis, amendment=0, amendment_hash=NO_AMENDMENTS),
        weight=2**15,
        steps=entry.steps,
        norm_squared=entry.norm_squared,
        codec_id=entry.codec_id,
        payload=entry.payload,
    )


def before_and_after() -> tuple[Ledger, Ledger]:
    """Two ledgers with an entry of every site: one under the charter, and one that knows the campaign."""
    first = ledger_of(amended=False)
    begun = []
    for site in SITES:
        begun.append(made(site, first))
        first.offer(begun[-1])
    return first, ledger_of(*begun)


def test_who_had_an_entry_made_under_the_campaign_cannot_leave_it_out_and_its_own_signature_proves_it() -> None:
    _, ledger = before_and_after()
    newer = made(B, ledger)
    assert newer.basis.amendment == 1
    assert ledger.offer(newer).verdict is Verdict.APPLIED
    bad = under_the_charter(made(HOSTILE, ledger), HOSTILE, ledger)
    outcome = ledger.offer(bad)
    assert (outcome.verdict, outcome.refusal) == (Verdict.REFUSED, Refusal.BASE_AMENDED)
    fault = ledger.faults[HOSTILE.key]
    assert ledger_of().offer_proof(fault.evidence).faults == [fault]
    # Who does not know the campaign yet decides nothing.
    assert ledger_of(amended=False).offer_proof(fault.evidence).faults == []


def test_who_was_cut_off_and_had_nothing_newer_is_honest() -> None:
    first, ledger = before_and_after()
    assert ledger.offer(made(B, ledger)).verdict is Verdict.APPLIED
    late = made(HOSTILE, first, weight=2**15)
    assert ledger.offer(late).verdict is Verdict.APPLIED
    # The others build on it, whatever it was made under.
    assert ledger.offer(made(C, ledger)).verdict is Verdict.APPLIED
    assert not ledger.faults
