"""A site that asks again and again is answered with a bounded number of bytes."""

from __future__ import annotations

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Send
from kmel_p2p.core.ledger.sync.messages import Bodies, EntryRange, Want
from kmel_p2p.core.ledger.sync.pull import ANSWERED_AT_ONCE, ANSWERED_PER_SECOND, AnswerBudget
from kmel_p2p.core.types import SECOND, Lane
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import toy_world

ASKER, OTHER = SiteKey(b"a" * 32), SiteKey(b"o" * 32)


def test_the_budget_is_each_sites_own_and_comes_back_with_time() -> None:
    budget = AnswerBudget()
    answer = [Send(ASKER, Bodies((bytes(ANSWERED_AT_ONCE // 2),)), Lane.BULK)]
    budget.spend(ASKER, answer, 0)
    assert budget.left(ASKER, 0) == ANSWERED_AT_ONCE // 2
    budget.spend(ASKER, answer, 0)
    assert budget.left(ASKER, 0) == 0
    assert budget.left(OTHER, 0) == ANSWERED_AT_ONCE
    assert budget.left(ASKER, SECOND // 4) == ANSWERED_PER_SECOND // 4
    assert budget.left(ASKER, 60 * SECOND) == ANSWERED_AT_ONCE


def test_a_thousand_questions_get_a_bounded_answer_and_the_other_sites_get_theirs() -> None:
    federation = LedgerFederation(toy_world(3, padding=100_000), seed=1)
    federation.start_all()
    assert federation.run(300 * SECOND, until=federation.all_complete)
    antientropy, now = federation.averaging(0).antientropy, federation.network.now
    author = federation.sites[0].key
    want = Want((EntryRange(author, 1, 6),), ())

    def answered(to: SiteKey, times: int) -> int:
        for _ in range(times):
            antientropy.receive(to, want, now)
        sent = [effect for effect in iter(federation.averaging(0).poll, None) if isinstance(effect, Send)]
        return sum(len(body) for effect in sent for body in effect.message.entries)  # type: ignore[attr-defined]

    once = answered(OTHER, 1)
    assert once > 600_000
    assert ANSWERED_AT_ONCE <= answered(ASKER, 1000) < ANSWERED_AT_ONCE + once
    assert answered(OTHER, 1) == once
