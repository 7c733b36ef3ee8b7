"""Status on a small terminal: what matters is there, and no name, state or reason is cut."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
from rich.console import Console

from kmel_p2p.cli import language
from kmel_p2p.cli.status_view import status_view
from kmel_p2p.site.observe.federation_payoff import FederationPayoff
from kmel_p2p.site.observe.next_step import STEPS
from kmel_p2p.site.observe.status import Alarm, StatusDocument, WaitStatus
from kmel_p2p.site.state.orders import MAX_REASON
from tests.support.page_sample import members, status

LONG = [f"a-site-with-a-very-long-name-{number:03}" for number in range(12)]
REASON = ("its entries made our loss rise, ask Ms Kim before this is lifted " * 10)[:MAX_REASON].strip()


def crowded() -> StatusDocument:
    """Everything at once: many long names, alarms, waits, and a site that is blocked for a long reason."""
    many = [dataclasses.replace(members()[number % 3], name=name) for number, name in enumerate(LONG)]
    blocked = dataclasses.replace(members()[2], name="evil-corp", state="blocked", problem=REASON)
    return status(
        members=(*many, blocked),
        alarms=tuple(Alarm(f"harm of {name}", "your trainer sees the loss rise by its entries", 60.0) for name in LONG),
        waits=tuple(WaitStatus("their newest entries are missing", (name,), 310.0, 1490.0) for name in LONG),
        scores={"a_very_long_assay_endpoint_name_in_plasma": {"valid": 0.5}},
    )


def shown(document: StatusDocument, width: int = 80, most: int | None = None) -> str:
    console = Console(width=width, file=io.StringIO(), record=True, color_system=None)
    console.print(status_view(document, most))
    return console.export_text()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_name_no_state_and_no_reason_is_cut(width: int) -> None:
    text = shown(crowded(), width)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert max(map(len, text.splitlines())) <= width
    for name in LONG:
        assert f"harm of {name}" in " ".join(text.split())
    assert "blocked" in text
    assert REASON in " ".join(text.split())
    assert "a_very_long_assay_endpoint_name_in_plasma" in text.replace("\n", "").replace(" ", "")


def test_on_a_full_screen_phase_and_next_step_are_above_the_fold() -> None:
    text = shown(crowded(), most=3)
    lines = text.splitlines()[:24]
    above = "\n".join(lines)
    assert lines[1].strip() == "needs attention"
    assert "and 9 more alarms: kmel-peer status shows all" in above
    assert "training" in above
    assert STEPS["look"][:40] in above
    assert "and 9 more waits" in text


def test_each_site_shows_how_far_it_is_behind_and_each_endpoint_whether_it_pays() -> None:
    south, east, west = members()
    told = (dataclasses.replace(south, behind=0), dataclasses.replace(east, behind=7), west)
    scores, compared = {"logd": {"valid": 0.61}}, {"logd": {"predicts": 0.57, "best_local": 0.6}}
    lines = shown(status(members=told, scores=scores, compared=compared)).splitlines()
    ends = next(line.index("behind") + len("behind") for line in lines if "behind" in line)
    rows = {name: next(line for line in lines if line.split()[:1] == [name]) for name in ("south", "east", "west")}
    assert {name: row[:ends].split()[-1] for name, row in rows.items()} == {"south": "0", "east": "7", "west": "-"}
    text = "\n".join(lines)
    assert "logd  valid 0.6100  predicts with 0.5700, best local 0.6000 (-5.0%)" in text
    assert "trip" not in shown(status(members=told), width=60)


def test_with_nothing_to_say_it_fits_24_lines() -> None:
    lines = shown(status(members=members()[:2])).splitlines()
    assert len(lines) <= 24
    assert "needs attention" not in lines[1]


def test_one_line_says_what_all_sites_state_of_their_payoff(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "all sites" not in shown(status())
    payoff = FederationPayoff(
        {"north": "better", "south": "better", "east": "better", "west": "no evidence"},
        {"logd": {"better": 3, "no evidence": 1, "worse": 0}, "herg": {"better": 0, "no evidence": 1, "worse": 0}},
        10,
    )
    document = StatusDocument.parse(json.loads(json.dumps(status(federation_payoff=payoff).as_dict())))
    assert document.federation_payoff == payoff
    text = " ".join(shown(document).split())
    assert "all sites it pays for 3 of 4 sites (1 of 2 assay endpoints; half of the gains are 10 % or more)" in text
    monkeypatch.setattr(language, "korean", lambda: True)
    assert "연합 전체 기관 4곳 중 3곳에서 효과가 있습니다" in " ".join(shown(document).split())
