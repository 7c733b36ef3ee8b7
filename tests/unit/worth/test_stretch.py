"""The trunk's way since a mark: every entry once, exactly, and copies told from what their author made itself."""

from __future__ import annotations

import numpy as np
import pytest

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.worth import stretch as module
from kmel_p2p.core.ledger.worth.stretch import stretch_since
from kmel_p2p.core.rounds import Stretch
from kmel_p2p.core.types import Vector
from tests.support.plain_ledgers import SIZE, PlainCodec, identities, new_ledger, next_entry

SITES = identities(3)


def stretch(ledger: Ledger, mark: Vector) -> Stretch:
    work = stretch_since(ledger, PlainCodec(), mark)
    assert work is not None
    return work()


def filled(rounds: int) -> Ledger:
    ledger = new_ledger(SITES)
    for number in range(rounds):
        for index, site in enumerate(SITES):
            ledger.offer(next_entry(site, ledger, 1000 + number, index + 3 * (number % 2)))
    return ledger


def test_stretches_one_after_the_other_are_the_whole_way() -> None:
    ledger = filled(2)
    start = new_ledger(SITES).accumulator.trunk()
    first = stretch(ledger, {})
    middle = ledger.accumulator.trunk()
    for number in range(3):
        for index, site in enumerate(SITES):
            ledger.offer(next_entry(site, ledger, 3000 + number, 9 + index))
    second = stretch(ledger, first.until)
    assert second.until == ledger.vector
    np.testing.assert_allclose(first.half_way, (start + middle) / 2, atol=1e-7)
    np.testing.assert_allclose(second.half_way, (middle + ledger.accumulator.trunk()) / 2, atol=1e-7)
    moved = np.zeros(SIZE)
    for part in (*first.parts, *second.parts):
        np.add.at(moved, part.positions, part.values)
    np.testing.assert_allclose(moved, ledger.accumulator.trunk() - start, atol=1e-7)
    assert [(part.first, part.number) for part in first.parts] == [(1, 2)] * 3
    assert stretch_since(ledger, PlainCodec(), second.until) is None
    assert stretch_since(new_ledger(SITES), PlainCodec(), {}) is None


def test_a_long_way_is_measured_in_pieces_in_which_every_author_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = filled(6)
    size = len(ledger.accepted.log(SITES[0].key).get(1).payload)  # type: ignore[union-attr]
    monkeypatch.setattr(module, "MAX_PAYLOAD_BYTES", 7 * size)
    mark: Vector = {}
    seen: dict[SiteKey, list[int]] = {site.key: [] for site in SITES}
    lengths = []
    while (work := stretch_since(ledger, PlainCodec(), mark)) is not None:
        found = work()
        lengths.append(len(found.parts))
        for part in found.parts:
            seen[part.author] += range(part.first, part.number + 1)
        mark = found.until
    assert all(numbers == [1, 2, 3, 4, 5, 6] for numbers in seen.values())
    assert lengths[0] == 3
    assert len(lengths) == 3


def test_what_votes_or_amendments_took_out_is_nobodys_worth() -> None:
    ledger = filled(3)
    ledger.accepted.withdrawn[SITES[1].key] = 2
    found = {part.author: (part.first, part.number) for part in stretch(ledger, {}).parts}
    assert found[SITES[1].key] == (1, 1)
    assert found[SITES[0].key] == (1, 3)


@pytest.mark.parametrize(("hidden", "expected"), [(False, (1, 0)), (True, (0, 1))])
def test_a_copy_is_its_authors_who_knew_the_other_entry_and_alike_where_neither_says_so(
    hidden: bool, expected: tuple[int, int]
) -> None:
    ledger = new_ledger(SITES)
    original, copying, honest = SITES
    for site, position in ((original, 0), (honest, 5)):
        ledger.offer(next_entry(site, ledger, 1000, position))
    changes: dict[str, object] = {"base": {}, "context": bytes(32)} if hidden else {}
    copy = next_entry(copying, ledger, 1010, 0, **changes)
    assert ledger.offer(copy).applied or hidden
    parts = {part.author: part for part in stretch(ledger, {}).parts}
    if copying.key not in parts:
        pytest.fail("the copy stands in the ledger: a base may name less than its author knew")
    assert (parts[copying.key].copies, parts[copying.key].alike) == expected
    assert parts[original.key].copies == 0
    assert (parts[honest.key].copies, parts[honest.key].alike) == (0, 0)


def test_a_copy_of_an_entry_before_the_stretch_is_seen() -> None:
    ledger = new_ledger(SITES)
    ledger.offer(next_entry(SITES[0], ledger, 1000, 0))
    mark = stretch(ledger, {}).until
    ledger.offer(next_entry(SITES[1], ledger, 1010, 0))
    (part,) = stretch(ledger, mark).parts
    assert (part.author, part.copies) == (SITES[1].key, 1)
