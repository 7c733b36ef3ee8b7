"""The contribution report as a page, in English or Korean (`/contribution?lang=ko`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kmel_p2p.site.observe.contribution import NOTES, interval_text, notes_of
from kmel_p2p.site.observe.status import bytes_text
from kmel_p2p.site.page.words import other_language
from kmel_p2p.web.templates import Filters, page

WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "contributions": "Contributions",
        "status": "This site",
        "lead": "Federation {federation}, as {site} measures it. Worth: by how much an author's entries made the loss "
        "on this site's own held-out compounds smaller, with a 95 % interval, over {stretches} stretches of the run. "
        "It stays at this site.",
        "nothing": "Nothing is measured yet: the peer does so while it trains, in averaging mode ledger.",
        "site": "site",
        "entries": "entries",
        "bytes": "bytes",
        "reachable": "reachable",
        "size_class": "size class",
        "weight": "weight",
        "about": "assay endpoint",
        "worth": "worth",
        "share": "share of the gain",
        "late": "in the second half",
        "beyond_weight": "beyond its weight",
        "interval": "{value:.4f} ({low:.4f} to {high:.4f})",
        **NOTES,
    },
    "ko": {
        "contributions": "기여도",
        "status": "이 기관",
        "lead": "연합 {federation}의 기여도를 {site} 기관이 측정한 것입니다. 가치는 각 기관의 엔트리가 이 기관이 따로 "
        "떼어 둔 화합물의 손실을 얼마나 줄였는지를 뜻하며, 95 % 신뢰구간과 함께 학습 구간 {stretches}개에 걸쳐 "
        "측정했습니다. 이 값은 기관 밖으로 나가지 않습니다.",
        "nothing": "아직 측정된 것이 없습니다. 평균 방식이 ledger일 때 피어가 학습하면서 측정합니다.",
        "site": "기관",
        "entries": "엔트리",
        "bytes": "전송량",
        "reachable": "연결된 시간",
        "size_class": "데이터 크기 등급",
        "weight": "가중치",
        "about": "시험 항목",
        "worth": "가치",
        "share": "전체 개선 중 비율",
        "late": "후반부의 가치",
        "beyond_weight": "가중치를 넘는 가치",
        "interval": "{value:.4f} ({low:.4f}~{high:.4f})",
        "few": "엔트리가 너무 적어 판단할 수 없습니다",
        "copies": "엔트리 {entries}개 중 {count}개가 이미 알고 있던 다른 기관의 엔트리를 거의 그대로 베낀 것입니다",
        "alike": "엔트리 {entries}개 중 {count}개가 다른 기관의 엔트리와 거의 같고, 어느 쪽도 상대를 알았다고 밝히지 "
        "않았습니다",
        "harm": "하나 이상의 시험 항목에 해를 끼쳤습니다",
        "no_effect": "어느 시험 항목에도 뚜렷한 영향이 없습니다",
    },
}
"""Language -> word -> text."""

HEAD = (
    *("site", "entries", "bytes", "reachable", "size_class", "weight"),
    *("about", "worth", "share", "late", "beyond_weight"),
)
"""Columns."""


def contribution_values(report: Mapping[str, Any], lang: str) -> Mapping[str, object]:
    """What the template `contribution.html` shows.

    Args:
        report: as `site.observe.contribution.contribution_report` gives it.
        lang: a key of `WORDS`.
    """
    words = WORDS[lang]
    notes = {
        name: [words[kind].format(**fields) for kind, fields in notes_of(facts, own_site=name == report["site"])]
        for name, facts in report["authors"].items()
    }
    return {
        "r": report,
        "w": words,
        "lang": lang,
        "head": HEAD,
        "lead": words["lead"].format(**{name: report[name] for name in ("federation", "site", "stretches")}),
        "notes": {name: said for name, said in notes.items() if said},
        "other": other_language(lang),
    }


def contribution_page(report: Mapping[str, Any], lang: str) -> str:
    """The report as one self-contained page; for the arguments see `contribution_values`."""
    return page("kmel_p2p.site.page", "contribution.html", contribution_values(report, lang), FILTERS)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


FILTERS: Filters = {"size": bytes_text, "percent": _percent, "interval": interval_text}
"""Of the template `contribution.html`."""
