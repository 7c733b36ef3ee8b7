"""The board as a page, in English or Korean (`/board?lang=ko`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kmel_p2p.site.page.words import other_language
from kmel_p2p.web.templates import page

WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "board": "Board",
        "status": "This site",
        "lead": "What the sites of this federation need and offer. Every notice is signed by its site.",
        "matches": "What goes together",
        "nothing": "Nothing stands on the board yet: kmel-peer board post need --endpoint NAME is how to begin.",
        "need": "need",
        "offer": "offer",
        "data": "data",
        "model": "model",
        "compute": "compute",
        "service": "service",
        "notice": "notice",
        "site": "site",
        "about": "assay endpoint",
        "stage": "stage",
        "discovery": "discovery",
        "preclinical": "preclinical",
        "clinical": "clinical",
        "size": "own measurements",
        "error": "error of the best own model",
        "in_return": "in return",
        "until": "until",
        "answers": "answers",
        "interested": "interested",
        "declined": "not interested",
        "score": "score",
        "reachable": "reachable",
        "away": "not reachable",
        "fewer": "fewer than {count:,}",
    },
    "ko": {
        "board": "게시판",
        "status": "이 기관",
        "lead": "이 연합의 기관들이 필요로 하는 것과 제공하는 것입니다. 모든 게시글에는 해당 기관의 서명이 있습니다.",
        "matches": "서로 맞는 게시글",
        "nothing": "아직 게시글이 없습니다. kmel-peer board post need --endpoint NAME 으로 시작하십시오.",
        "need": "수요",
        "offer": "제공",
        "data": "데이터",
        "model": "모델",
        "compute": "연산 자원",
        "service": "서비스",
        "notice": "게시글",
        "site": "기관",
        "about": "시험 항목",
        "stage": "단계",
        "discovery": "후보물질 발굴",
        "preclinical": "비임상",
        "clinical": "임상",
        "size": "보유 측정값 수",
        "error": "자체 최선 모델의 오차",
        "in_return": "대가",
        "until": "유효 기한",
        "answers": "답변",
        "interested": "관심 있음",
        "declined": "관심 없음",
        "score": "점수",
        "reachable": "연결됨",
        "away": "연결되지 않음",
        "fewer": "{count:,}개 미만",
    },
}
"""Language -> word -> text."""


HEAD = ("notice", "site", "about", "stage", "size", "error", "in_return", "until", "answers")


def board_values(
    rows: Sequence[Mapping[str, Any]], matched: Sequence[Mapping[str, Any]], lang: str
) -> Mapping[str, object]:
    """What the template `board.html` shows.

    Args:
        rows: as `site.notice_board.notice_rows` gives them.
        matched: as `site.notice_board.match_rows` gives them.
        lang: a key of `WORDS`.
    """
    words = WORDS[lang]
    answers = {row["id"]: row for row in rows if row["kind"] == "answer"}
    return {
        "w": words,
        "lang": lang,
        "head": HEAD,
        "notices": [_notice(row, answers, words) for row in rows if row["kind"] in ("need", "offer")],
        "matched": matched,
        "other": other_language(lang),
    }


def board_page(rows: Sequence[Mapping[str, Any]], matched: Sequence[Mapping[str, Any]], lang: str) -> str:
    """The page by itself; for the arguments see `board_values`."""
    return page("kmel_p2p.site.page", "board.html", board_values(rows, matched, lang))


def _notice(
    row: Mapping[str, Any], answers: Mapping[str, Mapping[str, Any]], words: Mapping[str, str]
) -> Mapping[str, object]:
    named = " ".join(part for part in (row["assay_endpoint"], row["unit"] and f"({row['unit']})") if part)
    said = [answers[each] for each in row["answers"] if each in answers]
    return {
        "id": row["id"],
        "kind": words[row["kind"]] + (f": {words[row['what']]}" if row["kind"] == "offer" else ""),
        "site": row["site"],
        "reachable": words["reachable" if row["reachable"] else "away"],
        "about": [part for part in (named, row.get("package", ""), row["text"]) if part],
        "stage": words[row["stage"]] if row["stage"] else "",
        "size": words["fewer"].format(count=2 ** row["size_class"]) if row["size_class"] else "",
        "error": "" if row.get("baseline_error") is None else f"{row['baseline_error']:g}",
        "in_return": row.get("in_return", ""),
        "until": row["until"],
        "answers": [
            f"{each['site']}: {words['interested' if each['interested'] else 'declined']}. {each['text']}"
            for each in said
        ],
    }
