"""The first lines of a report say what is so: for all sites, for some, for none, and what it cost."""

from __future__ import annotations

from typing import Any

import pytest

from kmel_p2p.simulate.payoff import in_words, payoff_of
from tests.support.report_sample import sample_details, sample_report


def details_of(*pairs: tuple[float, float | None]) -> dict[str, Any]:
    """(predicts, best local) of sites a, b, ..."""
    sites = {name: {"predicts": own, "best_local": alone} for name, (own, alone) in zip("abcd", pairs, strict=False)}
    return {"sites": sites, "run_s": 300.0, "exposed": "Every site saw the others' signed entries"}


@pytest.mark.parametrize(
    ("pairs", "begins"),
    [
        ([(0.8, 1.0), (0.9, 1.0)], "It pays for every site: what the sites predict with errs 15 % less than the best"),
        ([(0.8, 1.0), (1.0, 1.0)], "It pays for 1 of 2 sites (a): what the sites predict with errs 10 % less"),
        ([(1.0, 1.0), (1.001, 1.0)], "It makes no difference"),
        ([(1.1, 1.0), (1.0, 1.0)], "It does not pay: what the sites predict with errs 5 % more"),
    ],
)
def test_whom_it_pays_for(pairs: list[tuple[float, float]], begins: str) -> None:
    assert in_words(sample_report(), details_of(*pairs))[0].startswith(begins)


def test_a_site_that_would_do_better_alone_is_named() -> None:
    text = in_words(sample_report(), details_of((0.5, 1.0), (1.2, 1.0)))[0]
    assert "for 1 of 2 sites (a)" in text
    assert text.endswith("\N{MINUS SIGN}50 % to +20 % by site; b would do better alone.")


def test_without_a_stack_nothing_is_claimed() -> None:
    details = details_of((0.5, None), (0.6, 1.0))
    assert payoff_of(details) is None
    told = in_words(sample_report(), details)
    assert told == [
        "It cost each site 3 entries, 12.3 kB of traffic, and 5 min on this machine.",
        "Every site saw the others' signed entries; no structure and no measurement left a site.",
    ]


def test_the_sample_pays() -> None:
    payoff = payoff_of(sample_details())
    assert payoff is not None
    assert payoff.change == pytest.approx(0.654 / 0.8 - 1)
    assert payoff.gaining == ["north", "south"]
