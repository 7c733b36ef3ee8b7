"""What goes together, and what its score is made of."""

from __future__ import annotations

import pytest

from kmel_p2p.agreement.errors import LocalError, WireError
from kmel_p2p.agreement.notice import Need, Offer, content_of, decode_content, encode_content
from kmel_p2p.core.board.matching import Match, matches
from tests.support.board_mesh import identities, posted

WHO = identities(4)
NAMES = {site.key: name for site, name in zip(WHO, ("north", "south", "east", "west"), strict=True)}
LOGD = Need(assay_endpoint="logD", unit="log", stage="discovery", size_class=9)


def found(*given: Need | Offer, reachable: int = 4) -> list[Match]:
    """Matches of one notice of each site."""
    notices = [(posted(site, body=encode_content(content)), content) for site, content in zip(WHO, given, strict=False)]
    return matches(notices, NAMES, {site.key for site in WHO[:reachable]})


def test_two_needs_of_one_assay_endpoint_go_together_once_however_it_is_spelt() -> None:
    (match,) = found(LOGD, Need(assay_endpoint="Log-D", unit="LOG", stage="discovery", size_class=12))
    assert match.score == sum(match.reasons.values()) == 50 + 15 + 15 + 10 + 10


@pytest.mark.parametrize(
    ("other", "score"),
    [
        (Offer(what="data", assay_endpoint="logD", unit="log", stage="discovery", size_class=5), 95),
        (Offer(what="data", assay_endpoint="logD", unit="mol/L", size_class=0), 60),
        (Offer(what="compute"), 30),
        (Offer(what="data", assay_endpoint="hERG", unit="log", stage="discovery", size_class=20), None),
        (Offer(what="data", assay_endpoint="logD", sites=("west",)), None),
    ],
)
def test_an_offer_is_scored_by_what_it_has_in_common(other: Offer, score: int | None) -> None:
    assert [match.score for match in found(LOGD, other)] == ([] if score is None else [score])


def test_the_best_comes_first_and_who_is_away_counts_less() -> None:
    near = Offer(what="data", assay_endpoint="logD", unit="log")
    scores = [
        (match.other.author, match.score) for match in found(LOGD, near, Offer(what="compute"), near, reachable=3)
    ]
    assert scores == [(WHO[1].key, 75), (WHO[3].key, 65), (WHO[2].key, 30)]


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ({"kind": "need"}, "assay_endpoint"),
        ({"kind": "offer", "what": "model"}, "package"),
        ({"kind": "offer", "what": "data", "package": "x 1.0"}, "offer of a model"),
        ({"kind": "need", "assay_endpoint": "logD", "text": "\x1b[2J"}, "text"),
        ({"kind": "need", "assay_endpoint": "logD", "baseline_error": float("inf")}, "baseline_error"),
        ({"kind": "poem"}, "kind"),
    ],
)
def test_what_an_operator_gets_wrong_is_named(raw: dict[str, object], problem: str) -> None:
    with pytest.raises(LocalError, match=problem):
        content_of(raw)


def test_a_text_too_long_when_encoded_is_refused_with_its_size() -> None:
    with pytest.raises(LocalError, match="2048"):
        encode_content(Need(assay_endpoint="logD", text="漢" * 600, in_return="漢" * 120, sites=("a" * 32,) * 16))


@pytest.mark.parametrize("body", [b"\x80", b"\xc0", encode_content(LOGD) + b"\xc0", b"\x81\xa4kind\xa4need"])
def test_a_body_that_says_nothing_is_a_wire_error(body: bytes) -> None:
    with pytest.raises(WireError):
        decode_content(body)
