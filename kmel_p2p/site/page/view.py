"""What a peer's page shows, from plain facts to the values of its template. Touches neither the peer nor the disk."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from kmel_p2p.site.observe.course import Point
from kmel_p2p.site.observe.egress_summary import KINDS
from kmel_p2p.site.observe.egress_today import Totals
from kmel_p2p.site.observe.federation_payoff import payoff_in_words
from kmel_p2p.site.observe.headline import BEST_LOCAL, SAME, site_payoff
from kmel_p2p.site.observe.next_step import next_step
from kmel_p2p.site.observe.status import MemberStatus, SitePhase, StatusDocument, bytes_text, span_text
from kmel_p2p.site.page.federation_map import federation_map
from kmel_p2p.site.page.words import WORDS, other_language
from kmel_p2p.web.curves import Curve, chart
from kmel_p2p.web.korean import in_korean

MOST_AUTHORS = 10
"""Authors with a curve; more could not be told apart."""

MOST_ENDPOINTS = 4
"""Assay endpoints whose curves are seen at once; those of the others are opened."""

POINTS = 120
"""Of one curve, at most."""

ALL_ENTRIES = 2**31


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the page is made from, as of one moment.

    Attributes:
        at: seconds since 1970.
        samples, rounds: series of `observe.course`.
        sent: bytes since the first start.
        today: what left today.
        result: of the newest comparison of the final models, if there was one.
        held: (number, bytes, seconds since) of the entry that waits for approval; None: none does.
        asks: whether entries wait at all; `approved_until`: up to which number they do not.
        exposes: what a site shows the others, in words of each language.
    """

    at: float
    status: StatusDocument
    samples: Sequence[Point]
    rounds: Sequence[Point]
    sent: int
    today: Totals
    result: Mapping[str, Any] | None
    held: tuple[int, int, float] | None
    asks: bool
    approved_until: int
    exposes: Mapping[str, str]


def page_values(facts: Facts, lang: str) -> dict[str, Any]:
    """What the template `page.html` shows, in one of the languages of `WORDS`."""
    w, status, tell = WORDS[lang], facts.status, in_korean if lang == "ko" else str
    return {
        "w": w,
        "lang": lang,
        "other": other_language(lang),
        "status": status,
        "headline": headline(facts, lang),
        "federation_payoff": _federation_payoff(status, w),
        "as_of": w["as_of"].format(time=_clock(facts.at), up=span_text(status.process.uptime_s)),
        "alarms": [
            (tell(alarm.what), tell(alarm.text), w["ago"].format(time=span_text(alarm.age_s)))
            for alarm in status.alarms
        ],
        "phase": w[f"phase_{status.phase.value}"],
        "reason": tell(status.reason or status.phase.meaning),
        "waits": [wait.beside(status.reason, tell) for wait in status.waits],
        "phase_style": _PHASE_STYLE.get(status.phase, ""),
        "next": w[f"step_{next_step(status)}"],
        "map": Markup(federation_map(status.site, status.members, w)),
        "members": [_member(member, w, tell) for member in status.members],
        "vectors": Markup(_vectors(facts, w)),
        "authors": len(status.averaging.vector),
        "most_authors": MOST_AUTHORS,
        "curves": _curves(facts, w),
        "most_endpoints": MOST_ENDPOINTS,
        "fold": w[_fold(facts.rounds)],
        "has_local": site_payoff(facts.result) is not None,
        "egress": _egress(facts.today, w, tell),
        "held": _held(facts, w),
        "facts": _figures(status, w, tell),
    }


_PHASE_STYLE = {
    SitePhase.TRAINING: "use", SitePhase.COMPLETE: "use", SitePhase.WAITING: "local", SitePhase.FAILED: "stop",
}  # fmt: skip


def headline(facts: Facts, lang: str) -> list[str]:
    """Does it pay; at what cost; what was exposed."""
    payoff, averaging, w = site_payoff(facts.result), facts.status.averaging, WORDS[lang]
    if payoff is None:
        verdict = f"{w['undecided']}."
    else:
        change = payoff.change or 0.0
        if not payoff.gaining and not payoff.unclear:
            said = w["pays_not"]
        elif not payoff.gaining:
            said = w["unclear" if abs(change) <= SAME else "seems" if change < 0 else "seems_not"]
        elif payoff.change is not None and payoff.change > SAME:
            said = w["mixed"]
        elif len(payoff.gaining) == payoff.count:
            said = w["pays"]
        else:
            names = ", ".join(payoff.gaining[:MOST_ENDPOINTS]) + (", …" if len(payoff.gaining) > MOST_ENDPOINTS else "")
            said = w["pays_some"].format(some=len(payoff.gaining), count=payoff.count, names=names)
        if payoff.change is not None and payoff.count > len(payoff.alone):
            how = "same" if abs(payoff.change) <= SAME else "less" if payoff.change < 0 else "more"
            said += ": " + w[how].format(change=f"{abs(100 * payoff.change):.0f}")
        verdict = f"{said}."
    cost = w["cost"].format(
        entries=averaging.published,
        limit=averaging.entry_limit or averaging.published,
        sent=bytes_text(facts.sent),
        time=span_text(_lasted(facts)),
    )
    return [verdict, cost, w["exposed"].format(exposes=facts.exposes[lang])]


def _federation_payoff(status: StatusDocument, w: Mapping[str, str]) -> str:
    """What all sites state of their payoff, in a sentence; empty where nobody does."""
    if status.federation_payoff is None:
        return ""
    return w["all_sites"].format(text=payoff_in_words(status.federation_payoff, lambda name: w[f"payoff_{name}"]))


_BUSY = {phase.value for phase in SitePhase if phase.publishes}


def _lasted(facts: Facts) -> float:
    """Seconds from the first start until now, or until this site published its last entry."""
    if not facts.samples:
        return 0.0
    end = facts.at
    if not facts.status.phase.publishes:
        busy = [point["at"] for point in facts.samples if point.get("phase") in _BUSY]
        end = max(busy, default=end)
    return max(0.0, float(end) - float(facts.samples[0]["at"]))


def _clock(at: float) -> str:
    return f"{datetime.datetime.fromtimestamp(at, datetime.UTC):%Y-%m-%d %H:%M:%S}"


def _member(member: MemberStatus, w: Mapping[str, str], tell: Callable[[str], str]) -> dict[str, str]:
    linked = member.outbound or member.inbound
    ways = {
        name: "open" if works else "spare" if linked else "shut"
        for name, works in (("to", member.outbound), ("from", member.inbound))
    }
    return {
        "name": member.name,
        "state": w[member.state],
        "style": "good" if member.state == "alive" else "bad" if member.state in ("dead", "blocked") else "advised",
        **{name: w[way] for name, way in ways.items()},
        **{f"{name}_style": {"open": "good", "spare": "quiet", "shut": "bad"}[way] for name, way in ways.items()},
        "trip": "" if member.rtt_ms is None else f"{member.rtt_ms:.1f} ms",
        "heard": w["never"] if member.heard_age_s is None else w["ago"].format(time=span_text(member.heard_age_s)),
        "entries": f"{member.entries_applied:,}",
        "out": bytes_text(member.bytes_out),
        "in": bytes_text(member.bytes_in),
        "problem": tell(member.problem),
    }


# ---- curves -----------------------------------------------------------------------------------------------------


def _vectors(facts: Facts, w: Mapping[str, str]) -> str:
    """The newest entry of each author over time: this site's own, and those furthest ahead and behind."""
    own, vector = facts.status.site, facts.status.averaging.vector
    others = sorted((name for name in vector if name != own), key=lambda name: -vector[name])
    room = MOST_AUTHORS - 1
    if len(others) > room:
        others = others[: room // 2] + others[-(room - room // 2) :]
    points = [*_thin(facts.samples), {"at": facts.at, "vector": vector}]
    unit, seconds = _unit(facts.at - points[0]["at"])
    curves = [
        Curve(name, [((point["at"] - facts.at) / seconds, point.get("vector", {}).get(name, 0)) for point in points],
              own=name == own)
        for name in ([own] if own in vector else []) + sorted(others)
    ]  # fmt: skip
    return chart(curves, label=w["vectors_lead"], across=w[unit], steps=True, ticks=lambda value: f"{abs(value):g}")


def _unit(span_s: float) -> tuple[str, float]:
    for name, seconds, most in (("seconds", 1.0, 180), ("minutes", 60.0, 10_800), ("hours", 3600.0, 259_200)):
        if span_s <= most:
            return name, seconds
    return "days", 86_400.0


def _thin(points: Sequence[Point]) -> list[Point]:
    """Every n-th point, with the newest."""
    step = -(-len(points) // POINTS) or 1
    return list(points[::-1][::step][::-1])


def _fold(rounds: Sequence[Point]) -> str:
    """Scores of the test fold are there only where every round was scored on it."""
    newest = rounds[-1].get("scores", {}) if rounds else {}
    return "test" if newest and all("test" in scores for scores in newest.values()) else "valid"


def _curves(facts: Facts, w: Mapping[str, str]) -> list[dict[str, object]]:
    fold, rounds = _fold(facts.rounds), _thin(facts.rounds)
    compared = {endpoint["name"]: endpoint for endpoint in (facts.result or {}).get("endpoints", ())}
    names = dict.fromkeys(name for point in rounds for name in point.get("scores", {}))
    found = []
    for name in names:
        points = [
            (float(point["number"]), float(point["scores"][name][fold]))
            for point in rounds
            if fold in point.get("scores", {}).get(name, {})
        ]
        endpoint = compared.get(name, {})
        local = endpoint.get("stacked", {}).get(BEST_LOCAL, {})
        levels = [
            (w[word], float(value))
            for word, value in (
                ("best_local", local.get("test" if fold == "test" else "held_out")),
                ("predicts", endpoint.get("predicted", {}).get(fold)),
            )
            if value is not None
        ]
        drawn = chart(
            [Curve(name, points, own=True)], label=f"{w['curves']}: {name}", across=w["own_entries"], levels=levels,
            from_zero=False,
        )  # fmt: skip
        if drawn:
            found.append({"name": name, "unit": endpoint.get("unit", ""), "drawn": Markup(drawn)})
    return found


# ---- tables -----------------------------------------------------------------------------------------------------


def _egress(today: Totals, w: Mapping[str, str], tell: Callable[[str], str]) -> dict[str, Any]:
    """Rows by partner, columns by what messages hold."""
    sums: dict[str, dict[str, int]] = {}
    for (to, kind), total in today.items():
        sort = KINDS.get(kind, w["control"])
        partner = sums.setdefault(to, {})
        partner[sort] = partner.get(sort, 0) + total.bytes
    sorts = [sort for sort in (*KINDS.values(), w["control"]) if any(sort in partner for partner in sums.values())]
    rows = [
        (
            to,
            [bytes_text(partner[sort]) if sort in partner else "" for sort in sorts],
            bytes_text(sum(partner.values())),
        )
        for to, partner in sorted(sums.items())
    ]
    total_bytes = sum(sum(partner.values()) for partner in sums.values())
    return {"sorts": [tell(sort) for sort in sorts], "rows": rows, "all": bytes_text(total_bytes)}


def _held(facts: Facts, w: Mapping[str, str]) -> list[str]:
    if facts.held is None:
        waits = w["held_none"]
    else:
        number, size, age_s = facts.held
        waits = w["held_one"].format(number=number, size=bytes_text(size), age=span_text(age_s))
    if not facts.asks or facts.approved_until >= ALL_ENTRIES:
        return [waits, w["hold_off"]]
    return [waits, w["hold_until"].format(number=facts.approved_until) if facts.approved_until else w["hold_on"]]


def _figures(status: StatusDocument, w: Mapping[str, str], tell: Callable[[str], str]) -> list[tuple[str, str]]:
    trainer: str = tell(status.trainer.state)
    if status.trainer.progress:
        stage, done, total = status.trainer.progress
        trainer += f", {tell(stage)} {done:,} / {total:,}"
    if status.trainer.rss_bytes:
        trainer += f", {bytes_text(status.trainer.rss_bytes)}"
    if status.trainer.limits:
        trainer += f"; {tell(status.trainer.limits)}"
    found = [
        (w["mode"], status.mode),
        *((tell(name), tell(text)) for name, text in status.averaging.summary),
        (w["loss"], "" if status.loss is None else f"{status.loss:.4f}"),
        (w["trainer"], trainer),
        (w["memory"], bytes_text(status.process.rss_bytes)),
        (w["traffic"], f"{bytes_text(status.egress.bytes_out)} / {bytes_text(status.egress.bytes_in)}"),
        (w["version"], status.process.version),
        (w["last_error"], tell(status.last_error)),
    ]
    return [(name, text) for name, text in found if text]
