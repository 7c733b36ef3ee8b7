"""The headers that a vector names, brought over from the vector before: always those that a look at the table finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.core.ledger.log import ledger as judging
from kmel_p2p.core.ledger.log.entry import Entry, SignedHeader, context_hash
from kmel_p2p.core.ledger.log.head_table import HeadTable
from kmel_p2p.core.ledger.log.outcome import Verdict
from kmel_p2p.core.ledger.rules import entry_check
from kmel_p2p.core.ledger.rules.rules import Rules
from kmel_p2p.core.ledger.rules.validity import Refusal, check_alone
from kmel_p2p.core.roster_vector import RosterOrder
from tests.support.plain_ledgers import identities, new_ledger, next_entry

SITES = identities(5)
ORDER = RosterOrder(site.key for site in SITES)
MOST = 3


def logs() -> list[list[Entry]]:
    """Three entries of each site, made in turn."""
    ledger = new_ledger(SITES)
    made: list[list[Entry]] = [[] for _ in SITES]
    for number in range(MOST):
        for place, site in enumerate(SITES):
            entry = next_entry(site, ledger, units=500 + 10 * number + place)
            assert ledger.offer(entry).verdict is Verdict.APPLIED
            made[place].append(entry)
    return made


LOGS = logs()

numbers = st.lists(st.integers(0, MOST), min_size=len(SITES), max_size=len(SITES))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), numbers),
        st.tuples(st.just("hold"), st.tuples(st.integers(0, 4), st.integers(1, MOST))),
        st.tuples(st.just("drop"), st.tuples(st.integers(0, 4), st.integers(1, MOST))),
    ),
    min_size=1,
    max_size=30,
)


@given(steps)
@settings(deadline=None, max_examples=200)
def test_what_is_carried_over_is_what_the_table_holds(draws) -> None:  # type: ignore[no-untyped-def]
    table = HeadTable(ORDER)
    held: dict[tuple[int, int], SignedHeader] = {}
    for what, draw in draws:
        if what == "hold":
            place, number = draw
            held[draw] = LOGS[place][number - 1]
            table.holds(held[draw])
        elif what == "drop":
            place, number = draw
            held.pop(draw, None)
            table.drop(SITES[place].key, [number])
        else:
            for named in (table.named_by(np.array(draw)), table.named_here(np.array(draw))):
                asked = [(int(place), draw[place]) for place in ORDER.by_key if draw[place]]
                expected = [held[at] for at in asked if at in held]
                assert list(named) == expected
                assert len(named) == len(expected)
                assert named.unknown == len(asked) - len(expected)
                assert list(named.norms) == sorted(header.norm_squared for header in expected)
                assert named.context == context_hash(header.hash for header in expected)
                assert all(header in named for header in expected)


def test_an_entry_is_checked_alone_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[SignedHeader] = []

    def counted(header: SignedHeader, rules: Rules) -> Refusal | None:
        checked.append(header)
        return check_alone(header, rules)

    ledger = new_ledger(SITES)
    monkeypatch.setattr(judging, "check_alone", counted)
    monkeypatch.setattr(entry_check, "check_alone", counted)
    for entry in (LOGS[0][0], LOGS[1][0], LOGS[3][0], LOGS[2][0]):
        ledger.offer(entry)
    assert ledger.head(SITES[3].key) == 1
    assert checked == [LOGS[0][0], LOGS[1][0], LOGS[3][0], LOGS[2][0]]
