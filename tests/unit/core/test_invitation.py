"""The text of an invitation survives a mail, and nothing altered passes for one."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.agreement.invitation import MAX_INVITATION_CHARACTERS, PREFIX, Application, Invitation, fingerprint

NORTH, SOUTH, OTHER = Identity(b"n" * 32), Identity(b"s" * 32), Identity(b"o" * 32)


def invitation(**changes: object) -> Invitation:
    values: dict[str, object] = {
        "federation": "logd-2026",
        "site": "north",
        "key": NORTH.key.hex(),
        "addresses": ("tcp://peer.north.example:7700",),
        "secret": "5a" * 16,
        "expires": 1_800_000_000,
    }
    return Invitation.model_validate({**values, **changes})


TEXT = invitation().render(NORTH)


def test_a_text_gives_back_what_it_was_made_of_and_fits_a_few_lines() -> None:
    assert Invitation.parse(TEXT) == invitation()
    assert len(TEXT) < 320


@given(width=st.integers(8, 100), quote=st.sampled_from(["", "> ", ">> ", "  "]), end=st.sampled_from(["\n", "\r\n"]))
def test_a_mail_may_break_and_quote_it(width: int, quote: str, end: str) -> None:
    lines = [TEXT[at : at + width] for at in range(0, len(TEXT), width)]
    assert Invitation.parse(end.join(quote + line for line in lines) + end) == invitation()


@given(at=st.integers(0, len(TEXT) - 1), to=st.sampled_from("AZaz09-_:~="))
def test_a_changed_character_is_noticed(at: int, to: str) -> None:
    changed = TEXT[:at] + to + TEXT[at + 1 :]
    read = None
    with contextlib.suppress(ConfigError):
        read = Invitation.parse(changed)
    # The last character of base64 holds bits that mean nothing.
    assert read in (None, invitation())


@given(length=st.integers(0, len(TEXT) - 1))
def test_a_part_is_no_invitation(length: int) -> None:
    with pytest.raises(ConfigError, match="paste"):
        Invitation.parse(TEXT[:length])


@pytest.mark.parametrize("text", ["", "hello", PREFIX, PREFIX + "gA", PREFIX + "A" * 400, "kmel-peer join", "x" * 9000])
def test_other_text_is_refused_in_words(text: str) -> None:
    with pytest.raises(ConfigError, match="invitation"):
        Invitation.parse(text)
    assert len(text) <= MAX_INVITATION_CHARACTERS or "x" in text


@pytest.mark.parametrize(("version", "older"), [(0, "the one that made it"), (2, "this one")])
def test_a_text_of_another_version_says_who_has_to_be_upgraded(version: int, older: str) -> None:
    with pytest.raises(ConfigError, match=f"version {version}.*reads version 1: {older} has to be upgraded"):
        Invitation.parse(TEXT.replace(PREFIX, f"kmel-invitation-{version}:"))


def test_a_text_that_another_key_signed_is_refused() -> None:
    with pytest.raises(ConfigError, match="changed on its way"):
        Invitation.parse(invitation().render(OTHER))


def test_an_application_is_for_one_invitation_one_key_and_one_name() -> None:
    made = Application.made(SOUTH, invitation(), "south", ("tcp://peer.south.example:7700",))
    assert made.answers(NORTH.key, invitation().id)
    assert not made.answers(NORTH.key, invitation(secret="5b" * 16).id)
    assert not made.answers(OTHER.key, invitation().id)
    for change in ({"name": "west"}, {"key": OTHER.key.hex()}, {"addresses": ()}):
        assert not made.model_copy(update=change).answers(NORTH.key, invitation().id)


def test_a_fingerprint_stands_for_both_keys_the_invitation_and_the_application() -> None:
    digits = fingerprint(NORTH.key, SOUTH.key, invitation().id, "ab" * 64)
    assert [len(group) for group in digits.split()] == [4] * 5
    others = {
        fingerprint(OTHER.key, SOUTH.key, invitation().id, "ab" * 64),
        fingerprint(NORTH.key, OTHER.key, invitation().id, "ab" * 64),
        fingerprint(NORTH.key, SOUTH.key, invitation(secret="5b" * 16).id, "ab" * 64),
        fingerprint(NORTH.key, SOUTH.key, invitation().id, "ac" * 64),
    }
    assert len(others | {digits}) == 5


def test_who_knows_both_keys_cannot_tell_the_digits_of_a_text_before_it_is_answered() -> None:
    """Else whoever is between the two varies texts for one and keys for the other until two fingerprints meet."""
    text = invitation()
    made = [Application.made(SOUTH, text, name, ()) for name in ("south", "south2")]
    again = Application.made(SOUTH, text, "south", ())
    first, other, same = (fingerprint(text.site_key, SOUTH.key, text.id, one.signature) for one in (*made, again))
    assert first == same != other
