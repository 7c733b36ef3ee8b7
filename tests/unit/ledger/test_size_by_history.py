"""A site weighs at most as many measurements as its rounds so far, and the next one, could read."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from kmel_p2p.core.effects import Emit
from kmel_p2p.core.ledger.bounded_sizes import PLAUSIBLE_CLASS
from kmel_p2p.core.ledger.events import SizeImplausible
from kmel_p2p.core.ledger.log.accumulator import WEIGHT_ONE
from kmel_p2p.core.ledger.log.entry import Entry
from kmel_p2p.core.types import SECOND
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import toy_world

ROUND_READS = 10 * 64
"""Steps per entry times batch size, of one assay endpoint."""


@dataclass(frozen=True, slots=True)
class Says:
    size_class: int
    outbound_only: bool = False


def weights(claimed: int, entries: int) -> tuple[LedgerFederation, list[Entry]]:
    """A run of three sites of which the last says it has 2**(claimed - 1) measurements; the first one's entries."""
    made = LedgerFederation(toy_world(3, {"entry_limit": entries, "weight_cap": 3.0, "trusted_after": 1}), seed=1)
    made.start_all()
    loud = made.sites[2].key
    for view in made.views:
        view.descriptor = lambda key: Says(claimed if key == loud else 8)  # type: ignore[method-assign, assignment, return-value]
    assert made.run(600 * SECOND, until=made.all_complete)
    return made, [entry for entry in made.averaging(0).ledger.entries() if entry.author == made.sites[0].key]


@pytest.mark.parametrize(("claimed", "named"), [(20, False), (PLAUSIBLE_CLASS + 1, True), (63, True)])
def test_a_claimed_size_empties_nobodys_entries(claimed: int, named: bool) -> None:
    made, own = weights(claimed, 8)
    # Of the others each has 128 measurements; a round reads 640, so that the first entry has at least 128 of 896.
    assert own[0].weight / WEIGHT_ONE > 128 / (2 * 128 + 2 * ROUND_READS)
    assert own[-1].weight < own[0].weight
    assert own[-1].weight / WEIGHT_ONE > 128 / (2 * 128 + 2 * 8 * ROUND_READS)
    told = {event.site for event in made.events(0, SizeImplausible)}  # type: ignore[attr-defined]
    assert told == ({made.sites[2].key} if named else set())


def test_a_site_that_is_as_large_as_it_says_has_its_weight_from_the_first_entry() -> None:
    _, own = weights(10, 3)
    # 512 measurements beside twice 128: a round reads more than that. (The first entries may not know of both yet.)
    assert round(own[-1].weight / WEIGHT_ONE, 2) == 0.17


def test_who_takes_an_implausible_size_back_is_named_no_longer() -> None:
    made, _ = weights(63, 2)
    averaging = made.averaging(0)
    for view in made.views:
        view.descriptor = lambda key: Says(8)  # type: ignore[method-assign, assignment, return-value]
    averaging.sizes.of(made.sites[2].key)
    told = [effect.event for effect in iter(averaging.poll, None) if isinstance(effect, Emit)]
    assert told == [SizeImplausible(made.sites[2].key, 8, implausible=False)]
