"""A charter is in force exactly when every founder signed exactly this text's meaning."""

from __future__ import annotations

import pytest

from kmel_p2p.agreement.charter import Charter, CharterDocument, SiteRule
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import Identity

FOUNDERS = [Identity(bytes([n]) * 32) for n in range(1, 4)]


def draft() -> CharterDocument:
    sites = tuple(SiteRule(name=f"site{n}", key=i.key.hex()) for n, i in enumerate(FOUNDERS))
    return CharterDocument(
        charter=Charter(federation="trial", sites=sites, assay_endpoints=(AssayEndpoint(name="logS"),))
    )


def signed() -> CharterDocument:
    document = draft()
    for founder in FOUNDERS:
        document = document.signed_by(founder)
    return document


def test_a_fully_signed_charter_is_in_force_and_survives_its_file() -> None:
    document = signed()
    again = CharterDocument.parse(document.render(), "charter.toml")
    assert again == document
    assert again.problems() == []
    assert again.require_in_force("charter.toml").id == document.charter.id


def test_every_missing_signature_is_listed() -> None:
    document = draft().signed_by(FOUNDERS[1])
    with pytest.raises(ConfigError, match=r"'site0' has not signed.*'site2' has not signed"):
        document.require_in_force("charter.toml")


def test_changing_a_rule_after_signing_voids_the_signatures() -> None:
    text = signed().render().replace("max_lead = 4", "max_lead = 5")
    assert len(CharterDocument.parse(text, "c").problems()) == 3


def test_comments_do_not_change_the_id() -> None:
    text = "# a remark\n" + signed().render()
    assert CharterDocument.parse(text, "c").charter.id == signed().charter.id


def test_a_stranger_cannot_sign() -> None:
    with pytest.raises(ConfigError, match="not a site of 'trial'"):
        draft().signed_by(Identity(b"x" * 32))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_lead", "max_laed", r"unknown key 'charter\.pace\.max_laed'; did you mean 'max_lead'"),
        ("bits = 2\n", 'bits = "two"\n', r"charter\.averaging\.bits"),
        ("kept = 64", "kept = 5000", "larger than chunk"),
        ('name = "site1"', 'name = "site0"', "listed twice"),
        ("start_sites = 0", "start_sites = 9", "start_sites is 9"),
        ('kind = "regression"', 'kind = "regresion"', "regression"),
        ("dropout = 0.1", "dropout = nan", "dropout"),
        (
            "version = 1\n",
            "version = 2\nmodal = 1\n",
            r"^charter\.toml: this charter is of version 2, .*: upgrade kmel-peer here$",
        ),
    ],
)
def test_a_wrong_key_or_value_is_named(old: str, new: str, message: str) -> None:
    text = draft().render()
    assert old in text
    with pytest.raises(ConfigError, match=message):
        CharterDocument.parse(text.replace(old, new, 1), "charter.toml")


def test_a_key_that_is_no_curve_point_is_refused() -> None:
    bad = "02" + "00" * 31
    text = draft().render().replace(FOUNDERS[0].key.hex(), bad)
    with pytest.raises(ConfigError, match="'site0' is no Ed25519"):
        CharterDocument.parse(text, "charter.toml")
