"""Tables of commands are Korean on Korean screens: titles, columns and what stands in them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Group
from rich.table import Table

from kmel_p2p.agreement.privacy import OUTSIDE
from kmel_p2p.cli.leak_view import leak_in_words
from kmel_p2p.cli.privacy import _words
from kmel_p2p.cli.screen import Screen
from kmel_p2p.learn.audit.own_entries import Shown
from kmel_p2p.learn.evaluate.advice import NO_EVIDENCE, in_words
from kmel_p2p.learn.privacy.plan import Plan
from kmel_p2p.web.korean import catalogue, in_korean
from tests.support.scripts import script

AS_THEY_ARE = {"", "95 %", "<", ">", "{1}"}


def columns_of(tree: ast.AST) -> Iterator[str]:
    """Columns that a loop gives to tables, where it goes over a tuple of texts."""
    for loop in ast.walk(tree):
        if not isinstance(loop, ast.For) or not isinstance(loop.target, ast.Name):
            continue
        calls = [node.func.attr for node in ast.walk(loop) if isinstance(node, ast.Call)
                 and isinstance(node.func, ast.Attribute)]  # fmt: skip
        if "add_column" in calls and isinstance(loop.iter, ast.Tuple):
            yield from (node.value for node in loop.iter.elts if isinstance(node, ast.Constant))


def test_columns_and_titles_of_every_table_are_korean() -> None:
    source: Any = script("source_texts.py")
    said = set()
    for file in source.sources():
        if "cli" in file.path.parts:
            said |= set(columns_of(file.tree))
            for name, call in file.calls():
                if name == "Table":
                    said |= {source.numbered(text) for key in call.keywords if key.arg == "title"
                             for text in file.texts(key.value)}  # fmt: skip
    assert len(said) > 30
    assert {text for text in said - AS_THEY_ARE if catalogue().gettext(text) == text} == set()


def test_a_table_within_another_is_drawn_in_korean(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmel_p2p.cli.language.korean", lambda: True)
    table = Table(title="sites")
    table.add_column("name")
    table.add_row("share")  # a site may have any name
    Screen(width=60).print(Group(table))
    told = capsys.readouterr().out
    assert "기관" in told
    assert "이름" in told
    assert "share" in told


def test_what_entries_show_and_whether_it_pays_is_korean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmel_p2p.cli.language.korean", lambda: True)
    shown = Shown(own_share=0.25, bits=8, right=4, compounds=3, picked_at_1pct=None, picked_auroc=None)
    assert leak_in_words(shown) == "자체 비트의 25.0%(50.0% 정답), 화합물 3개는 전체"
    advice = {
        "advice": NO_EVIDENCE, "rejected": False, "same": False, "score": 0.5, "best_local": 0.6, "change_pct": -16.7,
        "interval_pct": (-30.0, 2.0), "fold_error": (3.2, 4.0),
        "decisions": [{"threshold": 10, "unit": "uM", "wrong": 1, "of": 9, "wrong_best_local": 3}],
    }  # fmt: skip
    assert in_words(advice, "RMSE", in_korean) == (
        "RMSE은(는) 0.500(으)로, 자체 최선 모델의 0.600보다 16.7 % 낮습니다(95 %: -30.0 ~ +2.0 %). "
        "값의 오차는 4.00배 대신 3.20배입니다. 10 uM에서 결정 9개 중 1개가 틀립니다: 2개 적음."
    )


def test_what_privacy_costs_is_korean_to_the_last_word() -> None:
    for beyond, cost in ((False, "약 2 %"), (True, "2 % 이상")):
        plan = Plan(
            steps=100,
            batch=2500,
            rate=0.5,
            noise=3.12,
            epsilon=7.97,
            delta=1e-5,
            strain=1.0,
            cost_pct=2.0,
            beyond=beyond,
        )
        assert in_korean(_words(plan)).strip() == (
            f"기관당 화합물 2,500개로 100스텝(비율 0.5), 노이즈 3.12: epsilon 7.97, RMSE {cost} 높음"
        )
    assert in_korean(OUTSIDE).startswith("epsilon에 들지 않는 것: 검증으로")
