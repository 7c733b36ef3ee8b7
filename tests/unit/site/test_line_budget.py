"""What one site can make this one write and keep is bounded."""

from __future__ import annotations

from typing import Any

import structlog
from structlog.testing import capture_logs

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.events import EntryRefused
from kmel_p2p.net.settings import MIB, TransportSettings
from kmel_p2p.site.modes.ledger import LedgerMode
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.observe.line_budget import BURST, REFILL_S, SUBJECTS, LineBudget
from kmel_p2p.site.observe.reporting import Reporter

HOSTILE, HONEST = SiteKey(b"h" * 32), SiteKey(b"o" * 32)


def test_a_flood_of_refused_entries_writes_few_lines_and_hides_no_other_site() -> None:
    now = 0.0
    structlog.reset_defaults()
    published: list[dict[str, Any]] = []
    activity = Activity(lambda: now)
    reporter = Reporter(activity, LedgerMode(), lambda: {HOSTILE: "hostile", HONEST: "honest"}, published.append)
    with capture_logs() as lines:
        for number in range(10_000):
            now = number / 100
            reporter.report(EntryRefused(HOSTILE, HONEST, "the signature is not the author's"))
        reporter.report(EntryRefused(HONEST, HOSTILE, "it ran ahead"))
    about = [line for line in lines if line["sender"] == "hostile"]
    assert BURST <= len(about) <= BURST + 100 / REFILL_S + 1
    assert sum(line.get("left_out", 0) for line in about) <= 10_000 - len(about)
    assert activity.events["LineLeftOut"] == 10_000 - len(about)
    assert activity.events["EntryRefused"] == 10_001
    assert [line["sender"] for line in lines if line["sender"] != "hostile"] == ["honest"]
    assert any("hostile" in alarm.what for alarm in activity.alarms)
    assert len(published) == 10_001


def test_a_budget_fills_up_again_and_remembers_a_bounded_number_of_subjects() -> None:
    now = 0.0
    budget = LineBudget(lambda: now)
    taken = [budget.take("refused", "a") for _ in range(BURST + 3)]
    assert taken == [0] * BURST + [None] * 3
    now = REFILL_S
    assert budget.take("refused", "a") == 3
    assert budget.take("refused", "a") is None
    now = 10 * BURST * REFILL_S
    assert [budget.take("refused", "a") for _ in range(BURST)] == [1] + [0] * (BURST - 1)
    for number in range(SUBJECTS + 10):
        budget.take("refused", str(number))
    assert len(budget._budgets) == SUBJECTS


def test_what_waits_for_one_site_is_bounded() -> None:
    assert TransportSettings.carrying(8 * MIB).queue == 32 * MIB
    assert TransportSettings.carrying(100 * MIB).queue == 200 * MIB
    assert TransportSettings.carrying(8 * MIB).reassembly == 1024 * MIB
