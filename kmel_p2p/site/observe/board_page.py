"""The board as one self-contained page, in English or Korean (`/board?lang=ko`)."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "board": "Board",
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


def language(query: str) -> str:
    """The language that a request asks for: `lang=ko` in what follows the question mark, else English."""
    return "ko" if "lang=ko" in query.split("&") else "en"


def board_page(rows: Sequence[Mapping[str, Any]], matched: Sequence[Mapping[str, Any]], lang: str) -> str:
    """The page.

    Args:
        rows: as `site.notice_board.notice_rows` gives them.
        matched: as `site.notice_board.match_rows` gives them.
        lang: a key of `WORDS`.
    """
    words = WORDS[lang]
    answers = {row["id"]: row for row in rows if row["kind"] == "answer"}
    head = ("notice", "site", "about", "stage", "size", "error", "in_return", "until", "answers")
    body = "".join(_row(row, answers, words) for row in rows if row["kind"] != "answer")
    other, label = ("en", "English") if lang == "ko" else ("ko", "한국어")
    table = (
        f"<table><tr>{''.join(f'<th>{html.escape(words[each])}</th>' for each in head)}</tr>{body}</table>"
        if body
        else f"<p>{html.escape(words['nothing'])}</p>"
    )
    pairs = "".join(
        f"<li>{match['score']}: {html.escape(match['need'])} + {html.escape(match['other'])}</li>" for match in matched
    )
    together = f"<h2>{html.escape(words['matches'])}</h2><ul>{pairs}</ul>" if pairs else ""
    return (
        f'<!doctype html><html lang="{lang}"><meta charset="utf-8"><meta http-equiv="refresh" content="60">'
        f"<title>{html.escape(words['board'])}</title>"
        "<style>body{font:15px/1.5 sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}"
        "td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ddd;vertical-align:top}"
        "p{max-width:60rem}</style>"
        f'<h1>{html.escape(words["board"])} <small><a href="board?lang={other}">{label}</a></small></h1>'
        f"<p>{html.escape(words['lead'])}</p>{table}"
        f"{together}</html>"
    )


def _row(row: Mapping[str, Any], answers: Mapping[str, Mapping[str, Any]], words: Mapping[str, str]) -> str:
    kind = words[row["kind"]] + (f": {words[row['what']]}" if row["kind"] == "offer" else "")
    about = " ".join(part for part in (row["assay_endpoint"], row["unit"] and f"({row['unit']})") if part)
    about = "<br>".join(html.escape(part) for part in (about, row.get("package", ""), row["text"]) if part)
    size = words["fewer"].format(count=2 ** row["size_class"]) if row["size_class"] else ""
    said = "<br>".join(
        html.escape(
            f"{answer['site']}: {words['interested' if answer['interested'] else 'declined']}. {answer['text']}"
        )
        for each in row["answers"]
        if (answer := answers.get(each)) is not None
    )
    error = "" if row.get("baseline_error") is None else f"{row['baseline_error']:g}"
    cells = (
        f"{html.escape(row['id'])}<br>{html.escape(kind)}",
        f"{html.escape(row['site'])}<br>{html.escape(words['reachable' if row['reachable'] else 'away'])}",
        about,
        html.escape(words[row["stage"]] if row["stage"] else ""),
        html.escape(size),
        error,
        html.escape(row.get("in_return", "")),
        row["until"],
        said,
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
