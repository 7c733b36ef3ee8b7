"""Whether a base leaves something out is told from a few doubtful authors: never otherwise than from all of them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.core.ledger.log.entry import Entry
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Verdict
from kmel_p2p.core.ledger.rules.proof import fork_of
from kmel_p2p.core.ledger.rules.validity import Refusal, check_base
from kmel_p2p.core.ledger.snapshot.snapshot import decode
from tests.support.plain_ledgers import identities, new_ledger, next_entry

SITES = identities(4)

steps = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.lists(st.booleans(), min_size=4, max_size=4),
        st.lists(st.integers(0, 2), min_size=4, max_size=4),
    ),
    min_size=4,
    max_size=20,
)


def both_ways(ledger: Ledger, entry: Entry) -> Refusal | None:
    """The verdict on an entry from the doubtful authors, after comparing it with that from all."""
    named = ledger.accepted.at_base(entry.author, entry.base)
    doubtful = ledger.accepted.doubtful(entry.base)
    quick = check_base(entry, named, ledger.rules, named.unknown, doubtful, named.norms)
    assert quick is check_base(entry, list(named), ledger.rules, named.unknown)
    if ledger.accepted.closed(entry.author, entry.base):
        assert quick is not Refusal.BASE_STALE
    return quick


def grown(draws: list[tuple[int, list[bool], list[int]]]) -> tuple[Ledger, list[Entry]]:
    """A ledger of everything, and what sites made that saw only some of it, sometimes with too little in the base."""
    everything, made = new_ledger(SITES), []
    ledgers = [new_ledger(SITES) for _ in SITES]
    for author, sees, drops in draws:
        own = ledgers[author]
        for entry in [e for e in made if sees[SITES.index(next(s for s in SITES if s.key == e.author))]]:
            own.offer(entry)
        base = dict(own.vector)
        for site, drop in zip(SITES, drops, strict=True):
            if site is not SITES[author] and site.key in base:
                base[site.key] = max(0, base[site.key] - drop)
        lazy = next_entry(SITES[author], own, base=base)
        if everything.accepted.reaches(lazy.base):
            both_ways(everything, lazy)
        entry = next_entry(SITES[author], own, units=500 + len(made))
        assert own.offer(entry).verdict is Verdict.APPLIED
        assert everything.offer(entry).verdict is Verdict.APPLIED
        made.append(entry)
    return everything, made


@given(steps)
@settings(deadline=None, max_examples=40)
def test_few_doubtful_authors_decide_as_all_do(draws) -> None:  # type: ignore[no-untyped-def]
    everything, made = grown(draws)
    for entry in made:
        both_ways(everything, entry)


@given(steps, st.data())
@settings(deadline=None, max_examples=30)
def test_they_do_after_a_log_ended_and_after_a_snapshot(draws, data) -> None:  # type: ignore[no-untyped-def]
    everything, made = grown(draws)
    cut = data.draw(st.sampled_from(made))
    author = next(site for site in SITES if site.key == cut.author)
    other = next_entry(
        author, everything, number=cut.number, previous=cut.previous, units=7, base=cut.base, context=cut.basis.context
    )
    everything.end_log(fork_of(cut, other))
    for entry in made:
        both_ways(everything, entry)
    adopted = new_ledger(SITES)
    adopted.adopt(decode(everything.snapshot().encode()))
    for entry in made:
        both_ways(adopted, entry)


def test_a_base_without_what_its_heads_were_made_on_is_stale() -> None:
    ledger = new_ledger(SITES)
    for site in (0, 1, 2):
        ledger.offer(next_entry(SITES[site], ledger))
    base = {key: number for key, number in ledger.vector.items() if key != SITES[0].key}
    entry = next_entry(SITES[3], ledger, base=base)
    doubtful = ledger.accepted.doubtful(entry.base)
    assert [key for key, is_doubtful in zip(ledger.accepted.order, doubtful, strict=True) if is_doubtful] == [
        SITES[0].key
    ]
    assert both_ways(ledger, entry) is Refusal.BASE_STALE
