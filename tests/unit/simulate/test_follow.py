"""What a person sees of a run that has no terminal: lines."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from kmel_p2p.simulate.follow import View
from kmel_p2p.site.observe.status import AveragingStatus, ProcessStatus, SitePhase, StatusDocument, TrainerStatus


def document(phase: SitePhase) -> StatusDocument:
    return StatusDocument(
        site="north",
        key="ab",
        federation="f",
        charter_id="cd",
        phase=phase,
        reason="",
        process=ProcessStatus(pid=1, rss_bytes=2, uptime_s=3.0),
        trainer=TrainerStatus("finishing", progress=("comparison", 340, 960)),
        mode="ledger",
        averaging=AveragingStatus(vector={"north": 40}, digest="ef", published=40, applied=120, entry_limit=40),
        members=(),
    )


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (SitePhase.LISTENING, "listening 40/40+120 comparison 340/960"),
        (SitePhase.TRAINING, "training 40/40+120"),
    ],
)
def test_lines_show_how_far_a_site_is_with_what_it_still_does(phase: SitePhase, expected: str) -> None:
    out = io.StringIO()
    with View(Console(file=out, width=80)) as view:
        view.show({"north": document(phase), "south": None}, 1.0)
    assert out.getvalue() == f"   1.0 s  north {expected}   south no answer yet\n"
