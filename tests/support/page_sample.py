"""A peer's page made from made-up facts: four sites, of which one cannot be reached, and a run that goes on."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from kmel_p2p.site.observe.egress_record import Total
from kmel_p2p.site.observe.status import (
    Ages,
    Alarm,
    AveragingStatus,
    EgressStatus,
    MemberStatus,
    ProcessStatus,
    SitePhase,
    StatusDocument,
    TrainerStatus,
    WaitStatus,
)
from kmel_p2p.site.page.app import PeerPages, Sources
from kmel_p2p.site.page.view import Facts

START = 1_764_500_000.0
SITES = ("north", "south", "east", "west")
HOSTILE = '"><script>document.title="taken"</script><img src=x onerror=alert(1)>'


def members(extra: str = "") -> tuple[MemberStatus, ...]:
    """The three other sites: one well, one that is only dialled, one out of reach for the reason `extra`."""
    return (
        MemberStatus("south", "ab" * 32, "alive", 60.0, 0.4, 12.3, 11.0, "tcp://south:7700", 812_000, 790_000, 12,
                     outbound=True, inbound=True),
        MemberStatus("east", "cd" * 32, "alive", 60.0, 1.4, 48.9, 51.0, "", 401_000, 395_000, 9, inbound=True),
        MemberStatus("west", "ef" * 32, "dead", 400.0, 431.0, None, None, "tcp://west:7700", 99_000, 88_000, 5,
                     problem=f"tcp://west:7700 does not answer {extra}".strip()),
    )  # fmt: skip


def status(**changes: Any) -> StatusDocument:
    """A status document of site north."""
    document = StatusDocument(
        site="north",
        key="12" * 32,
        federation="logd-2026",
        charter_id="34" * 32,
        phase=SitePhase.TRAINING,
        reason="",
        process=ProcessStatus(1, 92_000_000, 4321.0, version="0.9"),
        trainer=TrainerStatus("training", 2, 610_000_000),
        mode="ledger",
        averaging=AveragingStatus(
            vector={"north": 12, "south": 12, "east": 9, "west": 5}, digest="56" * 32, published=12, applied=26,
            entry_limit=40, summary=(("published", "12 of 40 (newest: 4.0 s ago)"), ("applied", "26 of other sites")),
        ),
        ages=Ages(4.0, 2.0, 4.0, 1.0, 1.0),
        egress=EgressStatus(1_273_000, 1_312_000, 1_100_000, 120),
        members=members(),
        loss=0.3127,
    )  # fmt: skip
    return dataclasses.replace(document, **changes)


def trouble() -> dict[str, Any]:
    """Changes of `status` for a site with alarms and waits."""
    return {
        "alarms": (Alarm("unreachable west", "site west is not reachable", 400.0),),
        "waits": (WaitStatus("their newest entries are missing", ("west", "east"), 310.0, 1490.0),),
        "phase": SitePhase.WAITING,
        "reason": "the lead over the slowest site is used up",
    }


def comparison(own: str = "stack", test: float = 0.52) -> dict[str, Any]:
    """The result of a comparison over two assay endpoints, one of them best predicted alone."""

    def endpoint(name: str, side: str, score: float) -> dict[str, Any]:
        stacked = {
            "own": side, "unusual": side, "difference": [-0.05, 0.01], "held_out": 80,
            "best_local": {"held_out": 0.61, "test": 0.6}, "stack": {"held_out": 0.54, "test": score},
        }  # fmt: skip
        return {"name": name, "unit": "log10(mol/L)", "train": 200, "stacked": stacked,
                "predicted": {"valid": score, "test": score}}  # fmt: skip

    return {"endpoints": [endpoint("solubility", own, test), endpoint("logd", "best_local", 0.6)]}


def facts(document: StatusDocument | None = None, **changes: Any) -> Facts:
    """Of `document`, after an hour of training."""
    samples = [
        {"at": START + 60.0 * minute, "sent": 20_000 * minute,
         "vector": {name: int(minute / 60 * most) for name, most in zip(SITES, (12, 12, 9, 5), strict=True)}}
        for minute in range(61)
    ]  # fmt: skip
    rounds = [
        {"at": START + 300.0 * number, "number": number, "loss": 1 / number,
         "scores": {"solubility": {"valid": 0.55 + 0.5 / number}, "logd": {"valid": 0.6 + 0.3 / number}}}
        for number in range(1, 13)
    ]  # fmt: skip
    made = Facts(
        at=START + 3600.0,
        status=document or status(),
        samples=samples,
        rounds=rounds,
        sent=1_273_000,
        today={("south", "Bodies"): Total(12, 700_000), ("south", "Ping"): Total(900, 90_000),
               ("east", "Bodies"): Total(9, 380_000), ("east", "Ping"): Total(700, 15_000)},
        result=None,
        held=None,
        asks=False,
        approved_until=0,
        exposes={"en": "Sites saw each other's entries", "ko": "기관들이 서로의 엔트리를 보았습니다"},
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


REPORT: dict[str, Any] = {"site": "north", "federation": "logd-2026", "stretches": 4, "endpoints": {}, "authors": {}}


class ShownPeer:
    """Pages of a peer whose facts a test changes."""

    def __init__(self, token: str = "") -> None:
        self.facts = facts()
        self.notices: list[dict[str, Any]] = []
        self.pages = PeerPages(
            Sources(
                status=lambda: self.facts.status,
                events=Counter(MemberJoined=2),
                facts=lambda document: dataclasses.replace(self.facts, status=document),
                contribution=lambda: REPORT,
                board=lambda: (self.notices, []),
            ),
            token,
        )
